"""Attention: batch and heads are cut; queries go with their key-value group, or are cut within every group."""

from shardwright.layout.sizes import Size
from shardwright.rules.registry import Entry
from shardwright.rules.rule import Call, Dims, Rule, Term


def attention_rule(call: Call) -> Rule | None:
    """``scaled_dot_product_attention`` in its forms: ``b (g r) s d!, b g t! d!, b g t! v! -> b (g r) s v!``.

    With ``is_causal`` the query dim is whole too, as position matters. Masks broadcast. None with dropout, or where
    heads do not group.
    """
    if call.arguments.get("dropout_p", 0.0):
        return None
    query, key, value = call.operands[:3]
    if query.ndim < 3 or key.ndim != query.ndim or value.ndim != query.ndim:
        return None
    lead = query.ndim - 3
    heads, kv_heads = query.shape[lead], key.shape[lead]
    grouped = heads != kv_heads
    if grouped and not (isinstance(heads, int) and isinstance(kv_heads, int) and heads % kv_heads == 0):
        return None
    sizes: dict[str, Size] = {f"b{i}": size for i, size in enumerate(query.shape[:lead])}
    sizes["g"] = kv_heads
    if grouped:
        sizes["r"] = heads // kv_heads  # type: ignore[operator]
    sizes.update(s=query.shape[-2], t=key.shape[-2], d=query.shape[-1], v=value.shape[-1])
    batch = tuple(Term((f"b{i}",)) for i in range(lead))
    head = Term(("g", "r")) if grouped else Term(("g",))
    # Where r is cut, each rank's queries are as many of every group, and the operator repeats keys so much less.
    q = (*batch, head, Term(("s",)), Term(("d",)))
    k = (*batch, Term(("g",)), Term(("t",)), Term(("d",)))
    v = (*batch, Term(("g",)), Term(("t",)), Term(("v",)))
    out = (*batch, head, Term(("s",)), Term(("v",)))
    masks = tuple(
        mask_dims(mask.shape, (*batch, head, Term(("s",)), Term(("t",))), sizes) for mask in call.operands[3:]
    )
    fixed = {"t", "d", "v"} | ({"s"} if call.arguments.get("is_causal") else set())
    results: list[Dims | None] = []
    for index, result in enumerate(call.results):
        if result is None:
            results.append(None)
        elif index == 0:
            results.append(out)
        elif index == 1 and result.ndim == query.ndim - 1:
            results.append((*batch, head, Term(("s",))))
            if result.shape[-1] != query.shape[-2]:
                results[-1] = (*batch, head, Term())
        elif index == 1 and result.ndim == query.ndim:
            results.append((*batch, head, Term(("s",)), Term()))
        else:
            results.append((Term(),) * result.ndim)
    linear = (frozenset({2}),) if len(call.results) == 1 else ()
    # Queries by keys, then weights by values.
    scores = tuple(name for name in sizes if name not in ("d", "v"))
    multiplies = ((*scores, "d"), (*scores, "v"))
    return Rule((q, k, v, *masks), tuple(results), sizes, frozenset(fixed), linear=linear, multiplies=multiplies)


def mask_dims(shape: tuple[Size, ...], dims: Dims, sizes: dict[str, Size]) -> Dims:
    """The dims of a mask of ``shape`` over scores of ``dims``: those of size 1 are broadcast."""
    own = dims[len(dims) - len(shape) :]
    whole = [sizes[t.factors[0]] if len(t.factors) == 1 else sizes["g"] * sizes["r"] for t in own]
    return tuple(
        Term() if size == 1 and full != 1 else term for size, full, term in zip(shape, whole, own, strict=True)
    )


_ATTENTION = Entry(attention_rule)

RULES: dict[str, Entry] = {
    "aten::_scaled_dot_product_cudnn_attention": _ATTENTION,
    "aten::_scaled_dot_product_efficient_attention": _ATTENTION,
    "aten::_scaled_dot_product_flash_attention": _ATTENTION,
    "aten::_scaled_dot_product_flash_attention_for_cpu": _ATTENTION,
    "aten::scaled_dot_product_attention": _ATTENTION,
}
