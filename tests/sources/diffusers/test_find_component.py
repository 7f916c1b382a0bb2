"""Models of diffusers are sharded on read: equal to what diffusers loads, and every kind of damage named."""

import json
import shutil

import diffusers
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    UNet2DConditionModel,
    WanTransformer3DModel,
)
from safetensors.torch import load_file, save_file

import shardwright as sw
from shardwright.sources.checkpoint import open_checkpoint

FLUX = {
    "patch_size": 1,
    "in_channels": 4,
    "num_layers": 1,
    "num_single_layers": 1,
    "attention_head_dim": 8,
    "num_attention_heads": 3,
    "joint_attention_dim": 16,
    "pooled_projection_dim": 12,
    "axes_dims_rope": (2, 2, 4),
}
WAN = {
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "in_channels": 4,
    "out_channels": 4,
    "text_dim": 16,
    "freq_dim": 32,
    "ffn_dim": 48,
    "num_layers": 1,
    "rope_max_seq_len": 32,
}
UNET = {
    "sample_size": 8,
    "block_out_channels": (8, 16),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "layers_per_block": 1,
    "cross_attention_dim": 12,
    "attention_head_dim": 4,
    "norm_num_groups": 4,
}
SD3 = {
    "sample_size": 8,
    "patch_size": 2,
    "in_channels": 4,
    "num_layers": 1,
    "attention_head_dim": 8,
    "num_attention_heads": 2,
    "joint_attention_dim": 16,
    "caption_projection_dim": 16,
    "pooled_projection_dim": 16,
    "out_channels": 4,
    "pos_embed_max_size": 8,
}
VAE = {
    "block_out_channels": (8, 16),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "norm_num_groups": 4,
}
EXAMPLE = {
    "hidden_states": "float32[1, image=16, 4]",
    "encoder_hidden_states": "float32[1, 6, 16]",
    "pooled_projections": "float32[1, 12]",
    "timestep": "float32[1]",
    "img_ids": "float32[image=16, 3]",
    "txt_ids": "float32[6, 3]",
}


def flux_inputs(image):
    generator = torch.Generator().manual_seed(1)
    shapes = {"hidden_states": (1, image, 4), "encoder_hidden_states": (1, 6, 16), "pooled_projections": (1, 12)}
    drawn = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    ids = torch.cartesian_prod(torch.zeros(1), torch.arange(4.0), torch.arange(4.0))[:image]
    return {**drawn, "timestep": torch.tensor([0.4]), "img_ids": ids, "txt_ids": torch.zeros(6, 3)}


def saved(kind, config, folder, **how):
    torch.manual_seed(0)
    model = kind(**config).eval()
    model.save_pretrained(folder, **how)
    return model


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A model, and its folder of several weight files: to be read."""
    folder = tmp_path_factory.mktemp("flux") / "transformer"
    return saved(FluxTransformer2DModel, FLUX, folder, max_shard_size="10KB"), folder


@pytest.fixture(scope="module")
def opened(kept):
    return open_checkpoint(kept[1], example=EXAMPLE)


@pytest.fixture(scope="module")
def loaded(kept):
    """The loaded model's own program."""
    return torch.export.export(kept[0], (), {**flux_inputs(16), "return_dict": False})


@pytest.fixture
def flux(kept, tmp_path):
    """A model, whose folder lies beside the test's own files."""
    shutil.copytree(kept[1], tmp_path / "transformer")
    return kept[0]


def gathered(package, tmp_path):
    sw.gather(package, tmp_path / "gathered.safetensors")
    return load_file(tmp_path / "gathered.safetensors")


@pytest.mark.parametrize("plan", ["auto", "diffusers"])
def test_ranks_hold_the_checkpoint_and_compute_what_it_does(kept, opened, loaded, plan, tmp_path):
    flux, folder = kept
    assert len(list(folder.glob("*-of-*.safetensors"))) > 1
    sharded = sw.shard(opened.exported, mesh=2, plan=plan)
    assert not sharded.fallbacks
    opened.save(sharded, tmp_path / "two")
    found, wanted = gathered(tmp_path / "two", tmp_path), flux.state_dict()
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert (tmp_path / "two" / "config.json").read_bytes() == (folder / "config.json").read_bytes()
    # Ranks of the loaded model, by the same layouts: what is streamed is what they are made of.
    sw.reshard(tmp_path / "two", tmp_path / "one", mesh=1, plan="auto")
    inputs = flux_inputs(12)
    with torch.no_grad():
        torch.testing.assert_close(
            sw.load(tmp_path / "one")(**inputs, return_dict=False), flux(**inputs, return_dict=False)
        )
    sharded = sw.shard(loaded, mesh=2, plan=plan)
    assert sw.verify(sharded, loaded, (), {**flux_inputs(16), "return_dict": False}).ok


