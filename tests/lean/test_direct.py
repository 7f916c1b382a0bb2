"""torch's bindings, called in the place of operators, give the same results in the same memory."""

import copy

import pytest
import torch
from torch import nn

from shardwright.lean.direct import _FUNCTIONS, _METHODS, call_directly
from tests.support.models import Decoder, redraw

aten = torch.ops.aten

F32 = torch.arange(-6.0, 6.0).reshape(2, 6)
BF16, I64, C64 = F32.bfloat16(), torch.arange(12).reshape(2, 6), torch.complex(F32, -F32)
HEADS = torch.randn(1, 2, 3, 4, generator=torch.Generator().manual_seed(0))
FEWER = HEADS[:, :1]
BOUNDS = [(), (1,), (-1, 2), (1, -2), (1, 2, 2**63 - 1), (1, 3, 1), (0, 9)]

CALLS = [
    *((aten.add.Tensor, (x, other), {"alpha": 2}) for x in (F32, I64, BF16) for other in (x, 3)),
    *((aten.sub.Tensor, (x, other), {}) for x in (F32, BF16) for other in (2.5, 3)),
    *((aten.mul.Tensor, (x, other), {}) for x in (F32, I64, C64, BF16) for other in (True, 2, 2.5, F32)),
    *((aten.div.Tensor, (x, other), {}) for x in (F32, I64, C64, BF16) for other in (3, 0.1, F32)),
    *((aten.pow.Tensor_Scalar, (x, power), {}) for x in (F32, I64) for power in (2, 3.0)),
    *((target, (x,), {}) for target in (aten.neg.default, aten.clone.default) for x in (F32, I64, C64)),
    *((getattr(aten, name).default, (F32,), {}) for name in ("cos", "sin", "relu", "rsqrt", "sigmoid", "tanh")),
    *((aten.gelu.default, (x,), how) for x in (F32, BF16) for how in ({}, {"approximate": "tanh"})),
    (aten.clone.default, (F32.t(),), {"memory_format": torch.contiguous_format}),
    (aten.cat.default, ([F32, I64, BF16],), {}),
    (aten.cat.default, ([F32, F32], -1), {}),
    (aten.mean.dim, (F32, [-1], True), {}),
    (aten.mean.dim, (BF16, None), {"dtype": torch.float64}),
    (aten.softmax.int, (F32, -1), {}),
    (aten.softmax.int, (BF16, 0, torch.float32), {}),
    (aten.index_select.default, (F32, 1, torch.tensor([4, 0, 0])), {}),
    (aten.linear.default, (F32, F32), {}),
    (aten.linear.default, (F32, F32, torch.ones(2)), {}),
    (aten.matmul.default, (F32, F32.t()), {}),
    (aten.matmul.default, (HEADS, HEADS[0, 0].t()), {}),
    (aten.permute.default, (HEADS, [0, -1, 1, 2]), {}),
    (aten.transpose.int, (HEADS, -1, 1), {}),
    (aten.unsqueeze.default, (F32, -1), {}),
    (aten.reshape.default, (HEADS.transpose(1, 2), [3, -1]), {}),
    (aten.reshape.default, (HEADS, [6, 4]), {}),
    (aten.view.default, (HEADS, [6, -1]), {}),
    (aten.expand.default, (F32[:, None], [-1, 3, 6]), {}),
    (aten.scaled_dot_product_attention.default, (HEADS, HEADS, HEADS), {}),
    (aten.scaled_dot_product_attention.default, (HEADS, HEADS, HEADS, HEADS @ HEADS.mT), {"scale": 0.5}),
    (aten.scaled_dot_product_attention.default, (HEADS, FEWER, FEWER, None, 0.0, True), {"enable_gqa": True}),
    (aten.index_copy_.default, (F32, 1, torch.tensor([1, 5]), -F32[:, :2]), {}),
    *((aten.slice.Tensor, (F32, *bounds), {}) for bounds in BOUNDS),
    (aten.slice.Tensor, (F32, 1, None, -2), {}),
    (aten.slice.Tensor, (F32, 1, 1, 6, 2), {}),
]


class Call(nn.Module):
    """One operator, of copies of its operands: of the first one if it writes, and else of itself."""

    def __init__(self, target, args, kwargs):
        super().__init__()
        self.target, self.args, self.kwargs = target, args, kwargs

    def forward(self, first):
        given = [*first] if isinstance(self.args[0], list) else first[0]
        if self.target._schema.is_mutable:
            given = given + 0
        return self.target(given, *self.args[1:], **self.kwargs)


def case(call):
    target, args, kwargs = call
    kinds = [str(one.dtype)[6:] if isinstance(one, torch.Tensor) else str(one) for one in (*args, *kwargs.values())]
    return f"{target}({','.join(kinds)})".replace("aten.", "")[:90]


@pytest.mark.parametrize("call", CALLS, ids=case)
def test_a_binding_gives_what_its_operator_gives(call):
    target, args, _ = call
    first = tuple(args[0]) if isinstance(args[0], list) else (args[0],)
    module = torch.export.export(Call(*call), (first,), strict=False).module()
    wanted = module(first)
    is_left = target is aten.slice.Tensor and args[4:] == (2,)
    assert call_directly(module) >= (not is_left)
    assert is_left == any(node.target is target for node in module.graph.nodes)
    found = module(first)
    assert (found.dtype, found.shape, found.stride()) == (wanted.dtype, wanted.shape, wanted.stride())
    torch.testing.assert_close(found, wanted, rtol=0, atol=0, equal_nan=True)
    assert (found.data_ptr() == first[0].data_ptr()) == (wanted.data_ptr() == first[0].data_ptr())


def test_every_binding_is_called_here():
    assert {*_FUNCTIONS, *_METHODS} <= {target for target, _, _ in CALLS}


def test_a_module_and_its_copy_and_a_compiler_read_it():
    ids = torch.randint(0, 96, (2, 8), generator=torch.Generator().manual_seed(0))
    module = torch.export.export(redraw(Decoder(layers=1)), (ids,)).module()
    wanted, before = module(ids), len(module.graph.nodes)
    assert call_directly(module) > 20
    assert call_directly(module) == 0
    assert len(module.graph.nodes) == before
    torch.testing.assert_close(module(ids), wanted, rtol=0, atol=0)
    torch.testing.assert_close(copy.deepcopy(module)(ids), wanted, rtol=0, atol=0)
    seen = []

    def noted(graph, _):
        seen.extend(graph.graph.nodes)
        return graph

    torch.testing.assert_close(torch.compile(module, backend=noted, fullgraph=True)(ids), wanted, rtol=0, atol=0)
    assert seen
