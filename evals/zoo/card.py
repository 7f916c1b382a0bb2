"""Write what the results say: ``python -m evals.zoo.card``.

The whole card, one row a model type, goes to ``evals/results/models.md``, which is not kept in git; its counts go to
``docs/models.md``, which is.
"""

import argparse
from collections import Counter
from pathlib import Path

from evals.prose import filled
from evals.zoo.agreement_card import agreement_counts, agreement_section
from evals.zoo.results import FOLDER, RESULTS, latest, tally
from evals.zoo.types import model_types

CARD = FOLDER / "models.md"
SUMMARY = Path("docs/models.md")
GROUPS = {"causal": "causal language models", "base": "encoders, vision, audio and multimodal models"}
ORDER = ("ok", "wrong", "crashed", "refused", "gave up", "no plan", "not exportable", "not buildable")
MEANING = {
    "ok": "equal to the original on every rank",
    "wrong": "a rank differs from the original",
    "crashed": "sharding or simulating raised something that is no message for people",
    "refused": "Shardwright says why it cannot",
    "gave up": "beyond the limit of time or memory",
    "no plan": "transformers ships none",
    "not exportable": "`torch.export` does not take it",
    "not buildable": "the recipe finds no small config that builds and runs",
}
POINTER = """`make zoo` writes one row a model type (verdict, error, share, collectives, seconds, remarks) to
`evals/results/models.md`, and every weight that the automatic plan and the maintainers' hold differently.
"""
MUCH = 1.25
"""A share of this many equal parts is explained."""
MOST_NOTES = 4
HEAD = """# Models

Every model type of transformers, built from its own config class with small sizes and random weights, exported with
`torch.export`, sharded, run on every rank in one process and compared with the original. Nothing here is written for
any model: one recipe shrinks every config (two layers, or one of every kind of layer; width 64, 8 heads, 4 key-value
heads, 4 experts), and Shardwright has no line about any architecture. Made by `make zoo`; torch {torch}, transformers
{transformers}.
"""
LEGEND = """
**Error**: the largest difference from the original over the largest value, worst of all runs, in float32. **Share**:
weight bytes on the busiest rank over those of the whole model under `"auto"`, for each number of ranks; 1/ranks is the
least, and where a rank holds a quarter more, the remarks name the weights that are whole or cut unevenly and what they
add. **Collectives**: in one forward pass, **seconds**: to shard, both for the first way of sharding. **Without a
rule**: operators that ran whole on every rank.
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS["zoo"])
    parser.add_argument("--agreement", type=Path, default=RESULTS["agreement"])
    parser.add_argument("--output", type=Path, default=CARD)
    parser.add_argument("--summary", type=Path, default=SUMMARY)
    options = parser.parse_args()
    records, facts = latest(options.results)
    agreement, _ = latest(options.agreement)
    totals = Counter(kind.group for kind in model_types())
    options.output.write_text(render(records, agreement, facts, totals), encoding="utf-8")
    options.summary.write_text(summary(records, agreement, facts, totals), encoding="utf-8")


def render(records, agreement, facts, totals):
    """The card. ``records``, ``agreement``: by (type, plan, ranks); ``facts``: versions; ``totals``: types a group."""
    text = [HEAD.format(**facts), counts_table(records, totals), verdict_legend(records), causes(records)]
    text += [agreement_section(agreement), LEGEND]
    for group, title in GROUPS.items():
        mine = {key: r for key, r in records.items() if r["group"] == group}
        if mine:
            text += [f"## {title.capitalize()}\n", model_table(mine)]
    return "\n".join(text).rstrip() + "\n"


def summary(records, agreement, facts, totals):
    """The counts of the card, for the documentation; arguments as in `render`."""
    legend = verdict_legend(records).replace("\n- ", " ").removeprefix("- ")
    text = [HEAD.format(**facts), counts_table(records, totals), legend, causes(records)]
    text += [agreement_counts(agreement), POINTER]
    return filled("\n".join(text).rstrip() + "\n")


def counts_table(records, totals):
    """Model types by verdict, a row for each way of sharding; the last column: how many have not been run that way."""
    ways = sorted({(r["plan"], r["num_ranks"]) for r in records.values() if r["plan"]})
    lines = [row("", "", *ORDER, "to be run"), row(*["---"] * (len(ORDER) + 3))]
    for group, title in GROUPS.items():
        for plan, num_ranks in ways:
            counts = tally(records, group, plan, num_ranks)
            if counts:
                left = totals[group] - counts.total()
                lines.append(row(title, f"{plan}, {num_ranks} ranks", *[counts[v] or "" for v in ORDER], left or ""))
    return "\n".join(lines) + "\n"


def verdict_legend(records):
    seen = {r["verdict"] for r in records.values()}
    return "\n".join(f"- *{verdict}*: {MEANING[verdict]}." for verdict in ORDER if verdict in seen) + "\n"


def causes(records):
    """Operators without a rule, by how many model types have them."""
    found = {}
    for (kind, _, _), record in records.items():
        for op in record.get("fallbacks", {}):
            found.setdefault(op, set()).add(kind)
    if not found:
        return "Every operator of every model has a rule.\n"
    ranked = sorted(found.items(), key=lambda item: (-len(item[1]), item[0]))
    listed = ", ".join(f"`{op}` ({len(kinds)})" for op, kinds in ranked)
    return f"Operators without a rule, and in how many model types: {listed}.\n"


def model_table(records):
    """One row a model type."""
    lines = [row("model type", "verdict", "error", "share", "collectives", "without a rule", "seconds", "remarks")]
    lines.append(row(*["---"] * 8))
    by_kind = {}
    for key, record in sorted(records.items()):
        by_kind.setdefault(key[0], []).append(record)
    lines += [model_row(kind, runs) for kind, runs in by_kind.items()]
    return "\n".join(lines) + "\n"


def model_row(kind, runs):
    verdicts = Counter(r["verdict"] for r in runs if r["verdict"] != "no plan")
    errors = [r["max_error"] for r in runs if r.get("max_error") is not None]
    shares = {r["num_ranks"]: r["share"] for r in runs if r["plan"] == "auto" and "share" in r}
    first = next((r for r in runs if "collectives" in r), {})
    return row(
        f"`{kind}`",
        ", ".join(f"{v} {n}" if len(verdicts) > 1 else v for v, n in verdicts.items()),
        f"{max(errors):.0e}" if errors else "",
        " ".join(f"{shares[n]:.2f}" for n in sorted(shares)),
        ", ".join(f"{n} {name.replace('_', '-')}" for name, n in first.get("collectives", {}).items()),
        ", ".join(f"`{op.removesuffix('.default')}`" for op in first.get("fallbacks", {})),
        f"{first['shard_s']:.1f}" if "shard_s" in first else "",
        remarks(runs),
    )


def remarks(runs):
    bad = dict.fromkeys(
        (f"{r['plan']}, {r['num_ranks']}: " if r["plan"] else "") + shorten(r["reason"])
        for r in runs
        if r.get("reason") and r["verdict"] != "ok"
    )
    rounding = [r for r in runs if r["verdict"] == "ok" and r.get("max_error_float64") is not None]
    notes = [*bad]
    if rounding:
        notes.append(f"rounding: {max(r['max_error_float64'] for r in rounding):.0e} in float64")
    notes += [f"{r['num_ranks']} ranks: whole or uneven: {held}" for r in runs if (held := beyond(r))]
    gap = max((r.get("gap", 0.0) for r in runs), default=0.0)
    if gap > 0.01:
        notes.append(f"not proven best (gap {gap:.0%})")
    return "; ".join(notes[:MOST_NOTES])


def beyond(record):
    """The weights that make a rank hold much more than its part, under the automatic plan."""
    if record["plan"] != "auto" or record.get("share", 0.0) < MUCH / record["num_ranks"]:
        return ""
    return ", ".join(f"`{name}` {share:.0%}" for name, share in record.get("held_beyond", {}).items())


def shorten(text, limit=140):
    text = " ".join(text.split()).replace("|", "\\|")
    return text if len(text) <= limit else text[: limit - 1] + "…"


def row(*cells):
    return "| " + " | ".join(map(str, cells)) + " |"


if __name__ == "__main__":
    main()
