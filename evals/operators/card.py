"""What the sweep and the ground truth say.

The whole card, one row an operator, goes to ``evals/results/operators.md``, which is not kept in git; its counts go to
``docs/operators.md``, which is.

python -m evals.operators.card
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from evals.operators import sweep, truth
from evals.operators.samples import cases
from shardwright.errors import ShardwrightError

CARD = Path("evals/results/operators.md")
SUMMARY = Path("docs/operators.md")
KINDS = {"Operators": "", "Modules": "module ", "Higher-order operators": "hop "}
"""What a kind's names start with."""
Row = Mapping[str, Any]

VERDICTS = {
    "cut": "every call of every sample has a rule, and whatever was cut, the numbers were right",
    "replicated": "some call has no rule: it ran whole on every rank, was reported so, and the numbers were right",
    "undefined": "its values are not defined (`empty` and its like), so there is nothing to compare",
    "refused": "Shardwright refuses it with a message",
    "not exportable": "`torch.export` refuses every sample, or what it exports cannot run",
    "wrong": "a wrong number, or a traceback from inside",
}


def verdict(row: Row) -> str:
    """One word for an operator's results."""
    if row["problem"] or row["wrong"]:
        return "wrong"
    if row["refused"]:
        return "refused"
    if row["undefined"] and not row["pins"]:
        return "undefined"
    if not row["pins"]:
        return "not exportable"
    return "replicated" if row["fallbacks"] else "cut"


def note(row: Row, word: str) -> str:
    """Why, in a few words: the first reason given."""
    if word == "wrong":
        return row["problem"] or row["wrong"][0]
    if word == "refused":
        return _reason(row["refused"][0])
    if word == "not exportable":
        return _reason(row["unexported"][0])
    if word == "replicated":
        op, reason = next(iter(sorted(row["fallbacks"].items())))
        more = f" (and {len(row['fallbacks']) - 1} more)" if len(row["fallbacks"]) > 1 else ""
        return f"`{op}`: {reason}{more}"
    return f"{len(row['unexported'])} programs not exportable" if row["unexported"] else ""


def _reason(text: str) -> str:
    """What follows the place of a finding: the error and its message."""
    for kind in ("Error: ", "Exception: ", "Symbol", "SymNode: "):
        head, found, tail = text.partition(kind)
        if found:
            return f"{head.split()[-1]}{kind}{tail}"[:160]
    return text[:160]


def table(rows: Sequence[Row]) -> Iterator[str]:
    """A table of operators."""
    yield "| operator | verdict | programs | dims cut | note |"
    yield "|---|---|--:|--:|---|"
    for row in sorted(rows, key=lambda one: one["name"].lower()):
        word = verdict(row)
        cells = note(row, word).replace("|", "\\|").replace("\n", " ")
        dims = f"{row['cut']} of {row['dims']}" if row.get("dims") else ""
        yield f"| {row['name']} | {word} | {row.get('pins', 0)} | {dims} | {cells} |"


def write(rows: Sequence[Row], comparisons: Sequence[Row]) -> str:
    """The text of the card."""
    parts = ["# Operators", "", *_preface(rows), "", *_DIMS_CUT, ""]
    for title, own in _by_kind(rows).items():
        parts += [f"## {title}", "", *_head(), _counts("all", own), "", *table(own), ""]
    parts += ["## Ground truth", "", *_agreement(comparisons), "", *_truth(comparisons), ""]
    return "\n".join(parts)


def summary(rows: Sequence[Row], comparisons: Sequence[Row]) -> str:
    """The counts of the card, for the documentation."""
    counts = [_counts(title.lower(), own) for title, own in _by_kind(rows).items()]
    parts = ["# Operators", "", *_preface(rows), *_POINTER, "", *_head(), *counts, "", *_agreement(comparisons), ""]
    return "\n".join(parts)


_POINTER = (
    "One row an operator, with the reason where it is not cut, and the ground truth operator by operator: `make ops`",
    "writes them to `evals/results/operators.md`.",
)


def _by_kind(rows: Sequence[Row]) -> dict[str, list[Row]]:
    special = tuple(filter(None, KINDS.values()))
    found = {
        title: [r for r in rows if r["name"].startswith(prefix) and (prefix or not r["name"].startswith(special))]
        for title, prefix in KINDS.items()
    }
    return {title: own for title, own in found.items() if own}


