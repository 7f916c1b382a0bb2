"""Tied tensors are what the checkpoint stores: the same values as transformers loads, and the same names share one."""

import json
import warnings

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn

import shardwright as sw
from shardwright.layout.box import Region, WholeTensor, read_region
from shardwright.sources.checkpoint import open_checkpoint
from shardwright.sources.hugging_face.build import build_model
from shardwright.sources.hugging_face.find_model import find_weights
from shardwright.sources.hugging_face.ties import settle_ties
from tests.support.tiny import write_checkpoint

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
KINDS = {
    "llama": (EMBEDDING, HEAD, {}),
    "bert": ("bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight", {}),
    "bert bias": ("cls.predictions.bias", "cls.predictions.decoder.bias", {}),
    "gpt2": ("transformer.wte.weight", HEAD, {"n_embd": 48, "n_head": 6, "n_layer": 1}),
    "t5": ("shared.weight", "encoder.embed_tokens.weight", {}),
}


def write_model(folder, kind, changes):
    if kind == "t5":
        config = transformers.T5Config(d_model=16, d_kv=4, d_ff=32, num_layers=1, num_heads=2, vocab_size=37)
        model = transformers.T5EncoderModel(config)
        model.save_pretrained(folder)
        return model
    return write_checkpoint(folder, kind.split()[0], max_shard_size="1GB", **changes)


def store(folder, tensors, drop=()):
    """Tensors put into, and names taken out of, a checkpoint of one file."""
    file = folder / "model.safetensors"
    held = {name: tensor for name, tensor in {**load_file(file), **tensors}.items() if name not in drop}
    save_file({name: tensor.contiguous() for name, tensor in held.items()}, file, {"format": "pt"})


def loaded(folder):
    """The model as transformers loads it."""
    config = transformers.AutoConfig.from_pretrained(folder)
    return getattr(transformers, config.architectures[0]).from_pretrained(folder)


def settled(folder):
    """The model as it would be exported, what holds its tensors, and the warnings."""
    config = transformers.AutoConfig.from_pretrained(folder)
    model, _ = build_model(config, folder, torch.float32)
    holders, unused, _ = find_weights(model, folder, None)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        settle_ties(model, holders, unused)
    return model, holders, [str(one.message) for one in told]


def ties_of(model):
    """The names of every parameter, by its first."""
    groups = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        groups.setdefault(id(parameter), []).append(name)
    return sorted(map(sorted, groups.values()))


def agrees(folder):
    """The warnings, once names share tensors and tensors have values as transformers has it."""
    wanted = loaded(folder)
    model, holders, told = settled(folder)
    assert ties_of(model) == ties_of(wanted)
    for name, parameter in wanted.named_parameters(remove_duplicate=False):
        found = read_region(Region.whole(parameter.shape), [holders[name]], parameter.dtype)
        assert torch.equal(found, parameter), name
    return told


@pytest.mark.parametrize("kind", KINDS)
def test_a_tensor_of_its_own_beside_the_one_it_is_tied_to(kind, tmp_path):
    first, second, changes = KINDS[kind]
    write_model(tmp_path, kind, changes)
    held = load_file(tmp_path / "model.safetensors")
    assert agrees(tmp_path) == []
    one = held.get(first, held.get(second))
    store(tmp_path, {first: one, second: one.clone()})
    assert agrees(tmp_path) == [], "stored twice and equal: they stay tied"
    store(tmp_path, {first: one, second: one + 1})
    assert f"{second} and {first}" in agrees(tmp_path)[0]
    store(tmp_path, {second: one + 2}, drop=[first])
    assert agrees(tmp_path) == [], "only one of them is stored: both are that one"


def test_values_are_compared_as_the_model_takes_them(tmp_path):
    write_checkpoint(tmp_path, max_shard_size="1GB")
    rounded = load_file(tmp_path / "model.safetensors")[EMBEDDING].bfloat16()
    store(tmp_path, {EMBEDDING: rounded.float(), HEAD: rounded})
    assert agrees(tmp_path) == []


def test_the_numbers_of_a_head_of_its_own(tmp_path):
    write_checkpoint(tmp_path / "model", max_shard_size="1GB")
    head = torch.randn(320, 48)
    store(tmp_path / "model", {HEAD: head})
    with pytest.warns(sw.CheckpointWarning, match=f"kept apart: {HEAD} and {EMBEDDING}"):
        opened = open_checkpoint(tmp_path / "model", cache_length=0)
    opened.save(sw.shard(opened.exported, mesh=1), tmp_path / "p")
    ids = torch.randint(3, 300, (2, 7))
    with torch.no_grad():
        torch.testing.assert_close(sw.load(tmp_path / "p")(input_ids=ids), loaded(tmp_path / "model")(ids).logits)
    sw.gather(tmp_path / "p", tmp_path / "state.safetensors")
    assert torch.equal(load_file(tmp_path / "state.safetensors")[HEAD], head)


def test_a_head_that_is_neither_stored_nor_tied(tmp_path):
    write_checkpoint(tmp_path, max_shard_size="1GB")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
    with pytest.raises(sw.CheckpointError, match=f"lacks '{HEAD}'\n  try: tie_word_embeddings=true .*'{EMBEDDING}'"):
        settled(tmp_path)


def test_every_tensor_of_another_shape_is_named(tmp_path):
    write_checkpoint(tmp_path, max_shard_size="1GB")
    store(tmp_path, {HEAD: torch.zeros(321, 48), EMBEDDING: torch.zeros(1, 48), "model.norm.weight": torch.zeros(())})
    with pytest.raises(sw.CheckpointError) as raised:
        settled(tmp_path)
    says = str(raised.value)
    assert "(3 problems)" in says
    for shape, wanted in (((321, 48), (320, 48)), ((1, 48), (320, 48)), ((), (48,))):
        assert f"has shape {shape}, the configuration says {wanted}" in says


class Twice(nn.Module):
    """One module under two names, and a parameter that another module shares."""

    def __init__(self):
        super().__init__()
        self.a = self.b = nn.Linear(3, 3, bias=False)
        self.c = nn.Linear(3, 3, bias=False)
        self.c.weight = self.a.weight
        self.register_buffer("table", torch.zeros(4, 2))


class Held(WholeTensor):
    def copy(self, box, out):
        out.fill_(self.value)


def held(value, shape=(3, 3)):
    made = Held(shape)
    object.__setattr__(made, "value", value)
    return made


def test_one_module_under_two_names_has_the_tensor_of_the_last():
    model, holders = Twice(), {"a.weight": held(1.0), "b.weight": held(2.0), "c.weight": held(2.0)}
    overruled = settle_ties(model, holders)
    assert [one.name for one in overruled] == ["a.weight"]
    assert {holders[name].value for name in ("a.weight", "b.weight", "c.weight")} == {2.0}
    assert model.c.weight is model.a.weight
    holders["c.weight"] = held(3.0)
    with pytest.warns(sw.CheckpointWarning, match=r"c\.weight and a\.weight"):
        settle_ties(model, holders)
    assert holders["c.weight"].value == 3.0
    assert model.c.weight is not model.a.weight
    assert model.a.weight is model.b.weight


def test_a_stored_buffer_of_another_shape_is_named():
    holders = {"a.weight": held(1.0), "table": held(0.0, (4, 3))}
    with pytest.raises(sw.CheckpointError, match=r"'table' has shape \(4, 3\), the model makes \(4, 2\)"):
        settle_ties(Twice(), holders)
