"""What a random program is made of: the operations by name, and the weights of those that have some."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

F = nn.functional


class Held(nn.Module):
    """A parameter by itself."""

    def __init__(self, shape):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(shape) / 2 + 1)


def _attend(layer, x, heads, kv_heads):
    """Attention of the last dim's heads, key-value heads repeated for their queries."""
    *front, tokens, width = x.shape
    q, k, v = layer.q(x), layer.k(x), layer.v(x)
    q = q.view(*front, tokens, heads, width // heads).transpose(-2, -3)
    k, v = (s.view(*front, tokens, kv_heads, width // heads).transpose(-2, -3) for s in (k, v))
    k, v = (s.repeat_interleave(heads // kv_heads, -3) for s in (k, v))
    mixed = F.scaled_dot_product_attention(q, k, v).transpose(-2, -3)
    return x + layer.o(mixed.reshape(*front, tokens, width))


class Projections(nn.Module):
    """Of attention, with fewer key-value heads than heads."""

    def __init__(self, width, heads, kv_heads):
        super().__init__()
        self.q, self.o = nn.Linear(width, width), nn.Linear(width, width, bias=False)
        self.k, self.v = (nn.Linear(width, width // heads * kv_heads) for _ in range(2))


WEIGHTS: dict[str, Callable[..., nn.Module]] = {
    "linear": lambda before, after, bias: nn.Linear(before, after, bias=bias),
    "plus": Held,
    "times": Held,
    "matmul": Held,
    "joined": lambda shape, dim: Held(shape),
    "layer_norm": nn.LayerNorm,
    "conv": lambda before, after, kernel: nn.Conv1d(before, after, kernel, padding=kernel // 2),
    "attention": Projections,
}

OPERATIONS: dict[str, Callable[..., Any]] = {
    "linear": lambda layer, x, *_: layer(x),
    "plus": lambda layer, x, _: x + layer.weight,
    "times": lambda layer, x, _: x * layer.weight,
    "matmul": lambda layer, x, _: x @ layer.weight / math.sqrt(x.shape[-1]),
    "joined": lambda layer, x, _, dim: torch.cat([x, layer.weight], dim),
    "layer_norm": lambda layer, x, _: layer(x),
    "conv": lambda layer, x, *_: layer(x),
    "attention": lambda layer, x, _, heads, kv_heads: _attend(layer, x, heads, kv_heads),
    "view": lambda _, x, shape: x.contiguous().view(shape),
    "reshape": lambda _, x, shape: x.reshape(shape),
    "flatten": lambda _, x, first, last: x.flatten(first, last),
    "unflatten": lambda _, x, dim, sizes: x.unflatten(dim, sizes),
    "permute": lambda _, x, order: x.permute(order),
    "unsqueeze": lambda _, x, dim: x.unsqueeze(dim),
    "squeeze": lambda _, x, dim: x.squeeze(dim),
    "expand": lambda _, x, shape: x.expand(shape),
    "repeat": lambda _, x, times: x.repeat(times),
    "repeat_interleave": lambda _, x, times, dim: x.repeat_interleave(times, dim),
    "slice": lambda _, x, dim, start, stop, stride: x[(slice(None),) * dim + (slice(start, stop, stride),)],
    "select": lambda _, x, dim, index: x.select(dim, index),
    "chunk": lambda _, x, dim, count, index: x.chunk(count, dim)[index],
    "split": lambda _, x, dim, sizes, index: x.split(sizes, dim)[index],
    "halves": lambda _, x, dim: torch.mul(*x.chunk(2, dim)),
    "unfold": lambda _, x, dim, size, stride: x.unfold(dim, size, stride),
    "pixel_shuffle": lambda _, x, factor: F.pixel_shuffle(x, factor),
    "pixel_unshuffle": lambda _, x, factor: F.pixel_unshuffle(x, factor),
    "roll": lambda _, x, shift, dim: x.roll(shift, dim),
    "flip": lambda _, x, dim: x.flip(dim),
    "pad": lambda _, x, sizes: F.pad(x, sizes),
    "cat": lambda _, *args: torch.cat(args[:-1], args[-1]),
    "stack": lambda _, *args: torch.stack(args[:-1], args[-1]),
    "add": lambda _, x, y: x + y,
    "multiply": lambda _, x, y: x * y,
    "scores": lambda _, x, y: x @ y.transpose(-1, -2) / math.sqrt(x.shape[-1]),
    "tanh": lambda _, x: x.tanh(),
    "gelu": lambda _, x: F.gelu(x),
    "abs": lambda _, x: x.abs(),
    "sum": lambda _, x, dim, keepdim: x.sum(dim, keepdim=keepdim),
    "mean": lambda _, x, dim, keepdim: x.mean(dim, keepdim=keepdim),
    "amax": lambda _, x, dim, keepdim: x.amax(dim, keepdim=keepdim),
    "softmax": lambda _, x, dim: x.softmax(dim),
    "cumsum": lambda _, x, dim: x.cumsum(dim) / x.shape[dim],
    "tril": lambda _, x: x.tril(),
    "index_select": lambda _, x, dim, indices: x.index_select(dim, torch.tensor(indices)),
    "take": lambda _, x, indices: x[..., torch.tensor(indices)],
}
