"""The wild zoo's list, its path from an entry to a record, and its page (the zoo itself takes hours: `make wild`)."""

import re
from pathlib import Path

import pytest
import torch
from evals.wild import card, measure
from evals.wild.card import further, slower, summary
from evals.wild.entry import Drawn, Entry, floats, ints
from evals.wild.exporting import OPEN, export, known_of, larger, opened
from evals.wild.left_out import LEFT_OUT
from evals.wild.measure import built
from evals.wild.models import FIELDS, entries, fields
from evals.zoo.measure import Run
from evals.zoo.types import ModelType

LAYER = {"d_model": 32, "nhead": 4, "dim_feedforward": 64, "batch_first": True}
ENTRY = Entry("torch", "torch.nn:TransformerEncoderLayer", (floats(2, 6, 32),), LAYER)


class Scaled(torch.nn.Module):
    """A model with inputs that may be left out, and one that is no tensor."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(8, 8)

    def forward(self, x, mask=None, twice=False):
        y = self.layer(x)
        y = y if mask is None else y * mask
        return 2 * y if twice else y


def pinned():
    files = (Path("constraints.txt"), Path("evals/wild/requirements.txt"))
    lines = [line for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    return {re.sub("[-_.]+", "-", line.partition("==")[0]).lower() for line in lines if "==" in line}


def test_every_package_of_the_list_is_pinned_and_none_is_also_left_out():
    packages = {entry.package for entry in entries().values()}
    assert {re.sub("[-_.]+", "-", name).lower() for name in packages} - pinned() == set()
    assert packages & set(LEFT_OUT) == set()
    assert set(fields()) == set(entries())
    assert set(fields().values()) <= set(FIELDS)


def test_an_entry_is_built_alike_every_time():
    (model, inputs), (other, others) = built(ENTRY), built(ENTRY)
    assert ENTRY.name == "torch: TransformerEncoderLayer"
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
    assert torch.equal(inputs["src"], others["src"])
    assert not model.training


def test_drawn_integers_keep_to_their_range():
    _, inputs = Entry(
        "torch", "torch.nn:Embedding", (ints(50, below=4, least=2),), {"num_embeddings": 4, "embedding_dim": 8}
    ).build()
    assert set(inputs["input"].tolist()) == {2, 3}
    assert Drawn((4,), 3, as_floats=True).draw(torch.Generator()).dtype == torch.float32


def test_which_models_run_on_processes_hangs_on_their_names_alone():
    chosen = [name for name in entries() if measure.on_two(name)]
    assert len(chosen) > len(entries()) / 4
    assert [name for name in ("a", "b", "c") if measure.on_two(name)] == ["a", "c"]


@pytest.mark.parametrize(
    "inputs", [{"twice": True}, {"mask": None}, {"mask": torch.ones(8)}, {"mask": torch.ones(3, 1), "twice": True}]
)
def test_another_batch_is_given_wherever_the_leading_dim_is_open(inputs):
    given = {"x": torch.randn(3, 8), **inputs}
    program = export(Scaled(), given).program
    more = larger(program, given)
    assert next(opened(value) for value in known_of(program))
    assert more["x"].shape == (4, 8)
    assert {name: value for name, value in more.items() if not isinstance(value, torch.Tensor)} == {
        name: value for name, value in inputs.items() if not isinstance(value, torch.Tensor)
    }
    program.module()(**more)


class Named(torch.nn.Module):
    def forward(self, x):
        return [x, torch.return_types.max((x, x))]


def test_the_modules_of_output_classes_are_found():
    program = torch.export.export(Named(), (torch.ones(2),))
    assert measure.modules_of(program) == ["builtins", "torch.return_types"]


def test_the_page_tells_models_that_take_no_other_batch_and_runs_that_pay():
    run = {"plan": "auto", "verdict": "ok", "way": OPEN}
    gains = {"alone": 3.0, "total": 2.0, "latencies": 1.0, "bytes sent": 0.5, "repeated work": 0.0}
    loses = {"alone": 1.0, "total": 4.0, "latencies": 1.0, "bytes sent": 2.0, "repeated work": 0.0}
    runs = {
        ("a", "auto", 2): {**run, "type": "a", "other_batch": "right", "predicted_us": gains},
        ("a", "auto", 3): {**run, "type": "a", "other_batch": "wrong", "verdict": "wrong"},
        ("b", "auto", 2): {**run, "type": "b", "other_batch": "not taken", "predicted_us": loses},
        ("c", "auto", 2): {**run, "type": "c", "other_batch": "right"},
        ("d", "auto", 2): {**run, "type": "d", "way": "fixed sizes: so"},
    }
    assert further(runs).startswith(
        "Of 4 exportable models 3 were exported with the batch open. With another batch 1 are right as well, "
        "1 are not, 1 do not take one, sharded or not."
    )
    assert "Of 2 runs whose time was predicted, for an H100, 1 are slower" in slower(runs)
    assert "1 for bytes sent above all" in slower(runs)
    assert slower({("a", "auto", 2): runs["a", "auto", 2]}) == ""


@pytest.mark.ranks
def test_a_model_goes_from_its_entry_to_the_page(monkeypatch):
    heard = []
    monkeypatch.setattr(measure, "entries", lambda: {ENTRY.name: ENTRY})
    for module in (measure, card):
        monkeypatch.setattr(module, "on_two", lambda name: True)
    measure.measure(ModelType(ENTRY.name, "attention"), [Run("auto", 2)], heard.append)
    record = heard[-1]
    assert (record["verdict"], record["way"], record["other_batch"]) == ("ok", OPEN, "right")
    assert record["processes_error"] < 1e-5
    record |= {"type": ENTRY.name, "group": "attention", "plan": "auto", "num_ranks": 2}
    large = {**record, "type": "large", "parameters": 11_000_000, "share": 0.75, "held_beyond": {"emb.weight": 0.25}}
    page = summary({(ENTRY.name, "auto", 2): record, ("large", "auto", 2): large}, {"torch": "2"})
    assert f"takes {len(entries())} models of" in page
    assert f"This page is about 2 of the {len(entries())}" in page
    assert "| 2 | 2 |" in page
    assert "Of 1 models above 10,000,000 parameters the busiest rank holds 1.50 equal parts" in page
    flat = " ".join(page.split())
    assert "`large on 2` (1.50: `emb.weight`)" in flat
    assert "Of 2 exportable models 2 were exported with the batch open. With another batch 2 are right as well." in flat
    assert "On 2 processes 2 of the 2 chosen for it are right." in flat
    assert "Of 2 runs whose time was predicted, for an H100, 2 are slower than one rank alone: 2 for latencies" in flat
    assert max(len(line) for line in page.splitlines() if not line.startswith("|")) <= 120
    assert "| **attention** | 2, 2 | 1 | 2 of 2 | 2 | 2 |" in page


class Draws(torch.nn.Linear):
    def forward(self, x):
        return super().forward(x + torch.randn(x.shape))


@pytest.mark.ranks
def test_a_model_that_draws_random_numbers_draws_the_same_ones_on_processes(monkeypatch):
    heard = []
    entry = Entry("torch", f"{__name__}:Draws", (floats(2, 32),), {"in_features": 32, "out_features": 32})
    monkeypatch.setattr(measure, "entries", lambda: {entry.name: entry})
    monkeypatch.setattr(measure, "on_two", lambda name: True)
    measure.measure(ModelType(entry.name, "attention"), [Run("auto", 2)], heard.append)
    assert heard[-1]["verdict"] == "ok"
    assert heard[-1]["processes_error"] < 1e-5


def test_what_a_package_raises_is_its_record(monkeypatch):
    heard = []
    entry = Entry("torch", "torch.nn:TransformerEncoderLayer", (floats(2, 6, 31),), LAYER)
    monkeypatch.setattr(measure, "entries", lambda: {entry.name: entry})
    measure.measure(ModelType(entry.name, "attention"), [Run("auto", 2)], heard.append)
    assert heard[-1]["verdict"] == "not buildable"
    assert "31" in heard[-1]["reason"]
