"""The judge of checkpoints that packages write: what is right is, and what is not is named."""

import dataclasses

import pytest
from evals.quantised.judge import judge
from evals.quantised.sample import Sample, read_samples
from safetensors.torch import load_file, save_file

from tests.support.packed_weights import pack_plain, said_compressed, write_packed

SIZES = {"hidden_size": 96, "num_attention_heads": 12, "num_key_value_heads": 12, "head_dim": 8}


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    folder = tmp_path_factory.mktemp("samples") / "00" / "model"
    folder.parent.mkdir()
    said = said_compressed(8, (1, 0), "int-quantized")
    write_packed(folder, lambda weight: pack_plain(weight, 8, (1, 0)), said, **SIZES)
    folder.with_name("model-dense").rename(folder.with_name("plain"))
    Sample("int8", "tests", str(folder), (1, 1)).save()
    (found,) = read_samples(folder.parents[1])
    return found


def test_a_sample_and_the_same_against_another_model(sample):
    found = judge(sample)
    assert found.wrong == []
    assert sorted(found.errors) == sorted(found.sent) == sorted(found.held) == [2, 3, 4]
    for num_ranks, (share, most) in found.held.items():
        assert 1 / num_ranks <= share <= most < 1 / num_ranks + 0.02
    file, name = sample.plain / "model.safetensors", "model.layers.0.mlp.up_proj.weight"
    tensors = load_file(file)
    save_file({**tensors, name: tensors[name].roll(1, 0)}, file, {"format": "pt"})
    wrong = judge(sample).wrong
    save_file(tensors, file, {"format": "pt"})
    assert [text.split(" are ")[0] for text in wrong] == ["2 ranks", "3 ranks", "4 ranks"]


def test_a_format_that_is_read_is_no_refusal(sample, tmp_path):
    assert judge(dataclasses.replace(sample, refused="int-quantized")).wrong == ["is read, and should be refused"]
    other = tmp_path / "model"
    other.mkdir()
    for file in ("model.safetensors", "config.json"):
        text = (sample.plain.with_name("model") / file).read_bytes()
        (other / file).write_bytes(text.replace(b"int-quantized", b"odd-quantized"))
    refused = dataclasses.replace(sample, path=str(other))
    assert judge(dataclasses.replace(refused, refused="odd-quantized")).wrong == []
    assert judge(dataclasses.replace(refused, refused="nvfp4")).wrong == ["is refused without naming nvfp4"]
