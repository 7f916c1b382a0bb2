"""Folders of pipelines: the message for one that is named whole, or by a part that is none."""

import json

import pytest

import shardwright as sw
from shardwright.sources.checkpoint import open_checkpoint
from shardwright.sources.pipeline import components

INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "_diffusers_version": "0.42.1",
    "scheduler": ["diffusers", "DDIMScheduler"],
    "safety_checker": [None, None],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
    "requires_safety_checker": True,
}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "model_index.json").write_text(json.dumps(INDEX))
    for name in ("unet", "vae", "scheduler"):
        (tmp_path / name).mkdir()
    for name in ("unet", "vae"):
        (tmp_path / name / "config.json").write_text("{}")
    return tmp_path


def test_models_are_the_parts_with_a_configuration(folder):
    assert components(folder) == {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL"}


@pytest.mark.parametrize(
    ("part", "words", "remedy"),
    [
        ("", "is the pipeline StableDiffusionPipeline, which is several models: unet (UNet2D", "{0}/unet or {0}/vae"),
        ("unett", "has no component 'unett'; its models: unet (UNet2DConditionModel), vae", "{0}/unet"),
        ("transformer", "has no component 'transformer'", "{0}/unet or {0}/vae"),
        ("scheduler", "is the pipeline's DDIMScheduler, which is no model with weights", "{0}/unet or {0}/vae"),
        ("text_encoder", "has no component 'text_encoder'", "{0}/unet or {0}/vae"),
    ],
)
def test_what_to_name_instead(folder, part, words, remedy):
    with pytest.raises(sw.CheckpointError) as raised:
        open_checkpoint(folder / part)
    assert words in str(raised.value)
    assert str(raised.value).endswith("try: " + remedy.format(folder))


@pytest.mark.parametrize("text", ["[]", "{", "[1", '{"unet": 3, "vae": ["diffusers"], "a": "/etc"}'])
def test_an_index_that_is_none(tmp_path, text):
    (tmp_path / "model_index.json").write_text(text)
    with pytest.raises(sw.CheckpointError, match=r"is not a checkpoint|is a pipeline, .* none in this folder"):
        open_checkpoint(tmp_path)
