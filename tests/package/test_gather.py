"""Gathering gives back what was sharded; going to other ranks gives what sharding for them would. To the bit."""

import pytest
import torch
from safetensors.torch import load_file

import shardwright as sw
from shardwright.package.manifest import read_manifest
from tests.support.models import MEGATRON, Cache, Decoder, MLPs, PackedAttention, redraw, relative_error
from tests.support.packed import HEADS, Attention, X, split_off

IDS = torch.randint(0, 96, (2, 8), generator=torch.Generator().manual_seed(3))
PLAN = {**MEGATRON, "embed": "embedding_rowwise"}


def packages_equal(one, other):
    a, b = read_manifest(one), read_manifest(other)
    assert (a.mesh, a.tensors, a.plan, a.collectives) == (b.mesh, b.tensors, b.plan, b.collectives)
    for mine, theirs in zip(a.weights, b.weights, strict=True):
        assert (one / mine).read_bytes() == (other / theirs).read_bytes()


CASES = {
    "a tied decoder": (lambda: Decoder(tied=True), (IDS,), PLAN, (4, 2)),
    "more ranks": (Decoder, (IDS,), PLAN, (2, 8)),
    "uneven heads": (lambda: Decoder(heads=6, kv_heads=3, width=48), (IDS,), PLAN, (2, 3)),
    "an automatic plan": (Decoder, (IDS,), "auto", (4, 3)),
    "biases that join a sum on one rank": (
        MLPs,
        (torch.randn(4, 12),),
        {"mlps.*.0": "colwise", "mlps.*.2": "rowwise"},
        (4, 5),
    ),
    "packed heads": (PackedAttention, (torch.randn(2, 5, 48),), {"qkv": "colwise", "out": "rowwise"}, (2, 4)),
    "packed heads that ranks share": (
        lambda: Attention(split_off(2), HEADS, 2),
        (X,),
        {"qkv": "colwise", "out": "rowwise"},
        (4, 2),
    ),
    "a cache that is part of the state": (Cache, (torch.randn(2, 1, 16), torch.tensor([0])), "auto", (2, 4)),
    "two axes": (Decoder, (IDS,), {"dp": PLAN, "tp": PLAN}, ({"dp": 2, "tp": 2}, {"dp": 2, "tp": 4})),
}


@pytest.mark.parametrize(("make", "inputs", "plan", "meshes"), CASES.values(), ids=CASES)
def test_gather_and_reshard_are_exact(tmp_path, make, inputs, plan, meshes):
    model = redraw(make())
    exported = torch.export.export(model, inputs)
    state = {name: tensor.detach().clone() for name, tensor in exported.state_dict.items()}
    sw.shard(exported, mesh=meshes[0], plan=plan).save(tmp_path / "first")
    sw.shard(exported, mesh=meshes[1], plan=plan).save(tmp_path / "wanted")
    names = sw.gather(tmp_path / "first", tmp_path / "state.safetensors")
    found = load_file(tmp_path / "state.safetensors")
    assert sorted(found) == names
    assert set(state) - set(found) <= {"lm_head.weight"}
    for name, tensor in found.items():
        assert torch.equal(tensor, state[name]), name
    sw.reshard(tmp_path / "first", tmp_path / "second", mesh=meshes[1])
    packages_equal(tmp_path / "second", tmp_path / "wanted")


def test_a_sharded_program_still_works_after_it_was_saved(tmp_path):
    model = redraw(Decoder())
    exported = torch.export.export(model, (IDS,))
    sharded = sw.shard(exported, mesh=2)
    sharded.save(tmp_path / "p")
    assert sw.verify(sharded, exported, (IDS,)).ok
    assert relative_error(exported.module()(IDS), model(IDS)) == 0


@pytest.mark.parametrize("mesh", [{"dp": 4}, {"dp": 2, "tp": 2}, {"tp": 2}])
def test_what_was_taken_in_pieces_is_taken_so_on_other_ranks(tmp_path, mesh):
    given = torch.randn(8, 16)
    exported = torch.export.export(torch.nn.Linear(16, 4), (given,))
    sw.shard(exported, mesh={"dp": 2}, plan={}, inputs={"dp": {"input": sw.Shard(0)}}).save(tmp_path / "p")
    sharded = sw.reshard(tmp_path / "p", tmp_path / "q", mesh=mesh, plan={axis: {} for axis in mesh})
    pieces = [one for (one,) in sharded.rank_inputs([given])]
    wanted = [one for one in given.chunk(mesh.get("dp", 1)) for _ in range(mesh.get("tp", 1))]
    assert all(map(torch.equal, pieces, wanted))
    assert len(pieces) == len(wanted)


def test_a_plan_of_style_objects_must_be_given_again(tmp_path):
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel

    exported = torch.export.export(redraw(MLPs()), (torch.randn(4, 12),))
    sw.shard(exported, mesh=2, plan={"mlps.*.0": ColwiseParallel, "mlps.*.2": RowwiseParallel()}).save(tmp_path / "p")
    with pytest.raises(sw.PackageError, match=r"style objects.*\n  try: give one with --plan"):
        sw.reshard(tmp_path / "p", tmp_path / "q", mesh=3)
    sw.reshard(tmp_path / "p", tmp_path / "q", mesh=3, plan="auto")
    with pytest.raises(sw.PackageError, match="exists already"):
        sw.reshard(tmp_path / "p", tmp_path / "q", mesh=3, plan="auto")


def test_gathering_writes_over_nothing(tmp_path):
    exported = torch.export.export(redraw(MLPs()), (torch.randn(4, 12),))
    sw.shard(exported, mesh=2).save(tmp_path / "p")
    (tmp_path / "state").write_text("mine")
    with pytest.raises(sw.PackageError, match="exists already"):
        sw.gather(tmp_path / "p", tmp_path / "state")
    with pytest.raises(sw.PackageError, match="cannot write"):
        sw.gather(tmp_path / "p", tmp_path / "no" / "where")
    weights = tmp_path / "p" / "weights-00001-of-00002.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\xff")
    with pytest.raises(sw.PackageError, match="altered or damaged"):
        sw.gather(tmp_path / "p", tmp_path / "other")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p", "state"]
