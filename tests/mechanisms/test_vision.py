"""Images: stems and patches, towers of transformers, windows that move, and convolutions channel by channel."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.support.sharding import check, chunks, held, kinds, units

transformers = pytest.importorskip("transformers", reason="needs the extra 'hf'")

WIDTH, HEADS, HEAD_DIM = 32, 4, 8
MLP = {"up": "colwise", "down": "rowwise"}
IMAGE = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class Stem(nn.Module):
    """Two convolutions, the second of which sees all channels of the first, as most stems have them."""

    def __init__(self):
        super().__init__()
        self.conv1, self.norm = nn.Conv2d(3, 12, 3, stride=2, padding=1), nn.BatchNorm2d(12)
        self.conv2 = nn.Conv2d(12, 8, 3, padding=1)

    def forward(self, x):
        return self.conv2(F.max_pool2d(F.relu(self.norm(self.conv1(x))), 2))


@pytest.mark.parametrize("num_ranks", [2, 4, 5])
@pytest.mark.parametrize("plan", [{"conv1": "colwise", "conv2": "rowwise"}, "auto"], ids=["by name", "auto"])
def test_channels_of_a_stem_are_cut_with_their_norm_and_summed_once(plan, num_ranks):
    sharded = check(Stem(), (IMAGE,), num_ranks, plan)
    assert kinds(sharded) == {"all_reduce": 1}
    channels = chunks(12, num_ranks)
    for name in ("conv1.weight", "conv1.bias", "norm.weight", "norm.bias", "norm.running_mean", "norm.running_var"):
        assert held(sharded, name) == channels
    assert held(sharded, "conv2.weight", 1) == channels


class Patches(nn.Module):
    """Patches by a convolution whose stride is its size, or cut out and multiplied; then a block."""

    def __init__(self, *, by_convolution):
        super().__init__()
        self.by_convolution = by_convolution
        self.patch = nn.Conv2d(3, 24, 4, stride=4) if by_convolution else nn.Linear(48, 24)
        self.up, self.down = nn.Linear(24, 48), nn.Linear(48, 24)

    def forward(self, x):
        if self.by_convolution:
            x = self.patch(x).flatten(2).transpose(1, 2)
        else:
            b, c, h, w = x.shape
            x = x.view(b, c, h // 4, 4, w // 4, 4).permute(0, 2, 4, 1, 3, 5).reshape(b, (h // 4) * (w // 4), c * 16)
            x = self.patch(x)
        return x + self.down(F.gelu(self.up(x)))


@pytest.mark.parametrize("num_ranks", [2, 3])
@pytest.mark.parametrize("by_convolution", [True, False])
def test_patches_are_embedded_whole_or_cut_and_gathered_once(by_convolution, num_ranks):
    whole = check(Patches(by_convolution=by_convolution), (IMAGE,), num_ranks, MLP)
    assert kinds(whole) == {"all_reduce": 1}
    cut = check(Patches(by_convolution=by_convolution), (IMAGE,), num_ranks, {**MLP, "patch": "colwise"})
    assert kinds(cut) == {"all_gather": 1, "all_reduce": 1}
    assert held(cut, "patch.weight") == held(cut, "patch.bias") == chunks(24, num_ranks)
    assert held(cut, "up.weight") == chunks(48, num_ranks)


class Inverted(nn.Module):
    """MobileNet: out to many channels, a convolution of each by itself, a weight for each from all, and back."""

    def __init__(self):
        super().__init__()
        self.out, self.back = nn.Conv2d(3, 24, 1), nn.Conv2d(24, 3, 1)
        self.each = nn.Conv2d(24, 24, 3, padding=1, groups=24)
        self.norms = nn.ModuleList(nn.BatchNorm2d(n) for n in (24, 24, 3))
        self.squeeze, self.excite = nn.Conv2d(24, 6, 1), nn.Conv2d(6, 24, 1)

    def forward(self, x):
        y = F.hardswish(self.norms[0](self.out(x)))
        y = F.hardswish(self.norms[1](self.each(y)))
        weights = self.squeeze(F.adaptive_avg_pool2d(y, 1))
        y = y * F.hardsigmoid(self.excite(F.relu(weights)))
        return x + self.norms[2](self.back(y))


INVERTED = {"out": "colwise", "each": "colwise", "squeeze": "rowwise", "excite": "colwise", "back": "rowwise"}


@pytest.mark.parametrize(("plan", "num_ranks"), [(INVERTED, 2), (INVERTED, 5), ("auto", 4)])
def test_channels_are_cut_through_a_convolution_of_each_by_itself(plan, num_ranks):
    """One sum for what is squeezed, one for what leaves the block."""
    sharded = check(Inverted(), (IMAGE,), num_ranks, plan)
    assert kinds(sharded) == {"all_reduce": 2}
    channels = chunks(24, num_ranks)
    for name in ("out.weight", "each.weight", "each.bias", "norms.1.weight", "norms.1.running_var", "excite.weight"):
        assert held(sharded, name) == channels
    for name in ("squeeze.weight", "back.weight"):
        assert held(sharded, name, 1) == channels


class Next(nn.Module):
    """ConvNeXt: every channel by itself, a norm over channels, and an MLP with a weight for every channel."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 4, stride=4)
        self.each, self.norm = nn.Conv2d(12, 12, 7, padding=3, groups=12), nn.LayerNorm(12)
        self.up, self.down, self.scale = nn.Linear(12, 48), nn.Linear(48, 12), nn.Parameter(torch.empty(12))

    def forward(self, x):
        x = self.stem(x)
        y = self.norm(self.each(x).permute(0, 2, 3, 1))
        return x + (self.scale * self.down(F.gelu(self.up(y)))).permute(0, 3, 1, 2)