def _preface(rows: Sequence[Row]) -> list[str]:
    programs = sum(row.get("pins", 0) for row in rows)
    limits = sorted({row["limit"] for row in rows if "limit" in row})
    return [
        f"Written by `make ops` (torch {torch.__version__.split('+')[0]}, CPU, float32). Every entry of PyTorch's own",
        "databases is wrapped in a module, exported as it is and decomposed, and sharded over 2 and 4 simulated ranks",
        "once for every dim of every tensor that can be cut, at sizes that divide and at the database's own. Outputs",
        f"are compared with the original's to 1e-5 of the largest value: {programs:,} sharded programs. Besides, every",
        "strategy of the rule of every call is run on cut tensors, on 2, 3 and 4 ranks.",
        "",
        *(f"- **{word}**: {meaning}." for word, meaning in VERDICTS.items()),
        "",
        f"Judged so far: {len(rows)} of the {len(cases())} entries of the databases, each on its first",
        f"{' to '.join(map(str, limits)) or 'few'} samples in every set of sizes, those of unequal shapes first.",
    ]


_DIMS_CUT = (
    "*Dims cut* counts the dims of all operand tensors (longer than one) that the rules can cut; the others take",
    "part in what the operator computes as a whole (a sorted dim, the rows of a matrix that is inverted). Random",
    "operators are drawn whole by every rank: seed all ranks alike.",
)


def _head() -> Iterator[str]:
    yield f"|  | {' | '.join(VERDICTS)} | together |"
    yield "|---|" + "--:|" * (len(VERDICTS) + 1)


def _counts(title: str, rows: Sequence[Row]) -> str:
    counts = Counter(map(verdict, rows))
    return f"| {title} | {' | '.join(str(counts[word]) for word in VERDICTS)} | {len(rows)} |"


def _agreement(comparisons: Sequence[Row]) -> Iterator[str]:
    good = [one for one in comparisons if not one["problem"] and one["valid"]]
    valid, allowed = sum(one["valid"] for one in good), sum(one["allowed"] for one in good)
    unsound = sum(len(one["unsound"]) for one in comparisons if not one["problem"])
    share = f"{allowed / valid:.1%}" if valid else "none"
    yield "For the operators that torch tags `core`: every placement of operands (whole, cut on a dim, summands) and"
    yield "results (also maxima and minima) on 2 ranks, valid or not by running the operator"
    yield "(`torch.distributed.tensor._ops.strategy_validation`); maxima of equal values and reductions of truth values"
    yield "are left out."
    yield f"Of {valid:,} valid combinations of {len(good)} operators our rules allow {allowed:,} (**{share}**);"
    yield f"**{unsound}** of ours are wrong. Ours beyond the valid ones change an argument (a size, an index), which"
    yield "the ground truth cannot do; they are checked by running them so."


def _truth(comparisons: Sequence[Row]) -> Iterator[str]:
    yield "| operator | valid | allowed | by changing an argument | valid, but not allowed |"
    yield "|---|--:|--:|--:|---|"
    for one in comparisons:
        if one["problem"]:
            yield f"| {one['name']} | | | | {one['problem']} |"
        else:
            missing = "; ".join(dict.fromkeys(one["missing"]))
            short = missing if len(missing) <= 120 else f"{missing[:120]} …"
            yield f"| {one['name']} | {one['valid']} | {one['allowed']} | {one['localized']} | {short} |"


def main() -> None:
    """Write the card."""
    if not sweep.RESULTS.exists() or not truth.RESULTS.exists():
        raise ShardwrightError("there are no results to write a card from\n  try: make ops")
    rows = {row["name"]: row for row in map(json.loads, sweep.RESULTS.open())}
    comparisons = json.loads(truth.RESULTS.read_text())
    CARD.write_text(write(list(rows.values()), comparisons))
    SUMMARY.write_text(summary(list(rows.values()), comparisons))
    print(f"{CARD}: {dict(Counter(map(verdict, rows.values())))}")


if __name__ == "__main__":
    main()