def test_the_class_plan_takes_one_reduction_for_each_row_cut_layer(opened):
    sharded = sw.shard(opened.exported, mesh=2, plan="diffusers")
    cut = {weight.name for weight in sharded.weights if weight.layouts}
    assert "transformer_blocks.0.attn.to_q.weight" in cut
    assert "single_transformer_blocks.0.proj_out.weight" in cut
    # Attention and MLP of both streams; attention and MLP of a single block are one sum.
    assert [c.kind for c in sharded.collectives if c.kind == "all_reduce"] == ["all_reduce"] * 4
    assert not sharded.gathered_weights


def test_it_is_called_as_a_pipeline_calls_it(kept, opened, tmp_path):
    opened.save(sw.shard(opened.exported, mesh=1), tmp_path / "one")
    rank, inputs = sw.load(tmp_path / "one"), flux_inputs(16)
    sample = inputs.pop("hidden_states")
    (found,) = rank(sample, **inputs, guidance=None, joint_attention_kwargs=None, return_dict=False)
    with torch.no_grad():
        torch.testing.assert_close(found, kept[0](sample, **inputs).sample)
    with pytest.raises(sw.InputError, match="'return_dict' was the constant False at export"):
        rank(sample, **inputs, return_dict=True)


def test_a_unet_with_nested_inputs_and_any_batch(tmp_path):
    unet = saved(UNet2DConditionModel, UNET, tmp_path / "unet")
    example = {
        "sample": "float32[batch=2, 4, 8, 8]",
        "timestep": "int64[]",
        "encoder_hidden_states": "float32[batch=2, 5, 12]",
        "cross_attention_kwargs": {"scale": 1.0},
    }
    opened = open_checkpoint(tmp_path / "unet", example=example)
    opened.save(sw.shard(opened.exported, mesh=1), tmp_path / "out")
    inputs = torch.randn(3, 4, 8, 8), torch.tensor(7), torch.randn(3, 5, 12)
    with torch.no_grad():
        wanted = unet(*inputs, return_dict=False)
    found = sw.load(tmp_path / "out")(*inputs, cross_attention_kwargs={"scale": 1.0}, return_dict=False)
    torch.testing.assert_close(found, wanted)


