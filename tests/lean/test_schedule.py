"""The order in which ranks communicate: one for all of them, as soon as can be, small values together."""

import pytest
import torch
from torch import nn

import shardwright as sw
from shardwright.lean import schedule
from shardwright.lean.arrange import arrange, arranged_places
from shardwright.program.duplicate import duplicate
from tests.support.lean import (
    APART,
    MODULATED,
    Apart,
    Modulated,
    assert_same_numbers,
    lean_programs,
    names,
    outputs,
    plain_programs,
    sent,
)
from tests.support.models import MEGATRON, Decoder, MLPs, redraw

X, TIME = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0)), torch.randn(2, 4)
IDS = torch.randint(0, 96, (2, 8), generator=torch.Generator().manual_seed(0))
GATHER = "_c10d_functional.all_gather_into_tensor"


def sharded_of(model, args, mesh=2, plan="auto", **options):
    return sw.shard(torch.export.export(redraw(model), args), mesh=mesh, plan=plan, **options)


def test_modulations_of_all_blocks_are_one_gather():
    sharded = sharded_of(Modulated(), (X, TIME), plan=MODULATED)
    before, after = names(plain_programs(sharded)[0]), names(sharded.rank_program(0))
    assert (before.count(GATHER), after.count(GATHER)) == (5, 1)
    assert [c.message for c in sharded.collectives if c.kind == "all_gather"] == [1] * 5
    assert [c.message for c in sharded.collectives if c.kind == "all_reduce"] == [0] * 5
    assert after.index(GATHER) < after.index("aten.relu")
    assert_same_numbers(sharded, (X, TIME))


def test_a_copy_goes_by_the_order_of_its_original():
    sharded = sharded_of(Modulated(), (X, TIME), plan=MODULATED)
    first = sharded.compiled.finished((0,))
    by_itself = arrange(duplicate(first), sharded.schedule)
    copied = arrange(duplicate(first), sharded.schedule, arranged_places(first, sharded.schedule))
    assert str(copied.graph) == str(by_itself.graph) != str(first.graph)


def test_values_too_large_for_one_message_are_sent_in_several(monkeypatch):
    monkeypatch.setattr(schedule, "MESSAGE_BYTES", 2 * 2 * 16 * 4)
    sharded = sharded_of(Modulated(), (X, TIME), plan=MODULATED)
    assert [c.message for c in sharded.collectives if c.kind == "all_gather"] == [1, 1, 2, 2, 0]
    monkeypatch.setattr(schedule, "SMALL_BYTES", 2 * 16 * 4 - 1)
    large = sharded_of(Modulated(), (X, TIME), plan=MODULATED)
    assert {c.message for c in large.collectives} == {0}
    for one in (sharded, large):
        assert_same_numbers(one, (X, TIME))


def test_values_of_unknown_size_are_sent_alone():
    batch = torch.export.Dim("batch", max=64)
    program = torch.export.export(redraw(Modulated()), (X, TIME), dynamic_shapes=({0: batch}, {0: batch}))
    sharded = sw.shard(program, mesh=2, plan=MODULATED)
    assert {c.message for c in sharded.collectives} == {0}
    assert_same_numbers(sharded, (X, TIME))


def test_a_collective_comes_with_its_operand_and_is_waited_for_by_its_reader():
    program = sharded_of(Apart(), (X,), plan=APART).rank_program(0)
    calls = [node for node in program.graph.nodes if node.op == "call_function"]
    gather = next(node for node in calls if str(node.target).startswith(GATHER))
    assert str(gather.args[0].target) == "aten.linear.default"
    assert gather.prev is gather.args[0]
    (wait,) = gather.users
    between = calls[calls.index(gather) : calls.index(wait)]
    assert sum(str(node.target) == "aten.linear.default" for node in between) == 2
    plain = plain_programs(sharded_of(Apart(), (X,), plan=APART))[0]
    first = next(node for node in plain.graph.nodes if str(node.target).startswith(GATHER))
    assert str(first.next.target) == "_c10d_functional.wait_tensor.default"
    assert_same_numbers(sharded_of(Apart(), (X,), plan=APART), (X,))


class Norms(nn.Module):
    """Weights that are gathered at every call, each for its own layer."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))

    def forward(self, x):
        for layer in self.layers:
            x = torch.linalg.solve(layer.weight, x.transpose(-1, -2)).transpose(-1, -2).sin()
        return x


def test_weights_are_gathered_where_they_are_read(monkeypatch):
    monkeypatch.setattr(schedule, "SMALL_BYTES", 0)
    sharded = sharded_of(Norms(), (X,), plan={"layers.*.weight": sw.Shard(0)})
    order = [name for name in names(sharded.rank_program(0)) if name in (GATHER, "aten.sin")]
    assert order == [GATHER, "aten.sin"] * 3
    assert_same_numbers(sharded, (X,))


class Drawing(nn.Module):
    """Noise before and after what is gathered; the later noise is added to what is gathered first."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x):
        one = self.first(x + torch.rand_like(x)).sin()
        return one + self.second(x + torch.rand_like(x)).sin()


