"""Quantised weights are cut packed, with their scales; what they cost in collectives is what float weights cost."""

import functools
import re

import pytest
import torch

import shardwright as sw
from shardwright.rules.operators import block_quantized
from shardwright.rules.operators import quantized as quantized_rules
from tests.support.models import MEGATRON, Decoder, relative_error
from tests.support.quantized import DYNAMIC, FORMS, FURTHER, GROUP, INT4, PLAN, WEIGHT_ONLY, pt2e, quantized
from tests.support.ranks import on_ranks

SUM = 2 * 5 * 64 * 4
"""Bytes of the output, which is summed over what the second layer's columns give."""
EXTREMES = 2 * 5 * 2 * 4
"""Bytes of the largest and least value of every row."""


def shard(exported, inputs, mesh, plan):
    sharded = sw.shard(exported, mesh=mesh, plan=plan)
    report = sw.verify(sharded, exported, inputs)
    assert report.ok, str(report)
    assert not sharded.fallbacks
    assert not sharded.gathered_weights
    return sharded


@functools.cache
def of_config(name):
    """A program and its inputs, which no test changes."""
    return quantized({**WEIGHT_ONLY, **DYNAMIC}[name])


def sent(sharded):
    return sorted((c.kind, c.num_bytes) for c in sharded.collectives)


def layout(sharded, name):
    return next(w.layouts["tp"] for w in sharded.weights if w.name == name)


def values(sharded):
    """The tensors that hold quantised values, with a dim that is cut."""
    return [w for w in sharded.weights if w.dtype.itemsize == 1 and w.num_bytes >= 64 * 64]


def check_bytes(sharded):
    for weight in values(sharded):
        cut = weight.layouts["tp"]
        assert isinstance(cut, sw.Shard), weight.name
        group = weight.num_bytes * GROUP / weight.shape[cut.dim]
        assert max(weight.rank_bytes) <= weight.num_bytes / len(weight.rank_bytes) + group
        assert sum(weight.rank_bytes) == weight.num_bytes


@pytest.mark.parametrize("name", WEIGHT_ONLY)
def test_styles_cut_values_with_their_scales(name):
    exported, inputs = of_config(name)
    for num_ranks in (2, 3, 4):
        sharded = shard(exported, inputs, num_ranks, PLAN)
        assert sent(sharded) == [("all_reduce", SUM)]
        check_bytes(sharded)
        assert layout(sharded, "up.weight.qdata").dim == 0
        assert layout(sharded, "down.weight.qdata").dim == 1
        scale = layout(sharded, "up.weight.scale")
        assert scale == sw.Replicate() if name == "int8 by tensor" else scale.dim == 0
        if "group" in name:
            assert layout(sharded, "down.weight.scale").dim == 1
            for layer in ("up", "down"):
                assert layout(sharded, f"{layer}.weight.zero_point") == layout(sharded, f"{layer}.weight.scale")
            assert all(size % GROUP == 0 for size in layout(sharded, "down.weight.qdata").cut.local_sizes())


@pytest.mark.parametrize("name", DYNAMIC)
def test_of_activations_only_extremes_are_reduced(name):
    exported, inputs = of_config(name)
    for num_ranks in (2, 3):
        sharded = shard(exported, inputs, num_ranks, PLAN)
        # Asymmetric activations also need the sum of each row of the weight.
        assert sent(sharded)[:1] == [("all_reduce", EXTREMES)]
        assert [one for one in sent(sharded) if one[1] > EXTREMES and one[1] != 64 * 8] == [("all_reduce", SUM)]
        check_bytes(sharded)


@pytest.mark.parametrize("name", FURTHER)
def test_what_shares_a_scale_may_be_anything(name):
    exported, inputs = quantized(FURTHER[name])
    sharded = shard(exported, inputs, 3, PLAN)
    # One scale for all activations is chosen from two numbers.
    of_activations = [("all_reduce", 2 * 4)] if name == "int8 activations, by tensor" else []
    assert sent(sharded) == [*of_activations, ("all_reduce", SUM)]
    check_bytes(sharded)


@pytest.mark.parametrize("num_ranks", [2, 3, 4])
def test_values_and_scales_together_are_at_most_a_group_more(num_ranks):
    """Five groups of columns: where values are cut within one, scales are whole on every rank."""
    sharded = shard(*quantized(FURTHER["float8 by group"]), num_ranks, PLAN)
    for layer in ("up", "down"):
        parts = [weight for weight in sharded.weights if weight.name.startswith(f"{layer}.")]
        assert len(parts) == 2
        busiest = max(sum(part.rank_bytes[rank] for part in parts) for rank in range(num_ranks))
        assert busiest <= sum(part.num_bytes for part in parts) * (1 / num_ranks + GROUP / 160), layer


def test_no_operator_that_quantises_lacks_a_rule():
    spaces = ("quantized_decomposed::", "torchao::")
    every = {name.partition(".")[0] for name in torch._C._dispatch_get_all_op_names() if name.startswith(spaces)}
    wanted = {name for name in every if re.search(r"::_?(choose_|quantize_|dequantize_|fake_quant)", name)}
    assert len(wanted) > 15
    assert wanted <= {*quantized_rules.RULES, *block_quantized.RULES}


