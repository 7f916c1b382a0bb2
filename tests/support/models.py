"""Small models of the kinds people shard. Weights are drawn at 1/√fan_in, so that attention is not uniform."""

import math

import torch
import torch.nn.functional as F
from torch import library, nn


def redraw(model: nn.Module, seed: int = 0) -> nn.Module:
    """The model in eval mode with every matrix redrawn at 1/√fan_in, biases and norms near their usual values."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(noise / math.sqrt(parameter.shape[-1]) if parameter.dim() > 1 else 1 + 0.1 * noise)
    return model.eval()


class Call(nn.Module):
    """A function of one tensor, as a model."""

    def __init__(self, call):
        super().__init__()
        self.call = call

    def forward(self, x):
        return self.call(x)


class MLPs(nn.Module):
    """A list of two-layer MLPs behind a chunk, as PyTorch's own test of its transformation has it."""

    def __init__(self, num_mlps=2, *, bias=True):
        super().__init__()
        self.mlps = nn.ModuleList(
            nn.Sequential(nn.Linear(6, 18), nn.ReLU(), nn.Linear(18, 6, bias=bias)) for _ in range(num_mlps)
        )

    def forward(self, x):
        x = torch.chunk(x, 2, dim=1)[0]
        for mlp in self.mlps:
            x = mlp(x)
        return x + torch.ones_like(x)


class LinearNorm(nn.Module):
    """A linear layer before a batch norm: five features, which four ranks cut unevenly."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 5)
        self.bn = nn.BatchNorm1d(5)

    def forward(self, x):
        return self.bn(self.fc(x))


@library.custom_op("shardwright_tests::places_in_rows", mutates_args=())
def places_in_rows(x: torch.Tensor) -> torch.Tensor:
    """An operator of a user's own, which has no rule: the place of each entry in its row, in rising order."""
    return x.argsort(-1).argsort(-1)


@places_in_rows.register_fake
def _(x: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x, dtype=torch.int64)


