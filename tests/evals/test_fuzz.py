"""A fixed sample of what `make fuzz` draws: right numbers or words; and what the fuzzer itself rests on."""

from dataclasses import replace

import pytest
import torch
from evals.fuzz.arguments import Call, draw_call
from evals.fuzz.asked import Asked, TorchStyle
from evals.fuzz.judge import judge
from evals.fuzz.layouts import piece
from evals.fuzz.models import MODELS, make
from evals.fuzz.plans import PlanCase, draw_plan
from evals.fuzz.programs import Case, draw_case, shortened, text_of
from evals.fuzz.recipes import Recipe, Step, without
from evals.fuzz.results import table
from evals.fuzz.tasks import TASKS, judged

import shardwright as sw
from evals import crew
from shardwright.layout.layout import resolve
from shardwright.layout.pieces import take_shard
from shardwright.rules import REGISTRY
from shardwright.rules.registry import einsum

SAMPLE = {"programs": 10, "plans": 6, "arguments": 24, "packages": 12}
"""The first seeds of each task."""


@pytest.mark.parametrize("name", [f"{task} {seed}" for task, count in SAMPLE.items() for seed in range(count)])
def test_what_is_drawn_is_right_or_refused_in_words(name):
    row = judged(name)
    assert row["verdict"] != "fault", row["said"]
    if name.startswith("programs"):
        # A random plan may ask for what does not fit; nothing else stands in the way of a program.
        assert row["verdict"] == "right" or row["kind"] == "PlanError", row["said"]


def test_a_seed_draws_one_thing():
    assert draw_case(7) == draw_case(7)
    assert draw_case(7) != draw_case(8)
    assert draw_plan(7) == draw_plan(7)
    assert draw_call(7) == draw_call(7)
    assert 20 <= len(draw_case(7).recipe.steps) <= 40


LAYOUTS = [
    sw.Replicate(),
    sw.Shard(1),
    sw.Shard(0, sw.Blocks(unit=2)),
    sw.Shard(1, sw.Blocks(parts=(3, 6))),
    sw.Shard(1, sw.Blocks(parts=(6, 3), unit=3)),
]


@pytest.mark.parametrize("layout", LAYOUTS, ids=repr)
@pytest.mark.parametrize("num_ranks", [2, 3, 5])
def test_pieces_cut_by_hand_are_those_of_the_library(layout, num_ranks):
    value = torch.arange(54).view(6, 9)
    for rank in range(num_ranks):
        wanted = take_shard(value, resolve(layout, value.shape, num_ranks), rank)
        assert torch.equal(piece(value, layout, rank, num_ranks), wanted)


@pytest.fixture
def mean_is_a_sum():
    """A rule that says that the mean is the sum of the pieces' means."""
    before = REGISTRY.entry_named("aten::mean.dim")
    REGISTRY.add("aten::mean.dim", einsum("b n -> b 1"), replace=True)
    yield
    REGISTRY.remove("aten::mean.dim") if before is None else REGISTRY.add("aten::mean.dim", before, replace=True)


def test_a_wrong_rule_is_a_fault_and_its_case_is_made_short(mean_is_a_sum):
    steps = (
        Step("linear", (0,), (6, 4, False)),
        Step("flip", (0,), ((0,),)),
        Step("mean", (1,), (1, True)),
        Step("squeeze", (3,), (1,)),
    )
    recipe = Recipe(0, ((20, 6),), steps, (2, 4))
    asked = Asked({"a": 2}, {"a": {"layers.0": "colwise"}}, {"a": {}}, {"a": {0: sw.Shard(0)}})
    case = Case(recipe, asked)
    assert case.verdict().kind == "wrong numbers"
    short = shortened(case, lambda one: one.verdict().kind == "wrong numbers")
    assert [step.name for step in short.recipe.steps] == ["linear", "mean"]
    assert short.asked == replace(asked, outputs={"a": {}})
    names = {}
    exec(text_of(short).replace("print(", "said = ("), names)
    assert names["said"].kind == "wrong numbers"


