"""Sizes that only the running program knows (what a mask picks out, a number it reads): the other dims are cut."""

from collections import Counter

import pytest
import torch
from torch import nn

import shardwright as sw
from tests.support.models import redraw
from tests.support.sharding import check_as_given, held

X = torch.randn(3, 5, 6, generator=torch.Generator().manual_seed(3))
MASK = torch.tensor([[1, 0, 1, 1, 0], [0, 0, 0, 0, 0], [0, 1, 0, 0, 1]], dtype=torch.bool)


class Adapter(nn.Module):
    """Tokens that a mask picks out get something of their own."""

    def forward(self, x, mask):
        rows = x[mask].sin()
        written = torch.index_put(x, [mask], rows)
        return written.masked_scatter(~mask[..., None], x[~mask] * 2)


class Chosen(nn.Module):
    """Tokens that a mask picks out all become one."""

    def forward(self, x, mask):
        return torch.index_put(x.cos(), [mask], torch.ones(6))


@pytest.mark.parametrize("num_ranks", [2, 3, 4])
@pytest.mark.parametrize(("model", "dim"), [(Adapter(), 2), (Chosen(), 0), (Chosen(), 1), (Chosen(), 2)])
def test_dims_that_a_mask_leaves_alone_are_cut(model, dim, num_ranks):
    exported = torch.export.export(model, (X, MASK))
    sharded = sw.shard(exported, mesh=num_ranks, plan={}, inputs={"x": sw.Shard(dim)}, outputs=sw.Shard(dim))
    assert sharded.fallbacks == []
    assert Counter(c.kind for c in sharded.collectives) == {}
    report = sw.verify(sharded, exported, (X, MASK))
    assert report.ok, str(report)


def test_a_mask_may_pick_out_nothing_and_everything():
    exported = torch.export.export(Adapter(), (X, MASK))
    sharded = sw.shard(exported, mesh=2, plan={}, inputs={"x": sw.Shard(2)}, outputs=sw.Shard(2))
    for mask in (torch.zeros_like(MASK), torch.ones_like(MASK)):
        assert sw.verify(sharded, exported, (X, mask)).ok


class PadsByANumberItReads(nn.Module):
    """Convolutions whose padding is read off a buffer, as in the decoders of audio codecs: sizes are symbols."""

    def __init__(self):
        super().__init__()
        self.register_buffer("padding", torch.tensor(2))
        self.first, self.second = nn.Conv1d(4, 24, 3), nn.Conv1d(24, 4, 3)

    def forward(self, x):
        for conv in (self.first, self.second):
            count = self.padding.item()
            torch._check(count >= 0)
            torch._check(count < 8)
            x = conv(torch.nn.functional.elu(torch.nn.functional.pad(x, (count, count))))
        return x


def test_pads_by_a_number_that_the_program_reads():
    sharded = check_as_given(redraw(PadsByANumberItReads()), (torch.randn(2, 4, 16),), 2, "auto")
    assert all(w.layouts["tp"] != sw.Replicate() for w in sharded.weights if w.name.endswith("weight"))


class ClassLoss(nn.Module):
    """The loss of every row, of what is taken for logarithms."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(8, 5)

    def forward(self, x, target):
        return torch.nn.functional.nll_loss(self.head(x), target, reduction="none")


class Normed(nn.Module):
    """A batch norm between two layers."""

    def __init__(self):
        super().__init__()
        self.up, self.norm, self.down = nn.Linear(8, 5), nn.BatchNorm1d(5), nn.Linear(5, 8)

    def forward(self, x):
        return self.down(self.norm(self.up(x)))


ROWS = torch.randn(64, 8)
PAIR = {"up": "colwise", "down": "rowwise"}


@pytest.mark.parametrize(
    ("model", "args", "plan"),
    [
        (ClassLoss(), (ROWS, torch.arange(64) % 5), {"head": "colwise"}),
        (Normed().train(), (ROWS,), PAIR),
        (Normed().eval(), (ROWS,), PAIR),
    ],
    ids=["classes", "batch statistics", "running statistics"],
)
def test_a_rank_without_features_has_none_of_any_number_of_rows(model, args, plan):
    exported = torch.export.export(model, args, dynamic_shapes=({0: torch.export.Dim("n")},) * len(args))
    sharded = sw.shard(exported, mesh=4, plan=plan)
    assert held(sharded, f"{next(iter(plan))}.weight")[3] == []
    for count in (64, 7):
        report = sw.verify(sharded, exported, tuple(arg[:count] for arg in args))
        assert report.ok, str(report)


class Joined(nn.Module):
    """Heads folded into an open batch, and joined along that: alone, with each other, with what has a known size."""

    def __init__(self, how):
        super().__init__()
        self.how = how
        self.up, self.down = nn.Linear(8, 12), nn.Linear(3, 8)

    def forward(self, x):
        heads = self.up(x).unflatten(-1, (4, 3)).transpose(1, 2).flatten(0, 1)
        parts = {"alone": [heads], "twice": [heads, heads], "known": [heads, heads.new_ones(8, 5, 3)]}
        joined = torch.cat(parts[self.how], 0) if self.how in parts else nn.functional.pad(heads, (0, 0, 0, 0, 8, 4))
        return self.down(joined.sin())


@pytest.mark.parametrize("num_ranks", [2, 4])
@pytest.mark.parametrize("how", ["alone", "twice", "known", "padded"])
def test_heads_in_an_open_batch_are_joined(how, num_ranks):
    model = redraw(Joined(how))
    x = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(3))
    exported = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    sharded = sw.shard(exported, mesh=num_ranks)
    for batch in (3, 2):
        report = sw.verify(sharded, exported, (x[:batch],))
        assert report.ok, str(report)
    if how == "alone":
        # One tensor alone stays cut on heads, whatever its size: all that is gathered is the output.
        (gathered,) = sw.shard(exported, mesh=num_ranks, plan={"up": "colwise"}).collectives
        assert "output 0" in gathered.cause, gathered


class HeadsOfNothing(nn.Module):
    """The heads of an open batch, of no position yet: what a memory holds before the first segment."""

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, x):
        heads = self.up(x).unflatten(-1, (8, 4)).transpose(1, 2).flatten(0, 1)
        nothing = heads[:, :0]
        seen = torch.cat((nothing, heads), dim=1)
        out = self.down(seen.unflatten(0, (-1, 8)).transpose(1, 2).flatten(2))
        return out, nothing


@pytest.mark.parametrize("num_ranks", [2, 4])
def test_nothing_of_an_open_batch_is_not_sent(num_ranks):
    torch.manual_seed(0)
    args = (torch.randn(3, 5, 16),)
    program = torch.export.export(HeadsOfNothing().eval(), args, dynamic_shapes=({0: torch.export.Dim("rows")},))
    sharded = sw.shard(program, mesh=num_ranks, plan={"up": "colwise", "down": "rowwise"})
    assert Counter(one.kind for one in sharded.collectives) == {"all_reduce": 1}
    for rows in (3, 7):
        assert sw.verify(sharded, program, (torch.randn(rows, 5, 16),)).ok
