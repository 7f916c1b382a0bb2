"""What compressed-tensors packs is cut packed, and gives the numbers of the weights it stands for."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import shardwright as sw
from shardwright.sources.checkpoint import open_checkpoint
from tests.support.packed_weights import (
    PLAN,
    cut_right,
    opened_packed,
    pack_ints,
    pack_plain,
    packed_bytes,
    replace,
    said_compressed,
    same_numbers,
    sends,
    stays_packed,
    write_packed,
)

CASES = {
    "fp8, a scale a tensor": ("fp8", (0, 0), True),
    "fp8, blocks that do not divide": ("fp8", (20, 20), True),
    "fp8, a scale a row": ("fp8", (1, 0), True),
    "int8, a scale a row": (8, (1, 0), True),
    "int4 in groups": (4, (1, 16), True, True),
    "int8, with zero points": (8, (1, 0), False),
    "int4, a scale a row, with zero points": (4, (1, 0), False, True),
    "int4 in groups, with zero points": (4, (1, 16), False, True),
    "8 bits in words": (8, (1, 16), True, True),
    "3 bits, across words": (3, (1, 32), False, True),
}
FORMS = {"fp8": "float-quantized", 8: "int-quantized"}


def write(folder, bits, block, symmetric, in_words=False):
    pack = pack_ints if in_words else pack_plain
    changes = {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 4} if bits == 3 else {}
    quantization = said_compressed(bits, block, "pack-quantized" if in_words else FORMS[bits], symmetric=symmetric)
    return write_packed(folder, lambda weight: pack(weight, bits, block, symmetric=symmetric), quantization, **changes)


@pytest.fixture(scope="module")
def plain_sends(tmp_path_factory):
    """What ranks send of the same model unquantised, by number of ranks and plan."""
    folder = tmp_path_factory.mktemp("plain") / "model"
    write(folder, 8, (1, 0), True)
    opened = open_checkpoint(folder, dequantize=torch.float64, cache_length=0)
    return lambda num_ranks, plan="auto": sends(sw.shard(opened.exported, mesh=num_ranks, plan=plan))


@pytest.mark.parametrize(("number", "name"), list(enumerate(CASES)), ids=CASES)
def test_ranks_give_the_dequantised_models_numbers(number, name, tmp_path, plain_sends):
    model = write(tmp_path / "model", *CASES[name])
    opened, real = opened_packed(tmp_path / "model")
    assert not opened.unused
    assert same_numbers(real, model)
    num_ranks = (2, 3, 4)[number % 3]
    sharded = cut_right(real, num_ranks)
    assert sends(sharded).total() <= plain_sends(num_ranks).total()


@pytest.mark.parametrize("name", ["int4 in groups, with zero points", "fp8, blocks that do not divide"])
def test_a_package_holds_the_checkpoints_own_bytes(name, tmp_path):
    write(tmp_path / "model", *CASES[name])
    opened, _ = opened_packed(tmp_path / "model")
    assert stays_packed(tmp_path / "model", opened, 4, tmp_path)


@pytest.fixture(scope="module")
def in_groups(tmp_path_factory):
    """A program with integers in groups."""
    folder = tmp_path_factory.mktemp("groups") / "model"
    write(folder, *CASES["int4 in groups"])
    return opened_packed(folder)[1]


@pytest.mark.parametrize(("num_ranks", "plan"), [(2, PLAN), (3, "hf"), (4, PLAN)])
def test_a_plan_cuts_what_is_packed(num_ranks, plan, in_groups, plain_sends):
    sharded = cut_right(in_groups, num_ranks, plan)
    assert sends(sharded) == plain_sends(num_ranks, plan)
    packed = [one for one in sharded.weights if one.name.endswith("packed")]
    where = {one.name.removeprefix("model.layers.0."): one.layouts["tp"].dim for one in packed}
    assert {where[f"{one}_proj.weight_packed"] for one in ("mlp.down", "self_attn.o")} == {1}
    assert {where[f"{one}_proj.weight_packed"] for one in ("mlp.up", "mlp.gate", "self_attn.q")} == {0}
    most, whole = packed_bytes(sharded)
    # One head more than others is a third of three heads; so are the scales, which a cut within a group leaves whole.
    assert most <= whole / num_ranks + whole / 3


def test_weights_are_dequantised_as_they_are_read(tmp_path):
    model = write(tmp_path / "model", *CASES["int4 in groups, with zero points"])
    _, real = opened_packed(tmp_path / "model", dtype=None, dequantize=torch.float64)
    assert same_numbers(real, model)
    assert not any("weight_" in name for name in real.state_dict)


def edit(folder, change):
    """The configuration's quantisation, changed."""
    config = json.loads((folder / "config.json").read_text())
    change(config["quantization_config"])
    (folder / "config.json").write_text(json.dumps(config))


