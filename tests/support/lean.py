"""A sharded program before and after its ranks' programs are made lean, and what ranks send."""

import torch
from torch import nn

from shardwright.partition.lower import lower
from shardwright.program.collectives import lowered_name
from shardwright.program.duplicate import duplicate
from shardwright.program.inputs import bind_inputs
from shardwright.program.nodes import graphs_of
from shardwright.program.simulate import Simulation


def coordinates(sharded, rank):
    return tuple(sharded.mesh.coordinate(rank).values())


def plain_programs(sharded):
    """Every rank's program, only lowered: in the order in which partition wrote it, nothing dropped."""
    names = {axis: axis for axis in sharded.mesh.group_names}
    ranks = range(sharded.mesh.num_ranks)
    return [lower(duplicate(sharded.compiled.finished(coordinates(sharded, rank))), names) for rank in ranks]


def lean_programs(sharded):
    return [sharded.rank_program(rank) for rank in range(sharded.mesh.num_ranks)]


def outputs(sharded, programs, args):
    """Every rank's outputs on simulated ranks, mutated buffers included."""
    groups = {axis: sharded.mesh.groups(axis) for axis in sharded.mesh.group_names}
    flat = bind_inputs(sharded.program, args, {}, sharded.signature)
    torch.manual_seed(0)
    return Simulation(programs, groups, sharded.signature).run_raw(sharded.rank_inputs(flat))


def assert_same_numbers(sharded, args):
    """Every rank's outputs are the same bits before and after."""
    before = outputs(sharded, plain_programs(sharded), args)
    after = outputs(sharded, lean_programs(sharded), args)
    for one, other in zip(before, after, strict=True):
        for whole, lean in zip(one, other, strict=True):
            assert torch.equal(whole, lean) if isinstance(whole, torch.Tensor) else whole == lean


def names(program):
    """The names of the operators of a program's own graph, in order."""
    return [str(node.target).removesuffix(".default") for node in program.graph.nodes if node.op == "call_function"]


def sent(program):
    """What a rank sends: the operator, its arguments but for the tensor, and that one's dtype and size, in order."""
    nodes = [node for graph in graphs_of(program.graph) for node in graph.nodes]
    calls = [node for node in nodes if lowered_name(node) not in ("", "wait_tensor")]
    vals = [node.args[0].meta["val"] for node in calls]
    return [
        (lowered_name(node), str(node.args[1:]), val.dtype, val.numel()) for node, val in zip(calls, vals, strict=True)
    ]


class Modulated(nn.Module):
    """Blocks of which each scales and shifts by what it computes of the time alone, as diffusion transformers do."""

    def __init__(self, width=8, blocks=5):
        super().__init__()
        self.time = nn.Linear(4, width)
        self.mods = nn.ModuleList(nn.Linear(width, 2 * width) for _ in range(blocks))
        self.up = nn.ModuleList(nn.Linear(width, 4 * width) for _ in range(blocks))
        self.down = nn.ModuleList(nn.Linear(4 * width, width) for _ in range(blocks))

    def forward(self, x, time):
        time = torch.nn.functional.silu(self.time(time))
        for mod, up, down in zip(self.mods, self.up, self.down, strict=True):
            scale, shift = mod(time)[:, None].chunk(2, -1)
            x = x + down(torch.relu(up(x * (1 + scale) + shift)))
        return x


MODULATED = {"mods.*": "colwise_rep", "up.*": "colwise", "down.*": "rowwise"}


class Apart(nn.Module):
    """A projection that is read late, beside work that does not need it."""

    def __init__(self):
        super().__init__()
        self.side, self.up, self.down = nn.Linear(8, 8), nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x):
        side = self.side(x)
        return self.down(torch.relu(self.up(x))).cos() @ side.sin().transpose(-1, -2)


APART = {"side": "colwise_rep", "up": "colwise", "down": "rowwise"}
