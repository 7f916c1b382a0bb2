"""Memory in large pages: zeros that begin where they should, of their own, and none where the system has none."""

import mmap

import pytest
import torch
from torch import nn

import shardwright as sw
from shardwright.layout.alignment import ALIGNMENT
from shardwright.lean.large_pages import LARGE_PAGE, in_large_pages

WANTED = [
    torch.empty(3, dtype=torch.int8),
    torch.empty(LARGE_PAGE // 8, 4),
    torch.empty(0, 7, dtype=torch.float64),
    torch.empty((), dtype=torch.bool),
    torch.empty(5, 2, dtype=torch.bfloat16, device="meta"),
]


@pytest.fixture
def found():
    made = in_large_pages(WANTED)
    if made is None:
        assert not hasattr(mmap, "MADV_HUGEPAGE")
        pytest.skip("this system has no large pages")
    return made


def test_each_is_as_wanted_with_a_storage_of_its_own(found):
    for one, like in zip(found, WANTED, strict=True):
        assert (one.shape, one.dtype, one.device.type) == (like.shape, like.dtype, "cpu")
        assert one.is_contiguous()
        assert not one.any()
        assert one.untyped_storage().nbytes() == like.nbytes
        assert one.data_ptr() % ALIGNMENT == 0
    assert found[0].data_ptr() % LARGE_PAGE == 0


def test_they_do_not_overlap_and_outlive_each_other(found):
    first, second, _, truth, last = found
    del found
    first.fill_(1), second.fill_(2), truth.fill_(True), last.fill_(3)
    assert [set(one.flatten().tolist()) for one in (first, second, last)] == [{1}, {2}, {3}]
    del first, second
    assert truth.item() is True
    assert last.tolist() == [[3, 3]] * 5


@pytest.mark.parametrize("wanted", [[], WANTED[:1], WANTED[2:]])
def test_what_fills_no_page_gets_none(wanted):
    assert in_large_pages(wanted) is None


def test_a_system_without_them_or_without_room_gives_none(monkeypatch):
    assert in_large_pages([torch.empty(1 << 60, device="meta")]) is None
    monkeypatch.delattr(mmap, "MADV_HUGEPAGE", raising=False)
    assert in_large_pages(WANTED) is None


def test_a_kernel_that_refuses_is_no_fault(monkeypatch):
    class Refusing(mmap.mmap):
        def madvise(self, *_):
            raise OSError("no large pages")

    monkeypatch.setattr(mmap, "MADV_HUGEPAGE", 14, raising=False)
    monkeypatch.setattr(mmap, "mmap", Refusing)
    found = in_large_pages(WANTED)
    assert found is not None
    assert not any(one.any() for one in found)


class Counts(nn.Module):
    """Adds its inputs up in a buffer of one large page, and counts calls in one of a number."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("total", torch.zeros(LARGE_PAGE // 4))

    def forward(self, x):
        self.calls.add_(1)
        self.total.add_(x)
        return self.total * self.calls


@pytest.mark.parametrize("has_them", [True, False])
def test_loaded_buffers_of_zeros_lie_there(tmp_path, monkeypatch, has_them):
    if not has_them:
        monkeypatch.delattr(mmap, "MADV_HUGEPAGE", raising=False)
    x = torch.rand(LARGE_PAGE // 4)
    sw.shard(torch.export.export(Counts(), (x,)), mesh=1).save(tmp_path / "out")
    loaded = sw.load(tmp_path / "out")
    address = {name: held.data_ptr() for name, held in loaded.named_buffers()}
    if hasattr(mmap, "MADV_HUGEPAGE"):
        # Small ones lie before it, at the start of the page.
        assert [place % LARGE_PAGE < 10 * ALIGNMENT for name, place in address.items() if "total" in name] == [True]
    assert torch.equal(loaded(x), x)
    assert torch.equal(loaded(x), 4 * x)
