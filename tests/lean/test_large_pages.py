"""Memory in large pages: zeros of their own that begin where they should, with or without a system that has them."""

import mmap

import pytest
import torch

from shardwright.layout.alignment import ALIGNMENT
from shardwright.lean.large_pages import LARGE_PAGE, in_large_pages

SIZES = (3, LARGE_PAGE, 100)


@pytest.mark.parametrize("has_them", [True, False])
def test_each_has_zeros_of_its_own(monkeypatch, has_them):
    if not has_them:
        monkeypatch.delattr(mmap, "MADV_HUGEPAGE", raising=False)
    found = in_large_pages(SIZES)
    assert [one.numel() for one in found] == list(SIZES)
    assert [one.untyped_storage().nbytes() for one in found] == list(SIZES)
    assert all(one.dtype == torch.uint8 and one.data_ptr() % ALIGNMENT == 0 and not one.any() for one in found)
    for number, one in enumerate(found, start=1):
        one.fill_(number)
    first, *rest = found
    del found
    assert [set(one.tolist()) for one in (first, *rest)] == [{1}, {2}, {3}]


def test_the_first_begins_a_page_and_the_memory_outlives_the_others():
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        pytest.skip("this system has no large pages")
    first, last = in_large_pages([100, 200])
    assert first.data_ptr() % LARGE_PAGE == 0
    last.fill_(7)
    del first
    assert last.tolist() == [7] * 200


def test_a_kernel_that_refuses_is_no_fault(monkeypatch):
    class Refusing(mmap.mmap):
        def madvise(self, *_):
            raise OSError("no large pages")

    monkeypatch.setattr(mmap, "mmap", Refusing)
    [one] = in_large_pages([100])
    assert one.tolist() == [0] * 100


def test_nothing_is_none():
    assert in_large_pages([]) == []
