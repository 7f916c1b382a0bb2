"""What `shard` makes of two programs, printed: the same whatever the process, its hash seed and the load.

``python -m tests.support.same_everywhere PROGRAM``: of a file that holds what `exported` gives, and of a decoder that
this process exports.
"""

import hashlib
import json
import sys
import warnings

import torch
from torch import nn

import shardwright as sw
from tests.support.models import MEGATRON, Decoder, redraw

F = nn.functional


class Block(nn.Module):
    """A residual block of a UNet, whose channels a search of some length is needed to cut."""

    def __init__(self, before, after):
        super().__init__()
        self.norm, self.renorm = nn.GroupNorm(3, before), nn.GroupNorm(3, after)
        self.conv, self.reconv = nn.Conv2d(before, after, 3, padding=1), nn.Conv2d(after, after, 3, padding=1)
        self.time, self.skip = nn.Linear(16, after), nn.Conv2d(before, after, 1)

    def forward(self, x, t):
        h = self.conv(F.silu(self.norm(x))) + self.time(t)[:, :, None, None]
        return self.skip(x) + self.reconv(F.silu(self.renorm(h)))


class Attention(nn.Module):
    def __init__(self, width, heads, context):
        super().__init__()
        self.heads, self.norm, self.o = heads, nn.LayerNorm(width), nn.Linear(width, width)
        self.q, self.k, self.v = (nn.Linear(size, width, bias=False) for size in (width, context, context))

    def forward(self, x, context):
        y = self.norm(x.flatten(2).transpose(1, 2))
        q, k, v = (f(s).unflatten(-1, (self.heads, -1)).transpose(1, 2) for f, s in self._sources(y, context))
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return x + self.o(mixed).transpose(1, 2).reshape(x.shape)

    def _sources(self, y, context):
        return (self.q, y), (self.k, context), (self.v, context)


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(4, 12, 3, padding=1), nn.Conv2d(12, 4, 3, padding=1)
        self.down, self.attention = Block(12, 24), Attention(24, 3, 8)
        self.middle, self.up = Block(24, 24), Block(36, 12)

    def forward(self, x, t, context):
        x = self.first(x)
        down = self.attention(self.down(x, t), context)
        middle = F.interpolate(self.middle(F.avg_pool2d(down, 2), t), scale_factor=2.0)
        return self.last(self.up(torch.cat([middle, x], 1), t))


PLAN = {"attention.[q,k,v]": "colwise", "attention.o": "rowwise", "middle.conv": "colwise"}
LITTLE, MORE = 1e-5, 1e-2
"""Efforts: the search ends early, and the search ends with a proof."""

CASES = tuple((effort, *asked) for effort in (LITTLE, MORE) for asked in ((2, "auto"), (4, "auto"), (2, PLAN)))
"""Effort, number of ranks, plan."""


def exported():
    torch.manual_seed(0)
    return torch.export.export(UNet().eval(), (torch.randn(2, 4, 8, 8), torch.randn(2, 16), torch.randn(2, 5, 8)))


def made(program, effort, num_ranks, plan):
    """What is made of the UNet in one of the `CASES`."""
    sharded = sw.shard(program, mesh=num_ranks, plan=plan, effort=effort)
    return {
        "effort": effort,
        "gap": sharded.gap.hex(),
        "strategies": [str(strategy) for strategy in sharded.assignment.strategies],
        "weights": [str(weight) for weight in sharded.weights],
        "collectives": [str(collective) for collective in sharded.collectives],
        "programs": [_digest(sharded.exported(rank)) for rank in range(num_ranks)],
    }


def _digest(exported):
    """Of a rank's code, signature and weights."""
    digest = hashlib.sha256(f"{exported.graph_module.code}{exported.graph_signature}".encode())
    for name, tensor in exported.state_dict.items():
        digest.update(name.encode() + tensor.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()


def decoder():
    """What is made of a decoder by a plan and by none: a rank's graph, the layouts of weights, and collectives."""
    ids = torch.zeros(2, 8, dtype=torch.long)
    program = torch.export.export(redraw(Decoder(width=72, heads=9, kv_heads=3)), (ids,))
    found = [sw.shard(program, mesh=4, plan=plan) for plan in (MEGATRON, "auto")]
    return [
        [str(one.exported(1).graph), str([(w.name, w.layouts) for w in one.weights]), str(one.collectives)]
        for one in found
    ]


if __name__ == "__main__":
    warnings.simplefilter("ignore", sw.SolverWarning)
    program = torch.export.load(sys.argv[1])
    json.dump({"unet": [made(program, *case) for case in CASES], "decoder": decoder()}, sys.stdout)
