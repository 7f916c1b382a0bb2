"""The operator score card on a sample of the databases: the same judge as `make ops`, fewer entries and samples."""

from dataclasses import asdict

import pytest
from evals.operators.card import verdict, write
from evals.operators.judge import Findings, judge
from evals.operators.samples import cases, samples_of

VERDICTS = {
    "add": "cut",
    "bernoulli": "replicated",
    "cross": "cut",
    "cumsum": "cut",
    "empty_like": "undefined",
    "equal": "not exportable",
    "gather": "cut",
    "hop cond": "cut",
    "index_select": "cut",
    "linalg.inv": "cut",
    "logsumexp": "cut",
    "module nn.Linear": "cut",
    "nn.functional.embedding": "cut",
    "sparse.mm.reduce": "refused",
    "topk": "cut",
}


def judged(name):
    findings = Findings()
    for sample in samples_of(cases()[name], limit=1):
        judge(sample.program, findings, sample.name)
    return {"name": name, "problem": "", **asdict(findings)}


@pytest.mark.parametrize("name", VERDICTS)
def test_the_judge_says(name):
    row = judged(name)
    assert row["wrong"] == []
    assert verdict(row) == VERDICTS[name]


def test_the_card_says_why():
    rows = [judged("bernoulli"), judged("hop cond"), {**judged("add"), "wrong": ["rule of add: differs by 3"]}]
    truth = [
        {"name": "aten::mm", "problem": "", "valid": 8, "allowed": 6, "localized": 1, "unsound": [], "missing": []}
    ]
    text = write(rows, truth)
    assert "| add | wrong |" in text
    assert "it draws random numbers" in text
    assert "**75.0%**" in text
    assert "## Higher-order operators" in text
