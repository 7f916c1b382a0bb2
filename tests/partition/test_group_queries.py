"""Attention over repeated keys and values is one over what is repeated, in whatever way models spell that."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.export import Dim

from shardwright.partition.group_queries import group_queries
from shardwright.program.read import read
from shardwright.program.write import write
from tests.support.models import relative_error
from tests.support.sharding import PLAN, Attend, check, chunks, units

aten = torch.ops.aten
BATCH, SEEN, DIM = 2, 7, 4


def by_expanding(x, repeats):
    """As transformers does."""
    batch, groups, seen, dim = x.shape
    return x[:, :, None].expand(batch, groups, repeats, seen, dim).reshape(batch, groups * repeats, seen, dim)


def by_unsqueezing(x, repeats):
    return x.unsqueeze(2).expand(-1, -1, repeats, -1, -1).contiguous().view(BATCH, -1, *x.shape[2:])


def by_interleaving(x, repeats):
    return x.repeat_interleave(repeats, 1)


def by_the_operator(x, repeats):
    return x


SPELLINGS = [by_expanding, by_unsqueezing, by_interleaving, by_the_operator]


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


MASKS = {
    "none": lambda heads, new: None,
    "of tokens": lambda heads, new: torch.arange(SEEN) <= torch.arange(new)[:, None] + SEEN - new,
    "for all heads": lambda heads, new: (torch.arange(SEEN) <= torch.arange(new)[:, None])[None, None],
    "of padding": lambda heads, new: (torch.arange(SEEN) < torch.tensor([[5], [7]]))[:, None, None],
    "of every head": lambda heads, new: draw(BATCH, heads, new, SEEN, seed=5),
    "of heads in all tokens": lambda heads, new: draw(heads, 1, SEEN, seed=6),
    "of every batch entry": lambda heads, new: draw(BATCH, 1, new, SEEN, seed=7),
    "of each token": lambda heads, new: draw(1, new, SEEN, seed=8),
}


class Grouped(nn.Module):
    """Attention of (batch, new, heads, dim), laid out as projections give it."""

    def __init__(self, repeat, heads, groups, scale=None):
        super().__init__()
        self.repeat, self.repeats, self.scale = repeat, heads // groups, scale

    def forward(self, q, k, v, mask):
        q, k, v = (one.transpose(1, 2) for one in (q, k, v))
        gqa = self.repeat is by_the_operator
        k, v = (self.repeat(one, self.repeats) for one in (k, v))
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=self.scale, enable_gqa=gqa)
        return out.transpose(1, 2).flatten(2)


def given(heads, groups, new):
    """Queries, keys and values; those of one query are of another size, which has another kernel and layout."""
    keys, values = draw(BATCH, SEEN, groups, DIM, seed=1), draw(BATCH, SEEN, groups, DIM + (new == 1), seed=2)
    return draw(BATCH, new, heads, DIM), keys, values


def counts(program):
    """Nodes that repeat, attentions, and the head counts of their keys."""
    repeats = [n for n in program.graph.nodes if n.target in (aten.expand.default, aten.repeat_interleave.self_int)]
    attentions = [n for n in program.graph.nodes if n.target is aten.scaled_dot_product_attention.default]
    over_keys = [n for n in repeats if n.meta["val"].dim() in (4, 5) and n.meta["val"].shape[-1] in (DIM, DIM + 1)]
    return len(over_keys), [n.args[1].meta["val"].shape[1] for n in attentions]


def outputs(program, args):
    return write(program).module()(*args)


@pytest.mark.parametrize("spelling", SPELLINGS, ids=lambda one: one.__name__)
@pytest.mark.parametrize(("heads", "groups"), [(6, 3), (4, 1), (3, 3)])
def test_numbers_stay(spelling, heads, groups):
    for new in (1, 3):
        for name, make in MASKS.items():
            args = (*given(heads, groups, new), make(heads, new))
            program = read(torch.export.export(Grouped(spelling, heads, groups, 0.3), args))
            made = group_queries(program)
            assert relative_error(outputs(made, args), outputs(program, args)) < 1e-12, (name, new)
            assert counts(made) == (0, [groups]), name
            if spelling is not by_the_operator and heads > groups:
                assert counts(program)[1] == [heads], "the program that is given stays as it is"


def test_any_number_of_tokens():
    dims = {1: Dim("new", min=1, max=SEEN)}
    masks = {0: dims[1]}
    args = (*given(6, 3, 3), MASKS["of tokens"](6, 3))
    exported = torch.export.export(Grouped(by_expanding, 6, 3), args, dynamic_shapes=(dims, None, None, masks))
    program = read(exported)
    made = group_queries(program)
    assert (counts(program)[0], counts(made)[0]) == (2, 0)
    for new in (1, 2, SEEN):
        args = (given(6, 3, new)[0], *args[1:3], MASKS["of tokens"](6, new))
        assert relative_error(outputs(made, args), outputs(program, args)) < 1e-12


class Causal(Grouped):
    """Which key a row may see depends on its place: rows of a group have one each."""

    def forward(self, q, k, v, mask):
        q, k, v = (one.transpose(1, 2) for one in (q, k, v))
        k, v = (self.repeat(one, self.repeats) for one in (k, v))
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)


class Other(Grouped):
    """Keys are repeated for the queries of a group, values as a whole."""

    def forward(self, q, k, v, mask):
        q, k, v = (one.transpose(1, 2) for one in (q, k, v))
        return F.scaled_dot_product_attention(q, self.repeat(k, self.repeats), v.repeat(1, self.repeats, 1, 1))


@pytest.mark.parametrize("kind", [Causal, Other])
def test_what_rows_cannot_say_stays(kind):
    args = (*given(6, 3, 3), None)
    program = read(torch.export.export(kind(by_expanding, 6, 3), args))
    assert counts(group_queries(program)) == counts(program)


@pytest.mark.parametrize("spelling", SPELLINGS[:3], ids=lambda one: one.__name__)
def test_a_rank_without_heads_stays_as_it_is(spelling):
    args = (*given(0, 0, 3), None)
    program = read(torch.export.export(Grouped(spelling, 6, 3), args))
    # It is not run: no rank's program holds an attention without heads, and not every torch takes one.
    assert group_queries(program) is program


class Heads(Attend):
    """Queries of 9 heads, keys and values of 3, repeated as transformers does."""

    heads, kv_heads, width, head_dim = 9, 3, 36, 4

    def attend(self, q, k, v):
        k, v = (by_expanding(one, self.heads // self.kv_heads) for one in (k, v))
        return F.scaled_dot_product_attention(q, k, v)


@pytest.mark.parametrize("num_ranks", [2, 3])
def test_heads_stay_cut(num_ranks):
    x = draw(BATCH, 5, Heads.width)
    sharded = check(Heads(), (x,), num_ranks, PLAN)
    assert units(sharded, "k_proj.weight", 4) == chunks(3, num_ranks)
    for rank in range(num_ranks):
        assert counts(sharded.rank_program(rank)) == (0, [len(chunks(3, num_ranks)[rank])])


class Twice(nn.Module):
    """One mask of every head, for two attentions of different numbers of queries."""

    def forward(self, q, k, v, mask):
        q, k, v = (one.transpose(1, 2) for one in (q, k, v))
        k, v = (by_expanding(one, 2) for one in (k, v))
        attend = F.scaled_dot_product_attention
        return torch.cat([attend(q, k, v, attn_mask=mask), attend(q[:, :, 1:], k, v, attn_mask=mask)], 2)


def test_a_mask_is_as_wide_as_its_queries_are_many():
    args = (*given(6, 3, 3), draw(BATCH, 6, 1, SEEN, seed=9))
    program = read(torch.export.export(Twice(), args))
    made = group_queries(program)
    assert counts(made)[1] == [3, 3]
    assert relative_error(outputs(made, args), outputs(program, args)) < 1e-12