def test_a_step_is_left_out_and_what_is_asked_keeps_its_meaning():
    steps = (Step("linear", (0,), (6, 4, False)), Step("flip", (0,), ((0,),)), Step("linear", (1,), (4, 3, True)))
    recipe = Recipe(0, ((2, 6),), steps, (2, 3))
    assert without(recipe, 0) is None
    asked = Asked({"a": 2}, {"a": {"layers.2": "colwise"}}, {"a": {}}, {"a": {0: sw.Shard(0), 1: sw.Shard(1)}})
    short = shortened(Case(recipe, asked), lambda case: len(case.recipe.steps) == 2)
    assert [str(step) for step in short.recipe.steps] == ["linear(v0, 6, 4, False)", "flip(v0, (0,))"]
    kept = shortened(Case(recipe, asked), lambda case: case.asked.outputs["a"].get(0) == sw.Shard(1))
    assert [step.name for step in kept.recipe.steps] == ["linear", "linear"]
    assert kept.asked.outputs == {"a": {0: sw.Shard(1)}}


def test_a_recipe_prints_as_a_program():
    recipe = Recipe(0, ((2, 6),), (Step("view", (0,), ((3, -1),)), Step("add", (1, 1))), (2,))
    assert str(recipe) == "v0 = input(2, 6)\nv1 = view(v0, (3, -1))\nv2 = add(v1, v1)\nreturn v2"


@pytest.mark.parametrize("name", ["branches", "decoder, tied", "experts", "rows"])
def test_models_are_right_under_no_plan(name):
    assert name in MODELS
    asked = Asked({"a": 2}, {"a": "auto"}, {"a": {}}, {"a": {}})
    assert judge(*make(name), asked).word == "right"


def test_torchs_styles_are_spelled_so_that_they_can_be_pasted():
    style = TorchStyle("ColwiseParallel", (("output_layouts", "R"),))
    case = PlanCase("gated", Asked({"a": 2}, {"a": {"blocks.0.up_proj": style}}, {"a": {}}, {"a": {}}))
    assert case.verdict().word == "right"
    assert eval(repr(style)) == style


def test_a_fault_of_a_call_is_one_and_its_good_arguments_come_back():
    call = Call("Blocks", {"parts": "(8, 8)", "unit": "0"})
    assert call.verdict().kind == "LayoutError"
    task = TASKS["arguments"]
    mixed = Call("Sampling", {"temperature": "0.7", "top_p": "0.8", "seed": "None"})
    short = task.shorten(mixed, lambda one: one.arguments["seed"] == "None")
    assert short.arguments == {"temperature": "0.5", "top_p": "0.9", "seed": "None"}


def slow_or_dead(name):
    """For the crew: ends, never ends, or takes its process with it."""
    import os
    import time

    if name == "slow":
        time.sleep(60)
    if name == "dead":
        os._exit(3)
    if name == "hungry":
        bytearray(1 << 40)
    return {"said": name}


@pytest.mark.ranks
def test_a_crew_outlives_what_it_is_given():
    names = ["well", "dead", "slow", "hungry", "after"]
    answers = {one["name"]: one["problem"] for one in crew.run(names, slow_or_dead, workers=1, seconds=1)}
    assert answers["well"] == answers["after"] == ""
    assert "exit code 3" in answers["dead"]
    assert answers["slow"] == "stopped after 1 s"
    assert "MemoryError" in answers["hungry"]


def test_the_table_counts_verdicts():
    rows = [{"name": f"plans {seed}", "verdict": "right", "kind": ""} for seed in range(3)]
    rows.append({"name": "plans 3", "verdict": "fault", "kind": "no end"})
    found = table(rows)
    assert found.row_count == 2
    assert list(found.columns[3].cells) == ["1 of 4", "3 of 4"]