def test_an_autoencoder_decodes(tmp_path):
    vae = saved(AutoencoderKL, VAE, tmp_path / "vae")
    opened = open_checkpoint(tmp_path / "vae", example={"z": "float32[batch=2, 4, 8, 8]"}, method="decode")
    sharded = sw.shard(opened.exported, mesh=2)
    opened.save(sharded, tmp_path / "two")
    assert not any(name.startswith("encoder.") for name in opened.exported.state_dict) or sharded.weights
    sw.reshard(tmp_path / "two", tmp_path / "one", mesh=1, plan="auto")
    z = torch.randn(5, 4, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(
            sw.load(tmp_path / "one")(z=z, return_dict=False)[0], vae.decode(z, return_dict=False)[0]
        )


def test_what_a_class_keeps_in_float32_stays_so(tmp_path):
    model = saved(WanTransformer3DModel, WAN, tmp_path / "wan")
    example = {
        "hidden_states": "bfloat16[1, 4, 2, 8, 8]",
        "timestep": "int64[1]",
        "encoder_hidden_states": "bfloat16[1, 6, 16]",
    }
    opened = open_checkpoint(tmp_path / "wan", dtype=torch.bfloat16, example=example)
    opened.save(sw.shard(opened.exported, mesh=2), tmp_path / "two")
    found = gathered(tmp_path / "two", tmp_path)
    kept = {name for name, tensor in found.items() if tensor.dtype == torch.float32}
    assert {name.split(".")[0] for name in kept} == {"scale_shift_table", "condition_embedder", "blocks"}
    assert kept < found.keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(found[name], tensor.to(found[name].dtype)), name


def test_weights_are_of_the_dtype_that_most_are_stored_in(tmp_path):
    saved(AutoencoderKL, VAE, tmp_path / "vae")
    file = tmp_path / "vae" / "diffusion_pytorch_model.safetensors"
    stored = load_file(file)
    save_file({k: v.half() if v.dim() > 1 else v for k, v in stored.items()}, file)
    opened = open_checkpoint(tmp_path / "vae", example={"z": "float16[2, 4, 8, 8]"}, method="decode")
    assert {tensor.dtype for tensor in opened.exported.state_dict.values()} == {torch.float16}


def test_a_buffer_that_is_not_stored_keeps_what_the_class_computes(tmp_path):
    model = saved(SD3Transformer2DModel, SD3, tmp_path / "sd3")
    file = tmp_path / "sd3" / "diffusion_pytorch_model.safetensors"
    save_file({name: tensor for name, tensor in load_file(file).items() if name != "pos_embed.pos_embed"}, file)
    example = {
        "hidden_states": "bfloat16[1, 4, 8, 8]",
        "encoder_hidden_states": "bfloat16[1, 4, 16]",
        "pooled_projections": "bfloat16[1, 16]",
        "timestep": "bfloat16[1]",
    }
    opened = open_checkpoint(tmp_path / "sd3", dtype=torch.bfloat16, example=example)
    opened.save(sw.shard(opened.exported, mesh=2), tmp_path / "two")
    found = gathered(tmp_path / "two", tmp_path)["pos_embed.pos_embed"]
    assert torch.equal(found, model.pos_embed.pos_embed.bfloat16())


@pytest.mark.parametrize("scale", ["weight_scale", "scale_weight", None])
def test_quantised_numbers_are_not_read_as_plain_ones(scale, tmp_path):
    """Folders that say nothing of it in their configuration."""
    saved(AutoencoderKL, VAE, tmp_path / "vae")
    file, written = tmp_path / "vae" / "diffusion_pytorch_model.safetensors", {}
    for name, tensor in load_file(file).items():
        is_convolution = tensor.dim() == 4
        written[name] = tensor.mul(100).to(torch.float8_e4m3fn if scale else torch.int8) if is_convolution else tensor
        if is_convolution and scale:
            written[name.replace("weight", scale)] = torch.full((1,), 0.01)
    save_file(written, file)
    example = {"sample": "float32[1, 3, 16, 16]"}
    with pytest.raises(
        sw.CheckpointError, match=r"'decoder.conv_in.weight' is stored as torch.*, and no scale is read"
    ):
        open_checkpoint(tmp_path / "vae", dtype=torch.float32, example=example)


def test_old_names_are_read_as_diffusers_reads_them(tmp_path):
    vae = saved(AutoencoderKL, VAE, tmp_path / "vae")
    file, old = tmp_path / "vae" / "diffusion_pytorch_model.safetensors", {}
    for name, tensor in load_file(file).items():
        for new, former in (("to_q.", "query."), ("to_k.", "key."), ("to_v.", "value."), ("to_out.0.", "proj_attn.")):
            name = name.replace(new, former)
        old[name] = tensor
    assert any(".query." in name for name in old)
    save_file(old, file)
    opened = open_checkpoint(tmp_path / "vae", example={"sample": "float32[1, 3, 16, 16]"})
    assert opened.source.holders.keys() == vae.state_dict().keys()
    assert not opened.unused


def edit(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def drop(folder):
    index = folder / "diffusion_pytorch_model.safetensors.index.json"
    found = json.loads(index.read_text())
    place = found["weight_map"].pop("proj_out.weight")
    index.write_text(json.dumps(found))
    kept = load_file(folder / place)
    del kept["proj_out.weight"]
    save_file(kept, folder / place)


def only(*kept):
    def remove(folder):
        for file in folder.iterdir():
            if file.name not in kept:
                file.unlink()

    return remove


DAMAGE = {
    "no configuration": (lambda f: (f / "config.json").unlink(), "is not a checkpoint: it has no config.json"),
    "a configuration that is no object": (
        lambda f: (f / "config.json").write_text("[]"),
        "config.json holds list",
    ),
    "an unknown class": (
        lambda f: edit(f, _class_name="FluxTransfomer2DModel"),
        "'FluxTransfomer2DModel' is no model of diffusers .*\n  try: 'FluxTransformer2DModel'",
    ),
    "a class that is no model": (lambda f: edit(f, _class_name="DDIMScheduler"), "'DDIMScheduler' is no model of"),
    "a class that is no name": (lambda f: edit(f, _class_name=["a"]), r"\['a'\] is no model of diffusers"),
    "values that do not go together": (lambda f: edit(f, num_layers="two"), "diffusers cannot read it"),
    "a missing file": (lambda f: min(f.glob("*-00002-of*")).unlink(), "the checkpoint lacks .*-00002-of"),
    "no weights": (only("config.json"), "holds neither diffusion_pytorch_model.safetensors.index.json nor"),
    "a missing tensor": (drop, "lacks 'proj_out.weight'"),
    "another size": (lambda f: edit(f, joint_attention_dim=20), r"has shape \(24, 16\), the configuration says"),
    "quantised weights": (
        lambda f: edit(f, quantization_config={"quant_method": "bitsandbytes"}),
        "quantised by 'bitsandbytes', which is not read for models of diffusers",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_named(damage, flux, tmp_path):
    harm, words = DAMAGE[damage]
    harm(tmp_path / "transformer")
    with pytest.raises(sw.CheckpointError, match=f"(?s){words}"):
        open_checkpoint(tmp_path / "transformer", example=EXAMPLE)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"example": None}, "takes inputs of its own.*forward takes: hidden_states, .*try: example="),
        ({"example": {"hidden_state": 1}}, r"takes no 'hidden_state'\n  try: 'hidden_states'.*needs 'hidden_states'"),
        ({"method": "forwrd"}, "FluxTransformer2DModel has no method 'forwrd'\n  try: 'forward'"),
        ({"method": "__init__"}, "has no method '__init__'"),
        ({"method": "dtype"}, "has no method 'dtype'$"),
        ({"method": 3}, "method must be a name such as 'decode', got 3"),
        ({"cache_length": 8}, "a model of diffusers, which keeps no tokens"),
        ({"variant": "fp16"}, "holds neither diffusion_pytorch_model.safetensors.index.fp16.json nor"),
        ({"variant": "../fp16"}, "variant must be a name such as 'fp16'"),
        ({"dtype": "bfloat16"}, "dtype must be a dtype of torch"),
        (
            {"example": {**EXAMPLE, "timestep": "float32[1, 2, 3]"}},
            "FluxTransformer2DModel cannot be exported",
        ),
        ({"example": {**EXAMPLE, "txt_ids": "float32[6, three=3]"}}, "cannot be exported: .*- .*3"),
    ],
)
def test_options_that_do_not_fit(options, words, flux, tmp_path):
    with pytest.raises(sw.CheckpointError, match=f"(?s){words}"):
        open_checkpoint(tmp_path / "transformer", **{"example": EXAMPLE, **options})