@pytest.mark.parametrize(("plan", "num_ranks"), [(MLP, 2), (MLP, 3), ("auto", 4)])
def test_a_block_of_convolution_and_mlp_costs_one_sum(plan, num_ranks):
    sharded = check(Next(), (IMAGE,), num_ranks, plan, **({"slack": 2.0} if plan == "auto" else {}))
    assert kinds(sharded) == {"all_reduce": 1}
    assert held(sharded, "up.weight") == held(sharded, "down.weight", 1) == chunks(48, num_ranks)


class Output(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, pixels):
        return self.model(pixels)[0]


SIZES = {
    "hidden_size": WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": HEADS,
    "intermediate_size": 64,
    "image_size": 16,
    "patch_size": 4,
}


def vit():
    return transformers.ViTModel(transformers.ViTConfig(**SIZES), add_pooling_layer=False)


def clip():
    return transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**SIZES))


def dino():
    return transformers.Dinov2Model(transformers.Dinov2Config(**SIZES, mlp_ratio=2))


def swin():
    """Two blocks: the windows of the second are shifted."""
    config = transformers.SwinConfig(
        image_size=16, patch_size=2, embed_dim=WIDTH, depths=[2], num_heads=[HEADS], window_size=4, mlp_ratio=2.0
    )
    return transformers.SwinModel(config, add_pooling_layer=False)


BY_NAME = {
    "model.**.[q,k,v]_proj": "colwise",
    "model.**.[o,out]_proj": "rowwise",
    "model.**.fc1": "colwise",
    "model.**.fc2": "rowwise",
}


@pytest.mark.parametrize("num_ranks", [2, 4])
@pytest.mark.parametrize("make", [vit, clip, dino, swin])
def test_a_tower_costs_two_sums_a_layer(make, num_ranks):
    sharded = check(Output(make()), (IMAGE,), num_ranks, BY_NAME)
    assert kinds(sharded) == {"all_reduce": 2 * 2}
    names = [w.name for w in sharded.weights]
    for name in (n for n in names if n.endswith(("q_proj.weight", "q_proj.bias", "k_proj.weight", "v_proj.weight"))):
        assert units(sharded, name, HEAD_DIM) == chunks(HEADS, num_ranks)
    for name in (n for n in names if n.endswith("fc2.weight")):
        assert held(sharded, name, 1) == chunks(64, num_ranks)
    # Swin's positions: a feature for every head, cut with the heads.
    tables = [n for n in names if n.endswith("relative_position_bias_table")]
    assert len(tables) == (2 if make is swin else 0)
    for name in tables:
        assert held(sharded, name, 1) == chunks(HEADS, num_ranks)


@pytest.mark.parametrize("make", [vit, clip, swin])
def test_the_automatic_plan_of_a_tower(make):
    """Patches and positions, if they are cut, are put together once."""
    sharded = check(Output(make()), (IMAGE,), 2, "auto")
    assert len(sharded.collectives) <= 2 * 2 + 1
    assert kinds(sharded)["all_reduce"] >= 2 * 2 - 1
    assert max(sharded.rank_bytes) < 0.6 * sum(w.num_bytes for w in sharded.weights)
