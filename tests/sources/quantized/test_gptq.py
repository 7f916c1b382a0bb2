"""What GPTQ packs, along input features, is cut both ways."""

import pytest

import shardwright as sw
from shardwright.sources.checkpoint import open_checkpoint
from tests.support.packed_weights import (
    PLAN,
    cut_right,
    opened_packed,
    pack_gptq,
    replace,
    same_numbers,
    stays_packed,
    write_packed,
)


def said(bits, form="gptq", **more):
    return {"quant_method": "gptq", "bits": bits, "group_size": 16, "checkpoint_format": form, "sym": False, **more}


CASES = {
    "4 bits": (4, "gptq", True, 2, "auto"),
    "4 bits, a plan": (4, "gptq", True, 3, PLAN),
    "4 bits in act-order": (4, "gptq", False, 3, PLAN),
    "8 bits without the offset": (8, "gptq_v2", True, 3, "auto"),
}


@pytest.mark.parametrize("name", CASES)
def test_ranks_give_the_dequantised_models_numbers(name, tmp_path):
    bits, form, is_ordered, num_ranks, plan = CASES[name]
    folder = tmp_path / "model"
    model = write_packed(
        folder, lambda weight: pack_gptq(weight, bits, form=form, is_ordered=is_ordered), said(bits, form)
    )
    opened, real = opened_packed(folder)
    assert not opened.unused
    assert same_numbers(real, model)
    assert any("g_idx" in name for name in real.state_dict) is not is_ordered
    sharded = cut_right(real, num_ranks, plan)
    if plan is PLAN:
        where = {one.name.removeprefix("model.layers.0."): one.layouts["tp"] for one in sharded.weights}
        assert where["mlp.down_proj.qweight"].dim == where["self_attn.o_proj.qweight"].dim == 0
        assert where["mlp.up_proj.qweight"].dim == where["self_attn.q_proj.qweight"].dim == 1
        # In act-order a rank's features are of all groups.
        assert isinstance(where["mlp.down_proj.scales"], sw.Shard) is is_ordered


def test_a_package_holds_the_checkpoints_own_bytes(tmp_path):
    write_packed(tmp_path / "model", lambda weight: pack_gptq(weight, 4, is_ordered=False), said(4))
    opened, _ = opened_packed(tmp_path / "model")
    assert stays_packed(tmp_path / "model", opened, 3, tmp_path)


@pytest.mark.parametrize(
    ("quantization", "says"),
    [
        ({**said(4), "format": "gptq_v2"}, "contradicts itself: checkpoint_format 'gptq' and format 'gptq_v2'"),
        (said(4, None, format="marlin"), "'marlin', which is not read"),
        (said(4, "marlin"), "'marlin', which is not read"),
        (said(3), "numbers of 3 bits; those of 2, 4 and 8 bits are read"),
        (said(4, group_size=32), r"groups of 32: qzeros is \(3, \d+\), not \(2, \d+\)"),
    ],
)
def test_what_cannot_be_read_is_named(quantization, says, tmp_path):
    write_packed(tmp_path / "model", lambda weight: pack_gptq(weight, 4), quantization)
    with pytest.raises(sw.CheckpointError, match=f"(?s){says}"):
        open_checkpoint(tmp_path / "model", cache_length=0)


@pytest.mark.parametrize("key", ["checkpoint_format", "format"])
def test_the_format_has_two_keys(key, tmp_path):
    quantization = said(4, None, **{key: "GPTQ_v2"})
    model = write_packed(tmp_path / "model", lambda weight: pack_gptq(weight, 4, form="gptq_v2"), quantization)
    assert same_numbers(opened_packed(tmp_path / "model")[1], model)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda groups: None, r"7 problems.*g_idx' is missing, .* act-order \(desc_act\)"),
        (lambda groups: groups + 1, r"7 problems.*g_idx' names groups 1 to 3, but there are 3"),
        (lambda groups: groups - 1, r"7 problems.*g_idx' names groups -1 to 1, but there are 3"),
    ],
)
def test_the_groups_of_an_act_order_must_be_there(make, says, tmp_path):
    folder = tmp_path / "model"
    write_packed(folder, lambda weight: pack_gptq(weight, 4, is_ordered=False), said(4, desc_act=True))
    replace(folder, "g_idx", make)
    with pytest.raises(sw.CheckpointError, match=f"(?s){says}"):
        open_checkpoint(folder, cache_length=0)
