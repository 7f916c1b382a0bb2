"""What collectives go through is agreed on by all ranks, and where it is not shared memory, one line says why."""

import os
import resource
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist

import shardwright as sw
from shardwright.layout.mesh import Mesh
from shardwright.program.torch_private import carrier_of
from shardwright.run import transport
from shardwright.run.groups import make_group_objects
from shardwright.run.launch import launch
from tests.support.ranks import on_ranks


def refuse(*args):
    raise OSError("not allowed")


def spoil(how, rank, folder):
    """Let memory be out of reach on this rank."""
    if how == "forbidden" and rank == 1:
        os.environ[transport.TRANSPORT_SWITCH] = "gloo"
    if how == "no compiler":
        os.environ["CXX"] = "no-such-compiler"
        os.environ["XDG_CACHE_HOME"] = folder
    if how == "too little memory" and rank == 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))
    if how == "another host":
        transport.host = lambda: f"host {rank}"
    if how == "closed" and rank == 1:
        transport.open_file = refuse


def without(rank, how, folder):
    """The backend of an axis's group where one rank cannot or will not use memory."""
    spoil(how, rank, folder)
    lines = []
    transport._LOG.addFilter(lambda record: lines.append(record.getMessage()))
    group = make_group_objects(Mesh.of(2), transport=transport.chosen_transport())["tp"]
    x = torch.ones(3)
    dist.all_reduce(x, group=group)
    world = dist.new_group(backend=transport.BACKEND)
    dist.all_reduce(x, group=world)
    with pytest.raises(sw.RunError) as raised:
        make_group_objects(Mesh.of(2), transport="gloo" if how == "forbidden" and rank else "shared_memory")
    return carrier_of(group), carrier_of(world), x.tolist(), lines, str(raised.value)


REASONS = {
    "forbidden": "rank 1 asks for gloo",
    "no compiler": "rank 0: compiling needs a C++ compiler, and there is no 'no-such-compiler' on this machine",
    "too little memory": "rank 0 has too little memory: ",
    "another host": "ranks [0, 1] are not on one host",
    "closed": "rank 1 cannot open the memory of rank 0: not allowed",
}


@pytest.mark.ranks
@pytest.mark.parametrize("how", REASONS)
def test_gloo_stands_in_and_one_line_says_why(how, tmp_path):
    for rank, (carrier, world, values, lines, asked) in enumerate(
        on_ranks(2, without, how, str(tmp_path), backend="gloo")
    ):
        assert (carrier, world, values) == ("gloo", "gloo", [4.0] * 3)
        assert len(lines) == (rank == 0)
        assert all(line.startswith(f"collectives use gloo, not shared memory: {REASONS[how]}") for line in lines)
        assert asked.startswith(f"ranks cannot communicate through shared memory: {REASONS[how]}")
        assert asked.endswith("\n  try: transport='auto'")


def alone_in_a_forum(rank):
    if rank == 1:
        return ""
    with pytest.raises(RuntimeError) as raised:
        transport.world_forum(timedelta(seconds=0.5)).everybody("here")
    return str(raised.value)


@pytest.mark.ranks
def test_a_rank_that_does_not_come_is_named():
    found, _ = on_ranks(2, alone_in_a_forum, backend="gloo")
    assert found == "timed out: rank 0 waited for ranks [1], which did not come"


def on_two_hosts(rank):
    """Ranks 0 and 1 are on one host, 2 and 3 on another."""
    transport.host = lambda: f"host {rank // 2}"
    groups = make_group_objects(Mesh.of({"dp": 2, "tp": 2}), transport="auto")
    found = {axis: carrier_of(group) for axis, group in groups.items()}
    for axis, group in groups.items():
        x = torch.ones(1) * rank
        dist.all_reduce(x, group=group)
        found[f"{axis} sum"] = x.item()
    return found


@pytest.mark.ranks
def test_an_axis_within_hosts_shares_memory_where_another_crosses_them():
    for rank, found in enumerate(on_ranks(4, on_two_hosts, backend="gloo")):
        assert found == {"dp": "gloo", "tp": "shardwright", "dp sum": 2 * (rank % 2) + 2, "tp sum": rank // 2 * 4 + 1}


def what_groups_go_through(rank):
    """On a default group that shares memory: a mesh's groups, as they are asked for."""
    world = dist.group.WORLD
    found = {}
    for wish in (None, "auto", "shared_memory", "gloo"):
        spanning = make_group_objects(Mesh.of(2), transport=wish)["tp"]
        found[wish] = carrier_of(spanning), spanning is world
    patient = make_group_objects(Mesh.of(2), transport="auto", timeout_s=77.0)["tp"]
    found["patient"] = carrier_of(patient), patient is world
    return found


@pytest.mark.ranks
def test_the_default_group_serves_where_it_does_what_is_wished():
    shared = "shardwright", True
    wanted = {None: shared, "auto": shared, "shared_memory": shared, "gloo": ("gloo", False)}
    assert on_ranks(2, what_groups_go_through) == [wanted | {"patient": ("shardwright", False)}] * 2


def carrier():
    dist.barrier()
    return carrier_of(dist.group.WORLD)


@pytest.mark.ranks
def test_a_launch_shares_memory_unless_it_is_told_not_to(monkeypatch):
    monkeypatch.delenv(transport.TRANSPORT_SWITCH, raising=False)
    assert transport.chosen_transport() == "auto"
    monkeypatch.setenv(transport.TRANSPORT_SWITCH, "gloo")
    assert launch(2, carrier, timeout_s=60) == {0: "gloo", 1: "gloo"}
    assert launch(2, carrier, timeout_s=60, transport="auto") == {0: "shardwright", 1: "shardwright"}


def test_an_unknown_transport_is_an_error_with_the_known_ones(monkeypatch):
    with pytest.raises(sw.RunError, match="there is no transport 'mpi'\n  try: auto, shared_memory, gloo"):
        launch(2, carrier, transport="mpi")
    monkeypatch.setenv(transport.TRANSPORT_SWITCH, "nccl")
    with pytest.raises(sw.RunError, match="there is no transport 'nccl'"):
        transport.chosen_transport()
    assert transport.chosen_transport("gloo") == "gloo"