def test_random_numbers_are_drawn_in_the_order_of_the_original():
    sharded = sharded_of(Drawing(), (X,), plan={"first": "colwise_rep", "second": "colwise_rep"})
    assert names(sharded.rank_program(0)).count(GATHER) == 1
    assert_same_numbers(sharded, (X,))


class Branching(nn.Module):
    """Collectives before, inside and after a branch."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Linear(8, 8) for _ in range(4))

    def forward(self, x):
        before = self.a(x)
        inside = torch.cond(x.sum() > 0, lambda x: self.d(torch.relu(self.b(x))).sin(), lambda x: x.sin(), (x,))
        return before.sin() + inside + self.c(x).sin()


def test_nothing_passes_a_branch_that_communicates():
    plan = {"a": "colwise_rep", "b": "colwise", "d": "rowwise", "c": "colwise_rep"}
    sharded = sharded_of(Branching(), (X,), plan=plan)
    order = [name for name in names(sharded.rank_program(0)) if name in (GATHER, "cond")]
    assert order == [GATHER, "cond", GATHER]
    assert_same_numbers(sharded, (X,))


MODELS = {
    "scarce heads": (lambda: Decoder(heads=8, kv_heads=2, width=64, hidden=64), (IDS,), 4, MEGATRON),
    "parallel blocks": (lambda: Decoder(parallel=True), (IDS,), 2, MEGATRON),
    "empty pieces": (lambda: Modulated(width=3), (X[..., :3], TIME), 4, MODULATED),
    "two axes": (Modulated, (X, TIME), {"dp": 2, "tp": 2}, {"tp": MODULATED}),
    "uneven pieces": (lambda: MLPs(3), (torch.randn(4, 12),), 4, "auto"),
    "sequences": (lambda: Decoder(layers=3), (IDS,), 2, {**MEGATRON, "layers.*.norm*": "sequence_parallel"}),
    "vocabulary": (Decoder, (IDS,), 3, {"embed": "rowwise", "lm_head": "colwise", **MEGATRON}),
}


@pytest.mark.parametrize("name", MODELS)
def test_ranks_send_the_same_in_one_order_and_numbers_stay(name):
    make, args, mesh, plan = MODELS[name]
    sharded = sharded_of(make(), args, mesh, plan)
    first, *others = [sent(program) for program in lean_programs(sharded)]
    assert first
    assert [other for other in others if other != first] == []
    assert len(first) <= len(sent(plain_programs(sharded)[0]))
    assert_same_numbers(sharded, args)


class NoShare(nn.Module):
    """Lookups and gathers side by side, of which some ranks have no share and write zeros."""

    def __init__(self):
        super().__init__()
        self.words, self.places = nn.Embedding(5, 8), nn.Embedding(9, 8)
        self.up, self.down = nn.Linear(8, 5), nn.Linear(5, 8)

    def forward(self, ids):
        words = self.words(ids % 5)
        hidden = self.down(torch.relu(self.up(words)))
        return hidden + self.places(ids % 9) * words.sin()


def test_ranks_without_a_share_keep_the_order_of_the_others():
    plan = {"words": "rowwise", "places": "rowwise", "up": "colwise", "down": "rowwise"}
    sharded = sharded_of(NoShare(), (IDS,), 4, plan)
    first, *others = [sent(program) for program in lean_programs(sharded)]
    assert others == [first] * 3
    assert_same_numbers(sharded, (IDS,))
    assert outputs(sharded, lean_programs(sharded), (IDS,))


def test_gradients_of_weights_are_computed_while_those_of_values_are_summed():
    """What no collective needs comes behind the next one, and not later."""
    model = nn.Sequential(nn.Linear(8, 12), nn.Tanh(), nn.Linear(12, 8), nn.Linear(8, 12), nn.Tanh(), nn.Linear(12, 8))
    plan = {"[0,3]": "colwise", "[2,5]": "rowwise"}
    args = (torch.randn(4, 8), torch.randn(4, 8))
    sharded = sw.shard(sw.export_training(model, args, loss=nn.functional.mse_loss), mesh=2, plan=plan)
    calls = [node for node in sharded.rank_program(0).graph.nodes if node.op == "call_function"]
    *_, last = [node for node in calls if str(node.target).startswith("_c10d_functional.all_reduce")]
    (wait,) = last.users
    meanwhile = calls[calls.index(last) : calls.index(wait)]
    # Of the last two layers; those of the first two come last of all.
    assert sum(str(node.target) == "aten.mm.default" for node in meanwhile) == 2
    assert sum(str(node.target) == "aten.mm.default" for node in calls[calls.index(wait) :]) == 3