def test_variants_are_read_when_they_are_named(tmp_path):
    vae = saved(AutoencoderKL, VAE, tmp_path / "vae", variant="fp16")
    example = {"sample": "float32[1, 3, 16, 16]"}
    with pytest.raises(sw.CheckpointError, match="holds the variant 'fp16'\n  try: variant='fp16'"):
        open_checkpoint(tmp_path / "vae", example=example)
    opened = open_checkpoint(tmp_path / "vae", example=example, variant="fp16")
    assert opened.source.holders.keys() == vae.state_dict().keys()
    saved(AutoencoderKL, VAE, tmp_path / "several", variant="fp16", max_shard_size="20KB")
    with pytest.raises(sw.CheckpointError, match="holds the variant 'fp16'"):
        open_checkpoint(tmp_path / "several", example=example)
    assert open_checkpoint(tmp_path / "several", example=example, variant="fp16").source.holders.keys() == (
        opened.source.holders.keys()
    )


def test_styles_that_are_unknown_are_all_named(flux, tmp_path, monkeypatch):
    strange = {"transformer_blocks.*.attn.to_q": "collwise", "transformer_blocks.*.attn.to_out.0": "striped"}
    monkeypatch.setattr(FluxTransformer2DModel, "_tp_plan", strange)
    opened = open_checkpoint(tmp_path / "transformer", example=EXAMPLE)
    with pytest.raises(
        sw.PlanError, match=r"\(2 problems\)(?s:.)*unknown style 'collwise'(?s:.)*unknown style 'striped'"
    ):
        sw.shard(opened.exported, mesh=2, plan="diffusers")


def test_every_plan_that_diffusers_ships_has_known_styles():
    from shardwright.plan.styles import style_spec

    names = [name for name in dir(diffusers) if name.endswith("Transformer2DModel")]
    plans = {name: getattr(getattr(diffusers, name), "_tp_plan", None) for name in names}
    shipped = {name: plan for name, plan in plans.items() if plan}
    assert {"FluxTransformer2DModel", "Flux2Transformer2DModel", "QwenImageTransformer2DModel"} <= shipped.keys()
    for plan in shipped.values():
        for style in plan.values():
            assert style_spec(style, "torch.nn.modules.linear.Linear").weights
