"""A shallow program and what a rank runs of it."""

import torch

from shardwright.assign.assign import assign_layouts
from shardwright.partition.partition import partition
from shardwright.plan.pins import Pins
from shardwright.program.layers import find_stacks
from shardwright.program.read import read
from shardwright.program.shallow import make_shallow, shortened
from tests.support.models import Decoder

LAYERS = 9


def shallow_and_local():
    """A shallow decoder of nine layers, and the first of its two ranks' programs."""
    model = Decoder(LAYERS, width=16, heads=4, kv_heads=4, hidden=16).eval()
    program = read(torch.export.export(model, (torch.zeros(1, 4).long(),)))
    shallow = make_shallow(program, shortened(program, find_stacks(program)))
    assignment = assign_layouts(shallow.program, Pins(), 2, auto=True)
    return shallow, partition(shallow.program, assignment, "tp", 0)
