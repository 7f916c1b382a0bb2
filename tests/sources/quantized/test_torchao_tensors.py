"""What torchao and transformers save is cut packed, and gives the numbers of torchao's own dequantised weights."""

import json

import pytest
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import save_file
from torchao.quantization import (
    Float8WeightOnlyConfig,
    Int8DynamicActivationInt8WeightConfig,
    Int8WeightOnlyConfig,
    IntxWeightOnlyConfig,
    PerGroup,
)
from torchao.quantization.quant_primitives import MappingType

import shardwright as sw
from shardwright.layout.box import Region
from shardwright.sources.checkpoint import open_checkpoint
from tests.support.packed_weights import PLAN, cut_right, opened_packed, same_numbers
from tests.support.tiny import write_checkpoint

CONFIGS = {
    "int8, a scale a row": lambda: Int8WeightOnlyConfig(set_inductor_config=False),
    "int8, for quantised activations": lambda: Int8DynamicActivationInt8WeightConfig(set_inductor_config=False),
    "float8": lambda: Float8WeightOnlyConfig(set_inductor_config=False),
    "int4 in groups, with zero points": lambda: IntxWeightOnlyConfig(
        weight_dtype=torch.int4, granularity=PerGroup(16), mapping_type=MappingType.ASYMMETRIC
    ),
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain") / "model"
    write_checkpoint(folder, max_shard_size="1GB", num_hidden_layers=1, tie_word_embeddings=False)
    return folder


def write(plain, folder, name):
    """A checkpoint as transformers saves it, and the model with torchao's own dequantised weights, in float32."""
    how = {"dtype": torch.float32, "attn_implementation": "sdpa"}
    saved = transformers.AutoModelForCausalLM.from_pretrained(
        plain, quantization_config=transformers.TorchAoConfig(CONFIGS[name]()), **how
    )
    saved.save_pretrained(folder)
    read = transformers.AutoModelForCausalLM.from_pretrained(folder, **how)
    model = transformers.AutoModelForCausalLM.from_pretrained(plain, **how)
    weights = {key: one.dequantize() if hasattr(one, "qdata") else one.detach() for key, one in read.named_parameters()}
    model.load_state_dict(weights, strict=False)
    return model.eval()


@pytest.mark.parametrize(("name", "num_ranks"), [*zip(CONFIGS, (2, 3, 4, 2), strict=True)], ids=CONFIGS)
def test_ranks_give_torchaos_dequantised_numbers(name, num_ranks, plain, tmp_path):
    model = write(plain, tmp_path / "model", name)
    opened, real = opened_packed(tmp_path / "model", dtype=torch.float32)
    assert not opened.unused
    assert same_numbers(real, model, within=1e-5)
    assert real.state_dict["model.layers.0.mlp.up_proj._weight_qdata"].dtype.itemsize == 1
    sharded = cut_right(real, num_ranks, PLAN, within=1e-5)
    where = {one.name.removeprefix("model.layers.0.mlp."): one.layouts["tp"] for one in sharded.weights}
    assert (where["up_proj._weight_qdata"].dim, where["down_proj._weight_qdata"].dim) == (0, 1)
    assert where["up_proj._weight_scale"].dim == 0
    # Where a row has one scale, it multiplies what the matmul gives, and nothing as large as the weight.
    scaled = [node for node in real.graph.nodes if node.target is torch.ops.aten.mul.Tensor and is_weight(node)]
    assert bool(scaled) == ("in groups" in name)
    dequantised = open_checkpoint(tmp_path / "model", cache_length=0, dequantize=torch.float32)
    for key, weight in model.named_parameters():
        assert torch.equal(dequantised.source.read(key, Region.whole(weight.shape), torch.float32), weight), key


def is_weight(node):
    return tuple(node.meta["val"].shape) == (96, 48)


def rewrite(folder, change):
    """The file's tensors and the texts of its header, changed; whatever the configuration said is gone."""
    file, config = folder / "model.safetensors", folder / "config.json"
    with safe_open(file, framework="pt") as opened:
        tensors, texts = {key: opened.get_tensor(key) for key in opened.keys()}, opened.metadata()  # noqa: SIM118
    change(tensors, texts)
    save_file(tensors, file, texts)
    said = json.loads(config.read_text())
    said.pop("quantization_config", None)
    config.write_text(json.dumps(said))


UP = "model.layers.0.mlp.up_proj.weight"


def described(change):
    """A change of what the header says of one weight."""

    def run(tensors, texts):
        said = json.loads(texts[UP])
        change(said)
        texts[UP] = json.dumps(said)

    return run


def stacked(tensors, texts):
    """One weight as a stack of four matrices, of which two share their scales."""
    at = UP.removesuffix("weight")
    tensors[f"{at}_weight_qdata"] = tensors[f"{at}_weight_qdata"].view(4, 24, 48)
    tensors[f"{at}_weight_scale"] = tensors[f"{at}_weight_scale"][:48].reshape(2, 24, 1)
    tensors.pop(f"{at}_weight_zero_point", None)
    described(lambda said: said["_data"].update(block_size=[2, 1, 48]))(tensors, texts)
    described(lambda said: said.update(_tensor_data_names=["qdata", "scale"]))(tensors, texts)


DAMAGE = {
    "another kind": (described(lambda said: said.update(_type="Int4OpaqueTensor")), "vectors of one kind of CPU"),
    "an unknown kind": (described(lambda said: said.update(_type="Int9Tensor")), "is a Int9Tensor of torchao's"),
    "more parts": (
        described(lambda said: said["_tensor_data_names"].append("more")),
        "with the parts .*, more, which is not read",
    ),
    "other blocks": (described(lambda said: said["_data"].update(block_size=[1, 16])), r"says blocks of \[1, 16\]"),
    "two matrices of four that share scales": (stacked, r"has scales of shape \(2, 24, 1\)"),
    "no data": (described(lambda said: said.update(_data=3)), "_data must be a mapping such as .*, got 3"),
    "no text": (lambda tensors, texts: texts.pop(UP), "_weight_qdata' is stored, but no header"),
    "no scale": (
        lambda tensors, texts: tensors.pop("model.layers.0.mlp.up_proj._weight_scale"),
        "the checkpoint lacks 'model.layers.0.mlp.up_proj._weight_scale'",
    ),
}


@pytest.fixture(scope="module")
def int8(plain, tmp_path_factory):
    folder = tmp_path_factory.mktemp("int8") / "model"
    return folder, write(plain, folder, "int8, a scale a row")


@pytest.mark.parametrize("name", DAMAGE)
def test_what_cannot_be_read_is_named(name, int8, tmp_path):
    change, says = DAMAGE[name]
    for file in ("config.json", "model.safetensors"):
        (tmp_path / file).write_bytes((int8[0] / file).read_bytes())
    rewrite(tmp_path, change)
    with pytest.raises(sw.CheckpointError, match=f"(?s){says}"):
        open_checkpoint(tmp_path, cache_length=0)


def test_what_other_writers_say_in_a_header_is_not_read(plain, tmp_path):
    for file in ("config.json", "model.safetensors"):
        (tmp_path / file).write_bytes((plain / file).read_bytes())
    rewrite(tmp_path, lambda tensors, texts: texts.update({UP: json.dumps({"_type": "Mine"})}))
    assert open_checkpoint(tmp_path, cache_length=0).source.holders.keys() >= {UP}


def test_the_header_is_enough_and_what_multiplies_activations_multiplies_the_weight(int8, tmp_path):
    """Without a configuration; where activations are multiplied before the matmul, the weight is instead."""
    folder, model = int8
    for file in ("config.json", "model.safetensors"):
        (tmp_path / file).write_bytes((folder / file).read_bytes())
    before = torch.rand(48, generator=torch.Generator().manual_seed(0)) + 0.5
    part = "model.layers.0.mlp.up_proj._weight_act_pre_scale"
    rewrite(tmp_path, lambda tensors, texts: tensors.update({part: before}))
    opened = open_checkpoint(tmp_path, cache_length=0, dequantize=torch.float32)
    found = opened.source.read(UP, Region.whole((96, 48)), torch.float32)
    assert torch.equal(found, model.get_parameter(UP) * before)
    cut_right(opened_packed(tmp_path, dtype=torch.float32)[1], 2, within=1e-5)