class LinearPlaces(nn.Module):
    """A linear layer before an operator that has no rule."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 5)

    def forward(self, x):
        return places_in_rows(self.fc(x))


class RMSNorm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x):
        wide = x.to(torch.float32)
        return self.weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)).to(x.dtype)


def rotate(x):
    left, right = x.chunk(2, -1)
    return torch.cat((-right, left), -1)


class Attention(nn.Module):
    def __init__(self, width, heads, kv_heads):
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = heads, kv_heads, width // heads
        self.q_proj = nn.Linear(width, heads * self.head_dim, bias=False)
        self.k_proj = nn.Linear(width, kv_heads * self.head_dim, bias=False)
        self.v_proj = nn.Linear(width, kv_heads * self.head_dim, bias=False)
        self.o_proj = nn.Linear(heads * self.head_dim, width, bias=False)

    def forward(self, x, cos, sin):
        b, t, _ = x.shape
        q = self.q_proj(x).view(b, t, self.heads, self.head_dim).transpose(1, 2)
        k = self.k_proj(x).view(b, t, self.kv_heads, self.head_dim).transpose(1, 2)
        v = self.v_proj(x).view(b, t, self.kv_heads, self.head_dim).transpose(1, 2)
        q, k = q * cos + rotate(q) * sin, k * cos + rotate(k) * sin
        groups = self.heads // self.kv_heads
        k = k[:, :, None].expand(b, self.kv_heads, groups, t, self.head_dim).reshape(b, self.heads, t, self.head_dim)
        v = v[:, :, None].expand(b, self.kv_heads, groups, t, self.head_dim).reshape(b, self.heads, t, self.head_dim)
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o_proj(out.transpose(1, 2).reshape(b, t, -1))


class GLU(nn.Module):
    def __init__(self, width, hidden):
        super().__init__()
        self.gate_proj = nn.Linear(width, hidden, bias=False)
        self.up_proj = nn.Linear(width, hidden, bias=False)
        self.down_proj = nn.Linear(hidden, width, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    """A decoder block: sequential, or attention and MLP side by side."""

    def __init__(self, width, heads, kv_heads, hidden, *, parallel=False):
        super().__init__()
        self.parallel = parallel
        self.norm1, self.norm2 = RMSNorm(width), RMSNorm(width)
        self.self_attn = Attention(width, heads, kv_heads)
        self.mlp = GLU(width, hidden)

    def forward(self, x, cos, sin):
        if self.parallel:
            return x + self.self_attn(self.norm1(x), cos, sin) + self.mlp(self.norm2(x))
        x = x + self.self_attn(self.norm1(x), cos, sin)
        return x + self.mlp(self.norm2(x))


class Decoder(nn.Module):
    """A Llama-shaped decoder; ids (batch, sequence) → logits (batch, sequence, vocabulary)."""

    def __init__(self, layers=2, width=64, heads=8, kv_heads=4, hidden=128, vocab=96, *, tied=False, parallel=False):
        super().__init__()
        self.embed = nn.Embedding(vocab, width)
        self.layers = nn.ModuleList(Block(width, heads, kv_heads, hidden, parallel=parallel) for _ in range(layers))
        self.norm = RMSNorm(width)
        self.lm_head = nn.Linear(width, vocab, bias=False)
        if tied:
            self.lm_head.weight = self.embed.weight
        head_dim = width // heads
        self.register_buffer("inv_freq", 1 / 10000 ** (torch.arange(0, head_dim, 2) / head_dim), persistent=False)

    def forward(self, ids):
        x = self.embed(ids)
        angles = torch.arange(ids.shape[1], device=ids.device)[:, None] * self.inv_freq[None]
        angles = torch.cat((angles, angles), -1)
        cos, sin = angles.cos(), angles.sin()
        for layer in self.layers:
            x = layer(x, cos, sin)
        return self.lm_head(self.norm(x))


MEGATRON = {
    "layers.*.self_attn.[qkv]_proj": "colwise",
    "layers.*.self_attn.o_proj": "rowwise",
    "layers.*.mlp.[gate,up]_proj": "colwise",
    "layers.*.mlp.down_proj": "rowwise",
}
"""The plan of `Decoder` that every paper draws."""


class Gated(nn.Module):
    """GLU blocks without norms, one after the other."""

    def __init__(self, blocks=4, width=16, hidden=32):
        super().__init__()
        self.blocks = nn.ModuleList(GLU(width, hidden) for _ in range(blocks))

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x


class PackedAttention(nn.Module):
    """GPT-2's way: one projection for q, k and v, split by a view or a split."""

    def __init__(self, width=48, heads=6):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x):
        b, t, w = x.shape
        q, k, v = (y.view(b, t, self.heads, -1).transpose(1, 2) for y in self.qkv(x).split(w, -1))
        out = F.scaled_dot_product_attention(q, k, v)
        return self.out(out.transpose(1, 2).reshape(b, t, w))


class Cache(nn.Module):
    """A static key cache written in place, and a counter."""

    def __init__(self, heads=4, width=16, length=8):
        super().__init__()
        self.heads = heads
        self.k_proj = nn.Linear(width, width, bias=False)
        self.o_proj = nn.Linear(width, width, bias=False)
        self.register_buffer("keys", torch.zeros(2, heads, length, width // heads))
        self.register_buffer("calls", torch.zeros((), dtype=torch.long), persistent=False)

    def forward(self, x, position):
        b, t, w = x.shape
        k = self.k_proj(x).view(b, t, self.heads, -1).transpose(1, 2)
        self.keys.index_copy_(2, position, k)
        self.calls.add_(1)
        return self.o_proj((k + self.keys.mean(2, keepdim=True)).transpose(1, 2).reshape(b, t, w)) + self.calls


def relative_error(got, wanted):
    """Largest difference over the largest wanted value."""
    if wanted.numel() == 0:
        return 0.0
    got, wanted = got.detach().double(), wanted.detach().double()
    return ((got - wanted).abs().max() / wanted.abs().max().clamp_min(1e-30)).item()


class GroupedPacked(nn.Module):
    """Query, key and value of 4, 2 and 2 heads in one projection."""

    def __init__(self):
        super().__init__()
        self.qkv, self.out = nn.Linear(32, 64), nn.Linear(32, 32)

    def forward(self, x):
        q, k, v = (y.unflatten(-1, (-1, 8)).transpose(1, 2) for y in self.qkv(x).split((32, 16, 16), -1))
        y = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        return self.out(y.transpose(1, 2).flatten(-2))