@pytest.mark.parametrize("form", ["composites kept", "decomposed"])
@pytest.mark.parametrize("name", [*WEIGHT_ONLY, *DYNAMIC])
def test_programs_that_were_decomposed_before(name, form):
    exported, inputs = of_config(name)
    exported = FORMS[form](exported)
    sharded = shard(exported, inputs, 3, PLAN)
    assert layout(sharded, "up.parametrizations.weight.original0").dim == 0
    assert layout(sharded, "down.parametrizations.weight.original0").dim == 1
    # Maxima and minima are operators of their own by now, and are reduced together all the same.
    wanted = [("all_reduce", SUM)] if name in WEIGHT_ONLY else [("all_reduce", EXTREMES), ("all_reduce", SUM)]
    assert [one for one in sent(sharded) if one[1] != 64 * 8] == wanted
    check_bytes(shard(exported, inputs, 2, "auto"))


@pytest.mark.parametrize("name", [*WEIGHT_ONLY, *DYNAMIC])
def test_the_automatic_plan_cuts_them(name):
    exported, inputs = of_config(name)
    sharded = shard(exported, inputs, 2, "auto")
    assert len(values(sharded)) == 2
    check_bytes(sharded)


def test_a_decoder_in_the_plan_of_every_paper():
    ids = torch.randint(0, 96, (2, 8), generator=torch.Generator().manual_seed(3))
    plain = torch.export.export(Decoder(), (ids,))
    exported, inputs = quantized(WEIGHT_ONLY["intx by group"], Decoder(), (ids,))
    sharded = shard(exported, inputs, 2, MEGATRON)
    assert sent(sharded) == sent(sw.shard(plain, mesh=2, plan=MEGATRON))
    assert layout(sharded, "layers.1.mlp.down_proj.weight.qdata").dim == 1
    by_name = {key + ".weight": style for key, style in MEGATRON.items()}
    named = shard(exported, inputs, 2, by_name)
    assert [w.layouts for w in named.weights] == [w.layouts for w in sharded.weights]


@pytest.mark.parametrize("fold", [True, False], ids=["quantised weights", "float weights"])
@pytest.mark.parametrize("kind", ["static", "dynamic", "qat"])
def test_pt2e(kind, fold):
    exported, inputs = pt2e(kind, fold=fold)
    up, down = ("_frozen_param0", "_frozen_param1") if fold else ("up.weight", "down.weight")
    for form in ("exported", "decomposed"):
        sharded = shard(FORMS[form](exported), inputs, 3, PLAN)
        largest = max(sent(sharded), key=lambda one: one[1])
        assert largest == ("all_reduce", SUM)
        assert len(sent(sharded)) == (2 if kind == "dynamic" else 1)
        assert (layout(sharded, up).dim, layout(sharded, down).dim) == (0, 1)
        # The float weights that conversion leaves behind are read by nothing.
        assert ("up.weight" in {w.name for w in sharded.weights}) == (not fold)


def test_int4_values_are_cut_between_blocks_of_rows():
    exported, inputs = quantized(INT4["int4"], dtype=torch.bfloat16)
    sharded = sw.shard(exported, mesh=2, plan="auto")
    assert sw.verify(sharded, exported, inputs).ok
    assert not sharded.gathered_weights


SAVED = {
    "torchao": lambda: of_config("intx by group"),
    "torchao, dynamic": lambda: of_config("int8 activations"),
    "float8": lambda: of_config("float8"),
    "pt2e": lambda: pt2e("static"),
}


@pytest.mark.parametrize("name", SAVED)
def test_packages_hold_packed_values(tmp_path, name):
    exported, inputs = SAVED[name]()
    sharded = sw.shard(exported, mesh=2, plan=PLAN)
    sharded.save(tmp_path / "two")
    files = (tmp_path / "two").glob("weights-*.safetensors")
    stored = sum(file.stat().st_size for file in files)
    assert stored < 2 * 64 * 160 * 1.5 + 8192
    names = sw.gather(tmp_path / "two", tmp_path / "state.safetensors")
    assert names == sorted(w.name for w in sharded.weights)
    sw.reshard(tmp_path / "two", tmp_path / "one", mesh=1)
    wanted = exported.module()(*inputs)
    assert relative_error(sw.load(tmp_path / "one")(*inputs), wanted) < 1e-5


@pytest.mark.ranks
def test_on_real_ranks(tmp_path):
    for name in ("torchao, dynamic", "pt2e"):
        exported, inputs = SAVED[name]()
        sw.shard(exported, mesh=2, plan=PLAN).save(tmp_path / name)
        wanted = exported.module()(*inputs)
        for found in on_ranks(2, run_package, tmp_path / name, inputs):
            assert relative_error(found, wanted) < 1e-5


def run_package(rank, folder, inputs):
    return sw.load(folder)(*inputs).detach().clone()
