"""Shard a small module, compare it with the original in float64, and say which indices every rank holds."""

from collections import Counter
from itertools import product

import torch
from torch import nn

import shardwright as sw
from shardwright.assign.cost import CostModel
from shardwright.layout.pieces import take_shard
from tests.support.models import redraw

BYTES_MATTER = CostModel(link_bytes_per_us=1)
"""At tiny sizes latency is all; on a slow link bytes count here too."""

ONLY_BYTES_MATTER = CostModel(link_bytes_per_us=1e-3)
"""On a link as slow as this, the latency of several collectives is nothing beside a few bytes."""


def check(model, args, mesh, plan="auto", *, dynamic=None, whole=(), **options):
    """The sharded program of a model with drawn weights, equal to the original on every rank.

    ``whole``: the operators that may run whole on every rank.
    """
    model = redraw(model).double()
    args = tuple(a.double() if a.is_floating_point() else a for a in args)
    sharded = check_as_given(model, args, mesh, plan, dynamic=dynamic, tolerance=1e-9, **options)
    assert {f.op for f in sharded.fallbacks} <= set(whole)
    return sharded


def check_as_given(model, args, mesh, plan, *, decompose=False, dynamic=None, tolerance=1e-5, **options):
    """The sharded program of a model as it is, weights and dtypes included, equal to the original on every rank."""
    exported = torch.export.export(model, args, dynamic_shapes=dynamic)
    exported = exported.run_decompositions() if decompose else exported
    sharded = sw.shard(exported, mesh=mesh, plan=plan, **options)
    report = sw.verify(sharded, exported, args, tolerance=tolerance)
    assert report.ok, str(report)
    for rank in (0, sharded.mesh.num_ranks - 1):
        sharded.exported(rank).validate()
    return sharded


def kinds(sharded):
    """How many collectives of each kind."""
    return dict(Counter(c.kind for c in sharded.collectives))


def held(sharded, name, dim=0):
    """For every rank, the indices of a weight's dim that it holds."""
    (weight,) = (w for w in sharded.weights if w.name == name)
    view = [-1 if d == dim else 1 for d in range(len(weight.shape))]
    every = torch.arange(weight.shape[dim]).view(view).expand(weight.shape)
    found = []
    for coordinate in product(*(range(size) for _, size in sharded.mesh)):
        piece = every
        for (axis, _), place in zip(sharded.mesh, coordinate, strict=True):
            piece = take_shard(piece, weight.layouts[axis], place)
        found.append(sorted(set(piece.flatten().tolist())))
    return found


def units(sharded, name, size, dim=0):
    """For every rank, the whole runs of ``size`` indices (heads, say) that it holds; fails where it holds a part."""
    found = []
    for indices in held(sharded, name, dim):
        whole = sorted({i // size for i in indices})
        assert indices == [size * unit + i for unit in whole for i in range(size)], f"{name} is cut inside a unit"
        found.append(whole)
    return found


def chunks(count, num_ranks):
    """Which of ``count`` units each rank holds where they are cut as `torch.chunk` cuts."""
    size = -(-count // num_ranks)
    return [list(range(count))[rank * size : (rank + 1) * size] for rank in range(num_ranks)]


class Attend(nn.Module):
    """Softmax attention of heads, as models write it out. Subclasses say what is done to q, k, v or to the scores."""

    width, heads, kv_heads, head_dim = 32, 8, 8, 4

    def __init__(self):
        super().__init__()
        self.q_proj = nn.Linear(self.width, self.heads * self.head_dim, bias=False)
        self.k_proj = nn.Linear(self.width, self.kv_heads * self.head_dim, bias=False)
        self.v_proj = nn.Linear(self.width, self.kv_heads * self.head_dim, bias=False)
        self.o_proj = nn.Linear(self.heads * self.head_dim, self.width, bias=False)

    def project(self, x):
        """q, k and v: (batch, heads, tokens, head_dim)."""
        return [
            layer(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for layer in (self.q_proj, self.k_proj, self.v_proj)
        ]

    def attend(self, q, k, v):
        return self.weigh(q @ k.transpose(-1, -2) / self.head_dim**0.5) @ v

    def weigh(self, scores):
        return scores.softmax(-1)

    def forward(self, x):
        return self.o_proj(self.attend(*self.project(x)).transpose(1, 2).flatten(2))


PLAN = {"[qkv]_proj": "colwise", "o_proj": "rowwise"}
"""The plan of `Attend`."""
