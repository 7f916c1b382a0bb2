"""No-ops are left out, numbers stay, and what the user gets is nobody else's."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import shardwright as sw
from tests.support.lean import assert_same_numbers, names, plain_programs
from tests.support.models import redraw

aten = torch.ops.aten
X = torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(0))


class Around(nn.Module):
    """A function of a module's inside: between two projections, so that nothing of it is an input or an output."""

    def __init__(self, inside):
        super().__init__()
        self.inside = inside
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x):
        return self.down(self.inside(self.up(x))).sin()


def sharded_of(model, x=X, mesh=2, plan=None, **export):
    plan = {"up": "colwise", "down": "rowwise"} if plan is None else plan
    return sw.shard(torch.export.export(redraw(model), (x,), **export), mesh=mesh, plan=plan)


def left(sharded, operator):
    """How many calls of an operator there are before and after."""
    before, after = names(plain_programs(sharded)[0]), names(sharded.rank_program(0))
    return before.count(operator), after.count(operator)


NOTHING = {
    "aten.to.dtype": lambda x: x.to(torch.float32),
    "aten.dropout": lambda x: F.dropout(x, 0.5, training=False),
    "aten.feature_dropout": lambda x: F.dropout2d(x, 0.5, training=False),
    "aten.clone": lambda x: aten.clone.default(x.relu(), memory_format=torch.contiguous_format),
    "aten.contiguous": aten.contiguous.default,
    "aten.view": lambda x: x.view(2, 4, -1),
    "aten.reshape": lambda x: aten.reshape.default(x, x.shape),
    "aten.slice.Tensor": lambda x: aten.slice.Tensor(x, 1, 0, 9223372036854775807),
    "aten.expand": lambda x: x.expand(2, 4, -1),
    "aten.alias": aten.alias.default,
    "aten.mul.Tensor": lambda x: x * 1.0,
    "aten.div.Tensor": lambda x: x / 1,
    "aten._to_copy": lambda x: aten._to_copy.default(x, dtype=torch.float32),
    "aten.type_as": lambda x: x.type_as(x),
    "aten.constant_pad_nd": lambda x: aten.constant_pad_nd.default(x, [0, 0]),
    "aten.cat": lambda x: torch.cat([x]),
    "aten.repeat": lambda x: x.repeat(1, 1, 1),
    "aten.squeeze.dim": lambda x: x.squeeze(1),
    "aten.transpose.int": lambda x: x.relu().transpose(1, 1),
}


@pytest.mark.parametrize("operator", NOTHING)
def test_what_does_nothing_is_dropped(operator):
    sharded = sharded_of(Around(NOTHING[operator]))
    assert left(sharded, operator)[1] == 0
    assert_same_numbers(sharded, (X,))


SOMETHING = {
    "aten._to_copy": lambda x: aten._to_copy.default(x, dtype=torch.bfloat16).float(),
    "aten.dropout": lambda x: F.dropout(x, 0.5, training=True),
    "aten.clone": lambda x: aten.clone.default(x.transpose(0, 1), memory_format=torch.contiguous_format).transpose(
        0, 1
    ),
    "aten.slice.Tensor": lambda x: torch.cat([aten.slice.Tensor(x, 1, 1, 4), aten.slice.Tensor(x, 1, 0, 1)], 1),
    "aten.expand": lambda x: x[:, :1].expand(2, 4, -1),
    "aten.mul.Tensor": lambda x: x * 1.5,
    "aten.add.Tensor": lambda x: x + 0.0,
    "aten.constant_pad_nd": lambda x: aten.constant_pad_nd.default(x, [0, 0, 1, -1]),
    "aten.repeat": lambda x: x[:1].repeat(2, 1, 1),
    "aten.permute": lambda x: x.reshape(2, 2, 2, -1).permute(1, 0, 2, 3).reshape(x.shape),
}


@pytest.mark.parametrize("operator", SOMETHING)
def test_what_does_something_stays(operator):
    sharded = sharded_of(Around(SOMETHING[operator]))
    before, after = left(sharded, operator)
    assert before == after > 0
    assert_same_numbers(sharded, (X,))


def test_integers_lose_nothing_by_zero_and_floats_keep_their_sign():
    class Shift(nn.Module):
        def forward(self, x):
            return (x.long() + 0).sin() * 2, x + 0

    sharded = sharded_of(Shift(), plan={})
    assert left(sharded, "aten.add.Tensor") == (2, 1)
    assert_same_numbers(sharded, (-0.0 * X,))


def test_checks_of_metadata_that_cannot_fail_are_dropped():
    class Checked(nn.Module):
        def forward(self, x):
            aten._assert_tensor_metadata.default(x, None, None, torch.float32)
            return x.sin()

    sharded = sharded_of(Checked(), plan={})
    assert left(sharded, "aten._assert_tensor_metadata")[1] == 0
    assert_same_numbers(sharded, (X,))


class Returned(nn.Module):
    """Copies that are given out, by themselves and through views, beside what they are copies of."""

    def __init__(self):
        super().__init__()
        self.register_buffer("held", torch.arange(8.0))

    def forward(self, x):
        before = aten.clone.default(self.held)
        self.held.add_(1)
        viewed = aten.clone.default(x).view(8, 8)
        unsafe = aten._unsafe_view.default(aten.clone.default(x), [8, 8])
        return before, aten.clone.default(x), viewed, unsafe, aten.alias.default(self.held)


def test_what_is_given_out_stays_a_copy():
    exported = torch.export.export(Returned(), (X,))
    module = sw.shard(exported, mesh=1, plan={}).exported(rank=0).module()
    x = X.clone()
    for given in module(x):
        given.fill_(7)
    assert torch.equal(x, X)
    assert torch.equal(module.held, torch.arange(8.0) + 1)


def test_callers_may_give_tensors_that_lie_otherwise():
    class Flat(nn.Module):
        def forward(self, x):
            return aten.view.default(aten.contiguous.default(x.sin()), [-1]).cos()

    module = sw.shard(torch.export.export(Flat(), (X,)), mesh=1, plan={}).exported(rank=0).module()
    other = X.transpose(0, 1).contiguous().transpose(0, 1)
    torch.testing.assert_close(module(other), X.sin().view(-1).cos())


def test_memory_that_is_addressed_stays_where_it_is():
    class Addressed(nn.Module):
        def forward(self, x):
            return aten.as_strided.default(aten.clone.default(x.sin()[1:]), [2, 2], [1, 2], 0).cos()

    sharded = sharded_of(Addressed(), plan={})
    assert left(sharded, "aten.clone") == (1, 1)
    assert_same_numbers(sharded, (X,))


def test_sizes_that_are_not_known_are_compared_by_name():
    class Shaped(nn.Module):
        def forward(self, x):
            x = x.sin()
            return x.view(x.shape[0], 4, -1).view(-1, 4, 8).expand(x.shape).cos()

    batch = torch.export.Dim("batch", max=32)
    sharded = sharded_of(Shaped(), plan={}, dynamic_shapes=({0: batch},))
    assert {"aten.view", "aten.expand"} & {*names(sharded.rank_program(0))} == set()
    assert_same_numbers(sharded, (torch.randn(5, 4, 8),))


def test_what_is_read_by_nobody_goes_and_the_rest_is_drawn_as_before():
    class Unread(nn.Module):
        def forward(self, x):
            torch.rand_like(x)
            x.cos().exp()
            return x + torch.rand_like(x)

    sharded = sharded_of(Unread(), plan={})
    assert {"aten.cos", "aten.exp"} & {*names(sharded.rank_program(0))} == set()
    assert_same_numbers(sharded, (X,))
