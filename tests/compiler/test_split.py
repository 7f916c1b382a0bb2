"""Key-value heads fewer than the ranks: one axis is compiled in two parts, and costs what one would."""

import warnings
from collections import Counter

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import shardwright as sw
from shardwright.compiler import split
from shardwright.layout.mesh import Mesh
from tests.support.models import MEGATRON, Decoder, redraw
from tests.support.ranks import on_ranks

IDS = torch.randint(0, 96, (2, 8), generator=torch.Generator().manual_seed(0))


def exported(kv_heads, **changes):
    model = redraw(Decoder(heads=8, kv_heads=kv_heads, width=64, hidden=64, **changes))
    return torch.export.export(model, (IDS,))


def shares(sharded, name):
    """The largest share of a weight that any rank holds."""
    (weight,) = (w for w in sharded.weights if w.name.endswith(name))
    return max(weight.rank_bytes) / weight.num_bytes


@pytest.mark.parametrize(("kv_heads", "num_ranks"), [(2, 4), (2, 8), (4, 8)])
@pytest.mark.parametrize("plan", [MEGATRON, "auto"])
def test_heads_are_cut_as_far_as_they_go_and_queries_all_the_way(kv_heads, num_ranks, plan):
    program = exported(kv_heads)
    sharded = sw.shard(program, mesh=num_ranks, plan=plan, slack=0.3)
    assert sw.verify(sharded, program, (IDS,)).ok
    assert sharded.mesh.axes == (("tp.0", kv_heads), ("tp.1", num_ranks // kv_heads))
    for name in ("q_proj", "o_proj", "gate_proj", "down_proj"):
        assert shares(sharded, f"layers.0.{'mlp' if name[0] in 'gd' else 'self_attn'}.{name}.weight") == 1 / num_ranks
    for name in ("k_proj", "v_proj"):
        assert shares(sharded, f"layers.0.self_attn.{name}.weight") == 1 / kv_heads
    counts = Counter((c.kind, c.axis) for c in sharded.collectives)
    # Two a layer, over all ranks at once; with the automatic plan embeddings and logits too, maybe one part each.
    if plan == "auto":
        assert counts["all_reduce", "tp"] >= 2 * 2
        assert counts.total() <= 2 * 2 + 3
    else:
        assert counts == {("all_reduce", "tp"): 4}


def test_the_code_of_a_rank_is_python_on_a_split_axis():
    """Constants of a rank are named after the axis, a part of which has a dot in its name; torch warns where it cannot
    compile the code of a graph.
    """
    sharded = sw.shard(exported(2), mesh=8, plan={**MEGATRON, "embed": "embedding_rowwise"})
    assert sharded.mesh.unions
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        program = sharded.exported(7)
    assert "c_rank_value_0_tp_0" in program.graph_module.code


@pytest.mark.parametrize("kv_heads", [2, 4])
def test_a_first_part_that_costs_too_much_already_is_the_end_of_a_split(monkeypatch, kv_heads):
    program, compile_axis, compiled = exported(kv_heads, layers=1), split.compile_axis, []

    def noted(before, asked, request):
        compiled.append(asked.axis)
        return compile_axis(before, asked, request)

    monkeypatch.setattr(split, "compile_axis", noted)
    found = sw.shard(program, mesh=8)
    assert compiled == ["tp.0"]
    # Compiled to the end, the split is not taken either.
    monkeypatch.setattr(split, "_may_be_cheaper", lambda *_: True)
    assert str(sw.shard(program, mesh=8).exported(7)) == str(found.exported(7))
    assert compiled == ["tp.0", "tp.0", "tp.1"]


def test_one_head_for_all_needs_no_split():
    sharded = sw.shard(
        exported(1), mesh=4, plan={"layers.*.self_attn.q_proj": "colwise", "layers.*.self_attn.o_proj": "rowwise"}
    )
    assert sharded.mesh.axes == (("tp", 4),)


def test_heads_that_share_no_factor_with_the_ranks_leave_the_axis_whole():
    program = torch.export.export(redraw(Decoder(heads=6, kv_heads=2, width=48, hidden=48)), (IDS,))
    sharded = sw.shard(program, mesh=3, plan=MEGATRON)
    assert sharded.mesh.axes == (("tp", 3),)
    assert sw.verify(sharded, program, (IDS,)).ok


def test_what_the_first_part_would_cut_unevenly_leaves_the_axis_whole():
    """Three heads on 6 ranks: 3 would cut the 128 hidden features unevenly, and ranks would need different programs."""
    program = torch.export.export(redraw(Decoder(heads=9, kv_heads=3, width=72, hidden=128)), (IDS,))
    for plan in (MEGATRON, "auto"):
        sharded = sw.shard(program, mesh=6, plan=plan)
        assert sharded.mesh.axes == (("tp", 6),)
        assert sw.verify(sharded, program, (IDS,)).ok


@pytest.mark.parametrize(("batch", "is_split"), [(8, True), (6, False)])
def test_inputs_are_cut_as_the_whole_axis_cuts_them(batch, is_split):
    """Six rows on 4 ranks are 2, 2, 2 and 0; cut in two and again in two they would be 2, 1, 2 and 1."""
    ids = torch.randint(0, 96, (batch, 8), generator=torch.Generator().manual_seed(0))
    program = torch.export.export(redraw(Decoder(heads=8, kv_heads=2, width=64, hidden=64)), (ids,))
    sharded = sw.shard(program, mesh=4, plan=MEGATRON, inputs=sw.Shard(0))
    assert (len(sharded.mesh.axes) == 2) == is_split
    sizes = [len(given[0]) for given in sharded.rank_inputs([ids])]
    assert sizes == [len(piece) for piece in ids.chunk(4)] + [0] * (4 - len(ids.chunk(4)))
    assert sw.verify(sharded, program, (ids,)).ok


def test_sequence_parallel_pairs_are_merged_too():
    program = exported(2)
    norms = {"layers.*.norm[1,2]": "sequence_parallel", "norm": "sequence_parallel"}
    sharded = sw.shard(program, mesh=4, plan={**MEGATRON, **norms})
    assert sw.verify(sharded, program, (IDS,)).ok
    assert {c.axis for c in sharded.collectives} == {"tp"}
    counts = Counter(c.kind for c in sharded.collectives)
    assert counts["reduce_scatter"] and counts["all_gather"] and not counts["all_reduce"]
    # What is scattered in one go is the whole hidden state, not the half that a second scatter would see.
    assert {c.num_bytes for c in sharded.collectives if c.kind == "reduce_scatter"} == {2 * 8 * 64 * 4}


def test_a_second_axis_beside_a_split_one():
    program = exported(2)
    cut = {"dp": sw.Shard(0)}
    sharded = sw.shard(program, mesh={"dp": 2, "tp": 4}, plan={"tp": MEGATRON}, inputs=cut, outputs=cut)
    assert sharded.mesh.axes == (("dp", 2), ("tp.0", 2), ("tp.1", 2))
    assert Counter((c.kind, c.axis) for c in sharded.collectives) == {("all_reduce", "tp"): 4}
    whole = program.module()(IDS)
    for rank, out in enumerate(sharded.simulate(IDS)):
        torch.testing.assert_close(out, whole.chunk(2)[rank // 4], rtol=1e-4, atol=1e-4)


def test_a_budget_counts_merged_collectives():
    sw.shard(exported(2), mesh=4, plan=MEGATRON, budget={"all_reduce": 4})


def test_the_groups_of_a_split_mesh():
    mesh = Mesh.of({"dp": 2, "tp": 4}).split("tp", 2)
    assert mesh.num_ranks == 8
    assert mesh.groups("tp") == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert mesh.groups("tp.0") == [[0, 2], [1, 3], [4, 6], [5, 7]]
    assert mesh.groups("tp.1") == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert mesh.size("tp") == 4


def loaded_outputs(rank, folder):
    return sw.load(folder)(IDS)


@pytest.mark.ranks
def test_a_package_of_a_split_axis_runs_on_real_ranks(tmp_path):
    program = exported(2)
    sw.shard(program, mesh=4, plan=MEGATRON).save(str(tmp_path / "p"))
    for out in on_ranks(4, loaded_outputs, tmp_path / "p"):
        torch.testing.assert_close(out, program.module()(IDS), rtol=1e-4, atol=1e-4)


def test_a_package_of_a_split_axis_is_gathered_and_made_anew(tmp_path):
    program = exported(2)
    sw.shard(program, mesh=4, plan=MEGATRON).save(str(tmp_path / "p"))
    sw.reshard(tmp_path / "p", tmp_path / "q", mesh=2)
    for folder in ("p", "q"):
        sw.gather(tmp_path / folder, tmp_path / f"{folder}.safetensors")
        whole = load_file(tmp_path / f"{folder}.safetensors")
        for name, tensor in program.state_dict.items():
            assert name not in whole or torch.equal(whole[name], tensor), name
        assert "layers.0.self_attn.k_proj.weight" in whole


class Grouped(nn.Module):
    """Eight query heads over a static cache of two key-value heads, written in place."""

    def __init__(self):
        super().__init__()
        self.q_proj, self.k_proj, self.o_proj = (nn.Linear(32, n, bias=False) for n in (32, 8, 32))
        self.register_buffer("keys", torch.zeros(1, 2, 8, 4))

    def forward(self, x, position):
        q = self.q_proj(x).unflatten(-1, (8, 4)).transpose(1, 2)
        self.keys.index_copy_(2, position, self.k_proj(x).unflatten(-1, (2, 4)).transpose(1, 2))
        keys = self.keys[:, :, None].expand(1, 2, 4, 8, 4).reshape(1, 8, 8, 4)
        return self.o_proj(nn.functional.scaled_dot_product_attention(q, keys, keys).transpose(1, 2).flatten(2))


def test_a_cache_written_in_place_is_cut_with_its_heads():
    steps = [(torch.randn(1, 1, 32), torch.tensor([position])) for position in range(3)]
    program = torch.export.export(redraw(Grouped()), steps[0])
    sharded = sw.shard(program, mesh=4, plan={"[qk]_proj": "colwise", "o_proj": "rowwise"})
    assert shares(sharded, "keys") == shares(sharded, "k_proj.weight") == 1 / 2
    assert [c.kind for c in sharded.collectives] == ["all_reduce"]
    whole, simulation = program.module(), sharded.simulation()
    for step in steps:
        wanted = whole(*step)
        for out in simulation(*step):
            torch.testing.assert_close(out, wanted, rtol=1e-4, atol=1e-4)
