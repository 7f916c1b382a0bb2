"""Operands of which only dtype or sizes are read: never moved, however they lie."""

import pytest
import torch
from torch import nn

import shardwright as sw
from tests.support.sharding import check, kinds

aten = torch.ops.aten

READERS = {
    "copy": lambda x, y: y.clone().copy_(x),
    "empty_like": lambda x, y: torch.empty_like(y).fill_(2.0) + x,
    "expand_as": lambda x, y: x[:, :1].expand_as(y),
    "fill": lambda x, y: y.mul(2).fill_(3.0) * x,
    "full_like": lambda x, y: torch.full_like(y, 3.0) + x,
    "new_empty_strided": lambda x, y: y.new_empty_strided((42, 6), (1, 42)).fill_(1.0).T + x,
    "new_full": lambda x, y: y.new_full((6, 42), 0.3) + x,
    "new_ones": lambda x, y: y.new_ones((6, 42)) + x,
    "new_zeros": lambda x, y: y.new_zeros((6, 42)) + x,
    "ones_like": lambda x, y: torch.ones_like(y) + x,
    "reshape_as": lambda x, y: x.T.reshape_as(y),
    "sizes": lambda x, y: x * y.shape[0] + y.shape[1],
    "to_other": lambda x, y: aten.to.other(x.half(), y),
    "type_as": lambda x, y: x.half().type_as(y),
    "view_as": lambda x, y: x.reshape(42, 6).view_as(y),
    "zero": lambda x, y: y.mul(2).zero_() + x,
    "zeros_like": lambda x, y: torch.zeros_like(y, dtype=torch.float32) + x,
}
DRAWERS = {
    "bernoulli": lambda x, y: torch.bernoulli(y, 0.4) + x,
    "exponential": lambda x, y: y.mul(2).exponential_() + x,
    "normal": lambda x, y: y.mul(2).normal_() + x,
    "rand_like": lambda x, y: torch.rand_like(y) + x,
    "rand_like_transposed": lambda x, y: torch.rand_like(y.T).T + x,
    "randint_like": lambda x, y: torch.randint_like(y, 9) + x,
    "randn_like": lambda x, y: torch.randn_like(y) + x,
    "uniform": lambda x, y: y.mul(2).uniform_() + x,
}
DRAWS = [f"aten.{name}.default" for name in ("exponential", "normal_functional", "uniform")]
DRAWS += ["aten.bernoulli.p", *(f"aten.{name}_like.default" for name in ("rand", "randint", "randn"))]


class Reading(nn.Module):
    """``read(x, y)`` of a whole x and of a y that is made cut, or partial, and that nothing else reads."""

    def __init__(self, read, *, partial=False):
        super().__init__()
        self.up, self.read = nn.Linear(8, 42), read
        self.down = nn.Linear(42, 42, bias=False) if partial else nn.Identity()

    def forward(self, x, h):
        return self.read(x, self.down(self.up(h)))


def inputs():
    return torch.randn(6, 42), torch.randn(6, 8)


COLWISE = {"up": "colwise"}


@pytest.mark.parametrize("partial", [False, True], ids=["cut", "partial"])
@pytest.mark.parametrize("name", [*READERS, *DRAWERS])
def test_what_is_not_read_is_not_moved(name, partial):
    model = Reading({**READERS, **DRAWERS}[name], partial=partial)
    plan = {**COLWISE, "down": "rowwise"} if partial else COLWISE
    sharded = check(model, inputs(), 4, plan, whole=DRAWS)
    assert kinds(sharded) == {}
    assert bool(sharded.fallbacks) == (name in DRAWERS)


@pytest.mark.parametrize("name", READERS)
def test_a_rank_without_columns(name):
    sharded = check(Reading(READERS[name]), inputs(), 8, COLWISE)
    assert kinds(sharded) == {}


@pytest.mark.parametrize("name", ["empty_like", "full_like", "ones_like", "zeros_like", "type_as", "copy", "fill"])
def test_the_result_is_cut_where_its_reader_wants_it(name):
    # Sizes or a dtype come from what is whole, and the sum is cut.
    model = Reading(lambda x, y: READERS[name](y, x) * y)
    sharded = check(model, inputs(), 4, COLWISE)
    assert kinds(sharded) == {"all_gather": 1}
    for rank, columns in enumerate((11, 11, 11, 9)):
        sizes = {n.meta["val"].shape[1] for n in sharded.exported(rank).graph.nodes if "mul" in str(n.target)}
        assert sizes == {columns}, name


@pytest.mark.parametrize("name", ["zeros_like", "type_as", "expand_as", "copy", "sizes", "rand_like"])
def test_sizes_that_are_not_known(name):
    rows = torch.export.Dim("rows", min=2, max=64)
    read = {**READERS, **DRAWERS}[name]
    sharded = check(Reading(read), inputs(), 4, COLWISE, dynamic=({0: rows}, {0: rows}), whole=DRAWS)
    assert kinds(sharded) == {}


@pytest.mark.parametrize("name", ["zeros_like", "ones_like", "copy", "sizes", "expand_as", "rand_like"])
def test_sizes_that_are_not_known_and_cut(name):
    class Rows(nn.Module):
        def forward(self, x, y):
            return {**READERS, **DRAWERS}[name](x, y * 2)

    rows = 2 * torch.export.Dim("pairs", min=2, max=32)
    args = torch.randn(6, 42), torch.randn(6, 42)
    exported = torch.export.export(Rows(), args, dynamic_shapes=({0: rows}, {0: rows}))
    sharded = sw.shard(exported, mesh=2, plan={}, inputs={"y": sw.Shard(0)})
    assert kinds(sharded) == {}
    report = sw.verify(sharded, exported, args)
    assert report.ok, str(report)


def test_two_axes():
    model = Reading(lambda x, y: torch.zeros_like(y).type_as(x) + torch.ones_like(x) * torch.full_like(y, 2.0))
    plan = {"dp": {"up": "colwise"}, "tp": {"up": "colwise"}}
    assert kinds(check(model, inputs(), {"dp": 2, "tp": 2}, plan)) == {}


@pytest.mark.parametrize("spelling", ["type_as", "to"])
def test_casts_between_a_pair_of_projections_cost_nothing(spelling):
    class Turn(nn.Module):
        """Heads that are turned in float32 and cast back, as rotary embeddings are."""

        def __init__(self):
            super().__init__()
            self.q, self.o = nn.Linear(32, 32, bias=False), nn.Linear(32, 32, bias=False)

        def forward(self, x, turn):
            q = self.q(x).unflatten(2, (8, 4))
            turned = q.float() * turn
            return self.o((turned.type_as(q) if spelling == "type_as" else turned.to(q.dtype)).flatten(2))

    args = torch.randn(2, 5, 32), torch.randn(1, 5, 1, 4)
    for plan in ("auto", {"q": "colwise", "o": "rowwise"}):
        assert kinds(check(Turn(), args, 4, plan)) == {"all_reduce": 1}
