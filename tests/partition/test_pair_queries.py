"""One query in 16 bits is given a second one on a CPU, and numbers stay."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.export import Dim

from shardwright.partition.pair_queries import pair_queries
from shardwright.program.read import read
from shardwright.program.write import write
from tests.support.models import relative_error

aten = torch.ops.aten
HEADS, SEEN, DIM = 2, 7, 8


class Attention(nn.Module):
    def __init__(self, **how):
        super().__init__()
        self.how = how

    def forward(self, q, k, v, mask):
        q, k, v = (one.transpose(1, 2) for one in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, **self.how).transpose(1, 2).flatten(2)


def given(new, dtype=torch.bfloat16, seen=SEEN, batch=1):
    drawn = torch.Generator().manual_seed(new)
    q, k, v = (torch.randn(batch, length, HEADS, DIM, generator=drawn).to(dtype) for length in (new, seen, seen))
    return q, k, v, torch.arange(seen) <= torch.arange(new)[:, None] + seen - new


def rows(program):
    """How many queries each attention has."""
    return [n.args[0].meta["val"].shape[-2] for n in program.graph.nodes if "scaled_dot_product" in str(n.target)]


def outputs(program, args):
    return write(program).module()(*args)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("mask", ["of tokens", "none", "of padding", "of every head"])
def test_one_query_becomes_two(mask, batch):
    q, k, v, of_tokens = given(1, batch=batch)
    masks = {"of tokens": of_tokens, "none": None, "of padding": torch.arange(SEEN)[None] < 5}
    args = (q, k, v, masks.get(mask, torch.randn(batch, HEADS, 1, SEEN).bfloat16()))
    program = read(torch.export.export(Attention(scale=0.3), args))
    made = pair_queries(program)
    assert (rows(program), rows(made)) == ([1], [2])
    assert relative_error(outputs(made, args), outputs(program, args)) < 1e-2


def test_any_number_of_tokens():
    new, seen = Dim("new", min=1, max=SEEN), Dim("seen", min=1, max=64)
    shapes = ({1: new}, {1: seen}, {1: seen}, {0: new, 1: seen})
    program = read(torch.export.export(Attention(), given(3), dynamic_shapes=shapes))
    made = pair_queries(program)
    for num in (1, 2, SEEN):
        args = given(num)
        assert relative_error(outputs(made, args), outputs(program, args)) < 1e-2
    names = [str(node.target) for node in made.graph.nodes]
    assert names.count("aten.cat.default") == 2, "queries and their mask are longer by one"


OTHERS = {
    "float32": (Attention(), given(1, torch.float32)),
    "several queries": (Attention(), given(3)),
    "causal": (Attention(is_causal=True), (*given(1)[:3], None)),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_others_stay(kind):
    model, args = OTHERS[kind]
    program = read(torch.export.export(model, args))
    assert pair_queries(program) is program


def test_what_attends_over_itself_stays():
    length = Dim("length", min=2, max=64)
    args = (*given(3, seen=3)[:3], None)
    program = read(torch.export.export(Attention(), args, dynamic_shapes=({1: length}, {1: length}, {1: length}, None)))
    assert pair_queries(program) is program
