"""Example inputs: their notation, what is wrong with them, and transformers models that are exported with one."""

import pytest
import torch
from transformers import T5Config, T5EncoderModel, ViTConfig, ViTModel

import shardwright as sw
from shardwright.sources.checkpoint import open_checkpoint
from shardwright.sources.example import ExampleTensor, read_example

VIT = ViTConfig(
    hidden_size=24, intermediate_size=48, num_hidden_layers=1, num_attention_heads=3, image_size=16, patch_size=4
)
T5 = T5Config(d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, vocab_size=50)


def test_tensors_are_texts_or_tensors():
    found = read_example(
        {
            "x": "float32[batch=2, 3,  some_size = 5]",
            "scalar": "int64[]",
            "given": torch.empty(2, 7, dtype=torch.bfloat16, device="meta"),
            "more": {"ids": ["bool[4]", (3, None, True, 0.5, "sum")]},
        }
    )
    assert found["x"] == ExampleTensor(torch.float32, (2, 3, 5), ("batch", "", "some_size"))
    assert found["x"].dynamic().keys() == {0, 2}
    assert found["scalar"] == ExampleTensor(torch.int64, (), ())
    assert found["scalar"].dynamic() is None
    assert found["given"] == ExampleTensor(torch.bfloat16, (2, 7), ("", ""))
    assert found["more"] == {"ids": [ExampleTensor(torch.bool, (4,), ("",)), (3, None, True, 0.5, "sum")]}
    assert found["given"].empty().shape == (2, 7)


def test_all_that_is_wrong_is_said_at_once():
    example = {
        "kind": "flot32[2]",
        "sizes": "float32[2, n]",
        "negative": "float32[-1]",
        "function": [len],
        "one": "int8[a=2, a=3]",
        "least": "int8[b=1]",
        "packed": "quint8[2]",
        "huge": "float32[99999999999999999999]",
        "many": "float32[4611686018427387904, 4]",
    }
    with pytest.raises(sw.CheckpointError, match=r"\(9 problems\)") as raised:
        read_example(example)
    says = str(raised.value)
    for words in (
        "kind has the dtype 'flot32', which torch does not have\n  try: float32",
        "sizes has sizes [2, n], which are not numbers",
        "negative has sizes [-1]",
        "function[0] is a value of type builtin_function_or_method",
        "the size 'a' is 2 and 3",
        "the size 'b' may change, and is 1 in the example",
        "packed is a tensor that torch cannot make",
        "huge is a tensor that torch cannot make",
        "many is a tensor that torch cannot make",
    ):
        assert words in says


def test_files_hold_the_same(tmp_path):
    file = tmp_path / "example.yaml"
    file.write_text("sample: float32[batch=2, 4]\nadded:\n  ids: int64[batch=2]\nscale: 1.5\n")
    wanted = {"sample": "float32[batch=2, 4]", "added": {"ids": "int64[batch=2]"}, "scale": 1.5}
    assert read_example(file) == read_example(wanted)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- a\n", "holds list, not a mapping of parameters to inputs"),
        ("a: [", "is not YAML, as the example has to be"),
        ("a: 1\na: 2\n", "the key 'a' is given twice"),
        ("a: &a [*a]\n", "the example is nested too deeply, or holds itself"),
        ("a: " + "[" * 3000 + "]" * 3000, "is nested too deeply for the example"),
    ],
)
def test_files_that_are_no_examples(text, words, tmp_path):
    file = tmp_path / "example.yaml"
    file.write_text(text)
    with pytest.raises(sw.CheckpointError, match=words):
        read_example(file)
    with pytest.raises(sw.CheckpointError, match="cannot read"):
        read_example(tmp_path / "none.yaml")


def packaged(opened, folder):
    opened.save(sw.shard(opened.exported, mesh=1), folder)
    return sw.load(folder)


def test_a_model_of_images_is_exported_with_an_example(tmp_path):
    torch.manual_seed(0)
    model = ViTModel(VIT).eval()
    model.save_pretrained(tmp_path / "vit")
    with pytest.raises(sw.CheckpointError, match="ViTModel takes 'pixel_values', not token ids\n  try: example="):
        open_checkpoint(tmp_path / "vit")
    opened = open_checkpoint(tmp_path / "vit", example={"pixel_values": "float32[batch=2, 3, 16, 16]"})
    pixels = torch.randn(3, 3, 16, 16)
    found = packaged(opened, tmp_path / "out")(pixel_values=pixels)
    with torch.no_grad():
        wanted = model(pixel_values=pixels)
    assert list(found) == ["last_hidden_state", "pooler_output"]
    for name, value in found.items():
        torch.testing.assert_close(value, wanted[name])


def test_all_hidden_states_of_an_encoder(tmp_path):
    """A pipeline's encoder: its configuration is that of a model with a decoder."""
    model = T5EncoderModel(T5).eval()
    model.save_pretrained(tmp_path / "t5")
    ids = torch.arange(12).reshape(2, 6)
    with torch.no_grad():
        wanted = model(input_ids=ids, output_hidden_states=True)
    alone = open_checkpoint(tmp_path / "t5")
    found = packaged(alone, tmp_path / "last")(input_ids=ids, attention_mask=torch.ones_like(ids))
    torch.testing.assert_close(found["last_hidden_state"], wanted.last_hidden_state)
    example = {"input_ids": "int64[2, tokens=5]", "output_hidden_states": True}
    every = packaged(open_checkpoint(tmp_path / "t5", example=example), tmp_path / "all")
    found = every(input_ids=ids, output_hidden_states=True)
    torch.testing.assert_close(list(found["hidden_states"]), list(wanted.hidden_states))


def test_an_example_that_does_not_fit(tmp_path):
    T5EncoderModel(T5).save_pretrained(tmp_path / "t5")
    with pytest.raises(sw.CheckpointError, match=r"T5EncoderModel.forward takes no 'input_id'\n  try: 'input_ids'"):
        open_checkpoint(tmp_path / "t5", example={"input_id": "int64[2, 5]"})
    with pytest.raises(sw.CheckpointError, match="exported with an example, or with a cache"):
        open_checkpoint(tmp_path / "t5", example={"input_ids": "int64[2, 5]"}, cache_length=8)
    with pytest.raises(sw.CheckpointError, match="'encode' takes inputs of its own"):
        open_checkpoint(tmp_path / "t5", method="encode")
