"""Buffers are written in place where nothing can tell the difference, and only there."""

import copy

import pytest
import torch
from torch import nn

import shardwright as sw
from shardwright.program.in_place import write_in_place
from tests.support.caches import LENGTH, STEPS, WRITES, Cached, by_index_put_of_rows, by_scatter_of_masks
from tests.support.models import redraw

aten = torch.ops.aten
NEW = torch.arange(6.0).view(2, 3)


def modules_of(model, args):
    """One rank's program as it stands, and with its buffers written in place."""
    exported = torch.export.export(model, args).run_decompositions({})
    plain, lean = (sw.shard(copy.deepcopy(exported), mesh=1, plan={}).exported(0) for _ in range(2))
    return super(type(plain), plain).module(), lean.module()


def copies(module):
    return sum(node.target is aten.copy_.default for node in module.graph.nodes)


@pytest.mark.parametrize("write", WRITES, ids=lambda write: write.__name__)
def test_a_cache_is_written_in_place(write):
    model = redraw(Cached(write)).double()
    (_, x, position), *later = STEPS[1:]
    plain, lean = modules_of(model, (x, position))
    assert copies(plain) == 2
    assert copies(lean) == (0 if write not in (by_scatter_of_masks, by_index_put_of_rows) else 2)
    before = lean.keys.data_ptr()
    for _, x, position in later:
        assert torch.equal(lean(x, position), plain(x, position))
        assert torch.equal(lean.keys, plain.keys)
    assert lean.keys.data_ptr() == before


class Kept(nn.Module):
    """Rows of a buffer are written; ``use`` says what else is done with it."""

    def __init__(self, use):
        super().__init__()
        self.use = use
        self.register_buffer("kept", torch.zeros(LENGTH, 3))
        self.register_buffer("other", self.kept if use is same_memory else torch.zeros(1))

    def forward(self, new, rows):
        return self.use(self, new, rows)


def write(self, new, rows):
    self.kept.index_copy_(0, rows, new)
    return self.kept.sum(0)


def write_twice(self, new, rows):
    self.kept.index_copy_(0, rows, new)
    self.kept.index_add_(0, rows, new)
    return self.kept * 2


def read_before(self, new, rows):
    old = self.kept.sum(0)
    self.kept.index_copy_(0, rows, new)
    return old, self.kept.sum(0)


def read_between(self, new, rows):
    self.kept.index_copy_(0, rows, new)
    between = self.kept.sum(0)
    self.kept.index_add_(0, rows, new)
    return between, self.kept.sum(0)


def copy_before(self, new, rows):
    """One copy either way: the clone, which does nothing in a functional program, is dropped."""
    old = self.kept.clone()
    self.kept.index_copy_(0, rows, new)
    return self.kept.sum(0) - old.sum(0)


def read_after(self, new, rows):
    made = torch.index_copy(self.kept, 0, rows, new)
    changed = made.sum(0) - self.kept.sum(0)
    self.kept.copy_(made)
    return changed


def view_before(self, new, rows):
    made = torch.index_copy(self.kept, 0, rows, new)
    old = self.kept.t()
    changed = made.t() - old
    self.kept.copy_(made)
    return changed


def return_it(self, new, rows):
    self.kept.index_copy_(0, rows, new)
    return self.kept


def return_a_view(self, new, rows):
    self.kept.index_copy_(0, rows, new)
    return self.kept[1:].t().unsqueeze(0)


def same_memory(self, new, rows):
    self.kept.index_copy_(0, rows, new)
    return self.kept.sum(0) + self.other.sum(0)


def rotate(self, new, rows):
    self.kept.index_copy_(0, (torch.arange(LENGTH) + 1) % LENGTH, self.kept.clone())
    return self.kept.sum(0) + new.sum(0) + rows.sum()


def rotate_by_index_put(self, new, rows):
    self.kept[torch.arange(LENGTH).flip(0)] = self.kept.clone() + 0
    self.kept.index_put_([(torch.arange(LENGTH) + 1) % LENGTH], self.kept.clone())
    return self.kept.sum(0) + new.sum(0) + rows.sum()


def shift(self, new, rows):
    self.kept.copy_(torch.cat((self.kept[2:], new)))
    return self.kept.sum(0)


@pytest.mark.parametrize(
    ("use", "left"),
    [
        *((use, 0) for use in (write, write_twice, read_before, read_between)),
        *((use, 1) for use in (read_after, copy_before, view_before, return_it, return_a_view, shift)),
        *((use, 1) for use in (rotate, rotate_by_index_put)),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_only_where_nothing_can_tell(use, left):
    plain, lean = modules_of(Kept(use), (NEW, torch.tensor([1, 4])))
    assert (copies(plain), copies(lean)) == (1, left)
    given = [(NEW + step, torch.tensor([step, step + 3])) for step in range(4)]
    found = [[module(*args) for args in given] for module in (plain, lean)]
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=0)
    assert torch.equal(lean.kept, plain.kept)


def test_not_a_buffer_of_two_names():
    graph = torch.fx.symbolic_trace(TwoNames())
    assert copies(write_in_place(graph)) == 1
    assert graph(NEW, torch.tensor([0, 2])).tolist() == [0.0, 0.0, 0.0]


class TwoNames(nn.Module):
    """What is read under another name is the old buffer until the end."""

    def __init__(self):
        super().__init__()
        self.register_buffer("kept", torch.zeros(LENGTH, 3))
        self.register_buffer("other", self.kept)

    def forward(self, new, rows):
        made = aten.index_copy.default(self.kept, 0, rows, new)
        old = self.other.sum(0)
        aten.copy_.default(self.kept, made)
        return old


def test_not_before_a_collective_that_reads_it_is_waited_for():
    assert copies(write_in_place(torch.fx.symbolic_trace(Gathered(late=False)))) == 0
    assert copies(write_in_place(torch.fx.symbolic_trace(Gathered(late=True)))) == 1


class Gathered(nn.Module):
    """What ranks hold is gathered before it is written; ``late``: and waited for afterwards."""

    def __init__(self, *, late):
        super().__init__()
        self.late = late

    def forward(self, kept, new, rows):
        c10d = torch.ops._c10d_functional
        old = c10d.all_gather_into_tensor.default(kept, 2, "tp")
        old = old if self.late else c10d.wait_tensor.default(old)
        made = aten.index_copy.default(kept, 0, rows, new)
        old = c10d.wait_tensor.default(old) if self.late else old
        aten.copy_.default(kept, made)
        return old.sum(0)


def test_an_input_is_written_in_place():
    class Given(nn.Module):
        def forward(self, cache, new, rows):
            cache.index_copy_(0, rows, new)
            return cache.sum(0)

    plain, lean = modules_of(Given(), (torch.zeros(LENGTH, 3), NEW, torch.tensor([1, 4])))
    assert (copies(plain), copies(lean)) == (1, 0)
    mine, theirs = torch.zeros(2, LENGTH, 3)
    assert torch.equal(lean(mine, NEW, torch.tensor([5, 0])), plain(theirs, NEW, torch.tensor([5, 0])))
    assert torch.equal(mine, theirs)
    assert mine[5].any()
