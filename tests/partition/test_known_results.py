"""A remembered result is what torch gives anew, in the mode of whoever asks; what may differ is not remembered."""

import pytest
import torch
from torch import nn
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from shardwright.partition import known_results
from shardwright.partition.emit import Emitter
from shardwright.program.torch_private import FakeTensorMode
from tests.support.models import places_in_rows

aten = torch.ops.aten

CALLS = {
    "a view": (lambda x: (aten.view.default, (x, [12, 2])), ()),
    "a transposed view": (lambda x: (aten.permute.default, (x, [2, 0, 1])), ()),
    "a part that begins later": (lambda x: (aten.slice.Tensor, (x, 1, 1, 3)), ()),
    "nothing, from the end": (lambda x: (aten.slice.Tensor, (x, 1, 3, 3)), ()),
    "an expanded one": (lambda x: (aten.expand.default, (x, [5, 2, 3, 4])), ()),
    "another dtype": (lambda x: (aten._to_copy.default, (x,)), {"dtype": torch.bfloat16}),
    "numbers promoted": (lambda x: (aten.gt.Scalar, (x, 1)), ()),
    "a sum of no dims": (lambda x: (aten.sum.default, (x,)), ()),
    "parts": (lambda x: (aten.split_with_sizes.default, (x, [1, 2], 1)), ()),
    "a pair": (lambda x: (aten.max.dim, (x, 1)), ()),
    "joined": (lambda x: (aten.cat.default, ([x, x], 1)), ()),
    "made of nothing": (lambda x: (aten.full.default, ([2, 3], 1.5)), {"device": torch.device("cpu")}),
}


@pytest.fixture(autouse=True)
def _nothing_known(monkeypatch):
    monkeypatch.setattr(known_results, "_known", {})


def emitter():
    return Emitter(nn.Module(), FakeTensorMode(shape_env=ShapeEnv()))


def evaluated(emit, call, kwargs=()):
    """What a call gives that is written into a new graph, whose only input is a tensor of 2 x 3 x 4."""
    x = emit.graph.placeholder("x")
    x.meta["val"] = emit.fake((2, 3, 4), torch.float32, torch.device("cpu"))
    op, args = call(x)
    return emit.evaluate(op, args, dict(kwargs))


def said(value):
    if not isinstance(value, torch.Tensor):
        return type(value), [said(item) for item in value]
    facts = value.shape, value.stride(), value.storage_offset(), value.dtype, value.device, value.requires_grad
    return type(value), *facts, value.untyped_storage().nbytes() >= value.numel() * value.element_size()


def tensors(value):
    return [value] if isinstance(value, torch.Tensor) else list(value)


@pytest.mark.parametrize(("call", "kwargs"), CALLS.values(), ids=CALLS)
def test_a_result_is_made_again_without_torch(call, kwargs, monkeypatch):
    first, second = emitter(), emitter()
    wanted = evaluated(first, call, kwargs)
    assert len(known_results._known) == 1
    monkeypatch.setattr(FakeTensorMode, "__torch_dispatch__", lambda *args: pytest.fail("torch ran it"))
    found = evaluated(second, call, kwargs)
    assert said(found) == said(wanted)
    assert all(tensor.fake_mode is second.fake_mode for tensor in tensors(found))
    assert all(tensor.fake_mode is first.fake_mode for tensor in tensors(wanted))


def test_numbers_of_another_default_dtype_are_another_call():
    call, kwargs = CALLS["made of nothing"]
    assert evaluated(emitter(), call, kwargs).dtype == torch.float32
    torch.set_default_dtype(torch.float64)
    try:
        assert evaluated(emitter(), call, kwargs).dtype == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


def test_autocast_is_heeded():
    def call(x):
        return aten.mm.default, (emit.fake((2, 3), torch.float32, cpu), emit.fake((3, 4), torch.float32, cpu))

    cpu = torch.device("cpu")
    for is_cast in (False, True, False):
        emit = emitter()
        with torch.autocast("cpu", torch.bfloat16, enabled=is_cast):
            assert evaluated(emit, call).dtype == (torch.bfloat16 if is_cast else torch.float32)


FORGOTTEN = {
    "an operator of a user": lambda x, emit: (places_in_rows._opoverload, (x,)),
    "the operand itself": lambda x, emit: (aten.contiguous.default, (x,)),
    "complex numbers": lambda x, emit: (aten._conj.default, (emit.fake((2,), torch.complex64, torch.device("cpu")),)),
    "sizes that depend on values": lambda x, emit: (aten.nonzero.default, (x,)),
}


@pytest.mark.parametrize("call", FORGOTTEN.values(), ids=FORGOTTEN)
def test_what_may_be_another_thing_next_time_is_not_remembered(call):
    emit = emitter()
    evaluated(emit, lambda x: call(x, emit))
    assert not known_results._known


def test_a_constant_is_not_remembered():
    emit = emitter()
    with emit.fake_mode:
        three = torch.tensor(3)
    assert three.constant is not None
    emit.evaluate(aten.add.Scalar, (three, 1), {})
    assert not known_results._known


def test_no_more_is_kept_than_said(monkeypatch):
    monkeypatch.setattr(known_results, "MOST_KNOWN", 3)
    emit = emitter()
    for size in range(1, 6):
        emit.evaluate(aten.neg.default, (emit.fake((size,), torch.float32, torch.device("cpu")),), {})
        assert len(known_results._known) <= 3
