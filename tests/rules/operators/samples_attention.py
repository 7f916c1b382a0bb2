"""Sample calls for every operator of `shardwright.rules.operators.attention`."""

from tests.support.harness import aten, t


def sdpa(op, **kwargs):
    q, kv = (2, 8, 5, 4), (2, 4, 5, 4)
    same = [(op, (t(*q), t(*q, seed=1), t(*q, seed=2)), kwargs)]
    odd = [(op, (t(1, 3, 6, 4), t(1, 3, 7, 4), t(1, 3, 7, 6)), {})]
    masks = [
        (op, (t(*q), t(*q, seed=1), t(*q, seed=2), t(*mask)), {})
        for mask in ((5, 5), (2, 1, 5, 5), (2, 8, 5, 5), (1, 8, 1, 5))
    ]
    grouped = [
        (op, (t(*q), t(*kv, seed=1), t(*kv, seed=2)), {"enable_gqa": True}),
        (op, (t(2, 9, 5, 4), t(2, 3, 5, 4), t(2, 3, 5, 4)), {"enable_gqa": True, "is_causal": True}),
    ]
    flat = [(op, (t(6, 5, 4), t(6, 5, 4, seed=1), t(6, 5, 4, seed=2)), {})]
    return [*same, *odd, *masks, *grouped, *flat]


SAMPLES = {
    "aten::_scaled_dot_product_flash_attention_for_cpu": [
        (aten._scaled_dot_product_flash_attention_for_cpu.default, (t(2, 8, 5, 4), t(2, 8, 5, 4), t(2, 8, 5, 4)), {}),
        (
            aten._scaled_dot_product_flash_attention_for_cpu.default,
            (t(1, 3, 6, 4), t(1, 3, 6, 4), t(1, 3, 6, 4), 0.0, True),
            {},
        ),
    ],
    "aten::scaled_dot_product_attention": sdpa(aten.scaled_dot_product_attention.default),
}

UNCHECKED = {
    "aten::_scaled_dot_product_cudnn_attention": "needs a GPU; see test_attention_on_gpus",
    "aten::_scaled_dot_product_efficient_attention": "needs a GPU",
    "aten::_scaled_dot_product_flash_attention": "needs a GPU",
}