DAMAGE = {
    "another method": (
        lambda f: edit(f, lambda c: c.update(quant_method="hqq")),
        "by 'hqq', which is not read",
    ),
    "another format": (
        lambda f: edit(f, lambda c: c.update(format="marlin-24")),
        "'marlin-24', which is not read",
    ),
    "another strategy": (
        lambda f: edit(f, lambda c: c["config_groups"]["group_0"]["weights"].update(strategy="attn_head")),
        "shares scales by 'attn_head', which is not read",
    ),
    "no group for them": (
        lambda f: edit(f, lambda c: c["config_groups"]["group_0"].update(targets=["Conv2d"])),
        r"7 problems.*quantises no such module",
    ),
    "scales of another size": (
        lambda f: replace(f, "q_proj.weight_scale", lambda one: one[:, 1:].clone()),
        "q_proj.*scale is",
    ),
    "no words": (lambda f: replace(f, "up_proj.weight_packed", lambda one: None), "lacks .*up_proj.*weight"),
    "rotations": (
        lambda f: edit(f, lambda c: c.update(transform_config={"config_groups": {"R3": {"type": "hadamard"}}})),
        "transform_config, rotations, which is not read",
    ),
    "sparse": (
        lambda f: edit(f, lambda c: c.update(sparsity_config={"format": "sparse-24-bitmask"})),
        "sparsity_config, weights stored as 'sparse-24-bitmask', which is not read",
    ),
    "groups that there are not": (
        lambda f: add_beside(f, "weight_g_idx", lambda columns: torch.arange(columns) // 8),
        r"7 problems.*weight_g_idx' names groups 0 to 5, but there are 3",
    ),
    "a group for no column": (
        lambda f: add_beside(f, "weight_g_idx", lambda columns: torch.empty(0)),
        r"7 problems.*weight_g_idx is \(0,\), not \(48,\)",
    ),
    "not quantised after all": (
        lambda f: replace(f, "down_proj.weight_packed", lambda one: None) or add_plain(f, "down_proj"),
        "stored as torch.float32, not quantised",
    ),
    "another size than the model's": (
        lambda f: (f / "config.json").write_text((f / "config.json").read_text().replace("96", "100")),
        r"has shape \(96, 48\), the configuration says \(100, 48\)",
    ),
}


def add_plain(folder, last):
    file = folder / "model.safetensors"
    stored = load_file(file)
    name = next(one for one in stored if one.endswith(f"{last}.weight_scale"))
    save_file({**stored, name.replace("weight_scale", "weight"): torch.ones(48, 96)}, file, {"format": "pt"})


def add_beside(folder, last, make):
    """A further tensor for each packed weight, by its columns."""
    file = folder / "model.safetensors"
    stored = load_file(file)
    more = {
        name.replace("weight_shape", last): make(int(shape[1]))
        for name, shape in stored.items()
        if name.endswith("weight_shape")
    }
    save_file({**stored, **more}, file, {"format": "pt"})


@pytest.mark.parametrize(("damage", "says"), DAMAGE.values(), ids=DAMAGE)
def test_what_cannot_be_read_is_named(damage, says, tmp_path):
    write(tmp_path / "model", *CASES["int4 in groups"])
    damage(tmp_path / "model")
    with pytest.raises(sw.CheckpointError, match=f"(?s){says}"):
        open_checkpoint(tmp_path / "model", cache_length=0)


def test_activations_are_not_quantised(tmp_path):
    write(tmp_path / "model", *CASES["int8, a scale a row"])
    file = tmp_path / "model" / "model.safetensors"
    stored = load_file(file)
    more = {name.replace("weight_scale", "input_scale"): torch.ones(1) for name in stored if "weight_scale" in name}
    save_file({**stored, **more}, file, {"format": "pt"})
    with pytest.warns(sw.CheckpointWarning, match="input_scale .activations are not quantised"):
        opened = open_checkpoint(tmp_path / "model", cache_length=0)
    assert {one.name for one in opened.unused} == more.keys()


def test_there_must_be_something_to_dequantise(tmp_path):
    write(tmp_path / "model", *CASES["int8, a scale a row"])
    edit_out = json.loads((tmp_path / "model" / "config.json").read_text())
    del edit_out["quantization_config"]
    (tmp_path / "model" / "config.json").write_text(json.dumps(edit_out))
    with pytest.raises(sw.CheckpointError, match="is not quantised"):
        open_checkpoint(tmp_path / "model", dequantize=torch.bfloat16)


def test_a_name_decides_before_a_pattern_and_that_before_a_class(tmp_path):
    def pack(weight):
        # Attention's projections are square here; those of the MLP, which are not, have zero points.
        return pack_plain(weight, 8, (1, 0), symmetric=weight.shape[0] == weight.shape[1])

    def group(targets, strategy):
        return {"targets": targets, "weights": {"num_bits": 8, "type": "int", "strategy": strategy}}

    groups = {
        "class": group(["Linear"], "tensor"),
        "late pattern": group(["re:model.layers.*"], "tensor"),
        "early pattern": group(["re:.*proj"], "channel"),
        "another late pattern": group(["re:.*self_attn.*"], "tensor"),
    }
    names = [f"model.layers.0.mlp.{one}_proj" for one in ("up", "down", "gate")]
    groups["name"] = group(names, "channel")
    groups["name"]["weights"]["symmetric"] = False
    said = {**said_compressed(8, (1, 0), "int-quantized"), "config_groups": groups}
    model = write_packed(tmp_path / "model", pack, said, num_key_value_heads=3, num_attention_heads=3)
    assert same_numbers(opened_packed(tmp_path / "model")[1], model)


@pytest.mark.parametrize("in_words", [True, False])
def test_zero_points_are_read_where_they_are_stored(in_words, tmp_path):
    folder = tmp_path / "model"
    model = write(folder, *CASES["int4 in groups, with zero points" if in_words else "int8, with zero points"])
    edit(folder, lambda config: config["config_groups"]["group_0"]["weights"].update(symmetric=True))
    assert same_numbers(opened_packed(folder)[1], model)


@pytest.mark.parametrize("in_words", [True, False])
def test_zero_points_of_blocks_of_words(in_words, tmp_path):
    def pack(weight):
        parts, plain = pack_ints(weight, 4, (20, 20), symmetric=False)
        zeros = pack_plain(weight, 4, (20, 20), symmetric=False)[0]["weight_zero_point"]
        return (parts if in_words else {**parts, "weight_zero_point": zeros}), plain

    model = write_packed(tmp_path / "model", pack, said_compressed(4, (20, 20), "pack-quantized", symmetric=False))
    _, real = opened_packed(tmp_path / "model")
    assert same_numbers(real, model)
    cut_right(real, 2)


def test_a_group_of_minus_one_says_that_none_is_written(tmp_path):
    model = write(tmp_path / "model", *CASES["int4 in groups"])
    add_beside(tmp_path / "model", "weight_g_idx", lambda columns: torch.arange(columns) // 16 - 1)
    _, real = opened_packed(tmp_path / "model")
    assert same_numbers(real, model)
    assert not any("g_idx" in name for name in real.state_dict)
