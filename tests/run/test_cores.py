"""Ranks get cores of their own: as many each, neighbours of one NUMA node."""

import os

import pytest
import torch

from shardwright.run import cores
from shardwright.run.launch import launch

NODES = {"node0": "0-3,8-11", "node1": "4-7,12-15"}


@pytest.fixture
def two_nodes(monkeypatch, tmp_path):
    for node, cpus in NODES.items():
        (tmp_path / node).mkdir()
        (tmp_path / node / "cpulist").write_text(cpus + "\n")
    monkeypatch.setattr(cores, "_NODES", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(16)))


def test_a_rank_has_cores_of_one_node(two_nodes):
    assert cores.share_of(0, 2) == [0, 1, 2, 3, 8, 9, 10, 11]
    assert cores.share_of(1, 2) == [4, 5, 6, 7, 12, 13, 14, 15]
    shares = [cores.share_of(rank, 4) for rank in range(4)]
    assert shares == [[0, 1, 2, 3], [8, 9, 10, 11], [4, 5, 6, 7], [12, 13, 14, 15]]


def test_cores_that_are_left_over_are_nobodys_and_more_ranks_than_cores_have_none(two_nodes):
    shares = [cores.share_of(rank, 3) for rank in range(3)]
    assert [len(share) for share in shares] == [5, 5, 5]
    assert len({core for share in shares for core in share}) == 15
    assert cores.share_of(16, 17) == []


def test_only_cores_that_this_process_may_use_count(two_nodes, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {2, 5, 6, 9})
    assert [cores.share_of(rank, 2) for rank in range(2)] == [[2, 9], [5, 6]]


def where():
    return sorted(os.sched_getaffinity(0)), torch.get_num_threads()


@pytest.mark.ranks
def test_launched_ranks_do_not_share_cores_unless_they_are_told(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    mine = sorted(os.sched_getaffinity(0))
    if len(mine) < 2:
        pytest.skip("one core cannot be shared out")
    (first, threads), (second, _) = launch(2, where, timeout_s=60).values()
    assert not set(first) & set(second)
    assert threads == len(first) == len(mine) // 2
    assert launch(2, where, timeout_s=60, threads=3) == dict.fromkeys(range(2), (mine, 3))
