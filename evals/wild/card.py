"""Write what the results say: ``python -m evals.wild.card``.

One row a model goes to ``evals/results/wild.md``, which is not kept in git; a row a field, and what is left out with
its reason, to ``docs/wild.md``, which is.
"""

import argparse
import statistics
from collections import Counter
from pathlib import Path

from evals.prose import filled
from evals.wild.exporting import OPEN
from evals.wild.left_out import LEFT_OUT
from evals.wild.measure import EVERY, PROCESSES, on_two
from evals.wild.models import FIELDS, entries, fields
from evals.wild.run import RESULTS
from evals.zoo.card import causes, model_table, row, shorten
from evals.zoo.results import FOLDER, latest
from shardwright.assign.integer_program import PROVEN

CARD = FOLDER / "wild.md"
SUMMARY = Path("docs/wild.md")
VERDICTS = ("ok", "wrong", "crashed", "refused", "gave up")
LARGE = 10_000_000
MUCH = 1.15
"""Equal parts that a rank may hold of a large model before the page says of which weights."""
OTHER_BATCH = {"right": "", "wrong": "are not", "not taken": "do not take one, sharded or not"}
"""What may come of a batch of another size, and what is said of it."""
SPENT = ("latencies", "bytes sent", "repeated work")
"""What ranks spend that one alone does not."""
HEAD = """# Models of other packages

`make wild` takes {listed} models of {packages} packages besides transformers, most of them tiny, with weights drawn
anew at 1/√fan-in. Each is exported with `torch.export` with the leading dim of every input left open where the model
takes that, sharded without a plan, run on every rank in one process and compared with the original; where the batch is
open, again with a batch of another size; one in {every} also from disk on two processes. Nothing in Shardwright knows
any of them. torch {torch}, packages as pinned in `evals/wild/requirements.txt`.{run}
"""
PART = """

**This page is about {} of the {}**: a run takes hours, resumes where it stopped, and writes this page anew."""
LEGEND = """
*Models*: listed, and those that `torch.export` takes. *Right*: runs equal to the original on every rank, of all runs
on {ranks} ranks; where rounding is amplified, in double precision, as equal as the original is to itself with another
last digit in its inputs. *Open*: exported with a batch of any size. *Processes*: right on two processes. *Share*:
weight bytes on the busiest rank times ranks over all weight bytes, median of models; 1 is an equal part. *Collectives*:
in one forward pass on 2 ranks, *seconds*: to shard for 2 ranks, and to export, medians, by the clock and beside
whatever else the machine did. *Unproven*: runs whose assignment is not proven best, and the largest gap.
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--output", type=Path, default=CARD)
    parser.add_argument("--summary", type=Path, default=SUMMARY)
    options = parser.parse_args()
    records, facts = latest(options.results)
    known = fields()
    records = {key: record for key, record in records.items() if key[0] in known}
    options.output.parent.mkdir(exist_ok=True)
    options.output.write_text(head(records, facts) + "\n" + model_table(records), encoding="utf-8")
    options.summary.write_text(summary(records, facts), encoding="utf-8")


def summary(records, facts):
    """The page of the documentation. ``records``: by (name, plan, ranks)."""
    ranks = sorted({key[2] for key in records} - {0})
    words = f"{', '.join(map(str, ranks[:-1]))} and {ranks[-1]}" if ranks[1:] else "".join(map(str, ranks))
    text = [
        head(records, facts),
        counts(records, ranks),
        LEGEND.format(ranks=words),
        by_ranks(records, ranks),
        further(records),
        shares_of_large(records),
        slower(records),
        causes(records),
        left_out(records),
    ]
    return filled("\n".join(text).rstrip() + "\n")


def head(records, facts):
    known, found = entries(), {key[0] for key in records}
    packages = len({entry.package for entry in known.values()})
    run = "" if len(found) >= len(known) else PART.format(len(found), len(known))
    return HEAD.format(listed=len(known), packages=packages, every=EVERY, run=run, **facts)


def counts(records, ranks):
    """A row a field, and one of all."""
    titles = ("", "models", "packages", "right", "open", "processes", *(f"share ×{n}" for n in ranks))
    titles += ("collectives", "seconds", "unproven", "wrong or crashed")
    lines = [row(*titles), row(*["---"] * len(titles))]
    for field in (*FIELDS, None):
        mine = [record for record in records.values() if field in (None, record["group"])]
        if mine:
            lines.append(row(f"**{field or 'all'}**", *_cells(mine, ranks)))
    return "\n".join(lines) + "\n"


def by_ranks(records, ranks):
    """A row for each number of ranks: runs by verdict, and the exportable models that were not run so."""
    exportable = {key[0] for key in records if key[1]}
    lines = [row("ranks", *VERDICTS, "not run"), row(*["---"] * (len(VERDICTS) + 2))]
    for num_ranks in ranks:
        found = Counter(record["verdict"] for key, record in records.items() if key[2] == num_ranks)
        lines.append(row(num_ranks, *[found[v] or "" for v in VERDICTS], len(exportable) - found.total() or ""))
    return "\n".join(lines) + "\n"


def further(records):
    """How many models took a batch of another size, and how many ran on processes."""
    runs = [record for record in records.values() if record["plan"]]
    models = {record["type"] for record in runs}
    opened = {record["type"] for record in runs if record["way"] == OPEN}
    again = {verdict: {r["type"] for r in runs if r.get("other_batch") == verdict} for verdict in OTHER_BATCH}
    chosen = {name for name in models if on_two(name)}
    on_processes = {r["type"] for r in runs if r["verdict"] == "ok" and "processes_error" in r}
    text = [f"Of {len(models)} exportable models {len(opened)} were exported with the batch open. "]
    text += [f"With another batch {len(again['right'] - again['wrong'] - again['not taken'])} are right as well"]
    text += [f", {len(again[verdict])} {words}" for verdict, words in OTHER_BATCH.items() if words and again[verdict]]
    text += [f". On {PROCESSES} processes {len(on_processes)} of the {len(chosen)} chosen for it are right."]
    return "".join(text) + "\n"


def slower(records):
    """How many runs are predicted to be slower than one rank alone, and what most of that time goes to."""
    told = [record["predicted_us"] for record in records.values() if "predicted_us" in record]
    late = [one for one in told if one["total"] > one["alone"]]
    if not late:
        return ""
    why = Counter(max(SPENT, key=lambda kind, one=one: one[kind]) for one in late)
    text = f"Of {len(told)} runs whose time was predicted, for an H100, {len(late)} are slower than one rank alone: "
    return text + ", ".join(f"{count} for {kind}" for kind, count in why.most_common()) + " above all.\n"


def shares_of_large(records):
    """What the busiest rank holds of models above ten million parameters, and why where that is much."""
    mine = [r for r in records.values() if r["verdict"] == "ok" and r["parameters"] > LARGE]
    if not mine:
        return ""
    parts = [record["share"] * record["num_ranks"] for record in mine]
    text = f"Of {len({r['type'] for r in mine})} models above {LARGE:,} parameters the busiest rank holds "
    text += f"{statistics.median(parts):.2f} equal parts in the median of {len(mine)} runs, {max(parts):.2f} at most."
    far = {
        f"{r['type']} on {r['num_ranks']}": f"{part:.2f}: {', '.join(f'`{n}`' for n in r['held_beyond']) or 'many'}"
        for r, part in zip(mine, parts, strict=True)
        if part > MUCH
    }
    if far:
        text += f" Above {MUCH}, with the weights that are whole or cut unevenly: {_listed(far)}"
    return text + "\n"


def _cells(mine, ranks):
    runs = [record for record in mine if record["plan"]]
    right = [record for record in runs if record["verdict"] == "ok"]
    names = {record["type"] for record in runs}
    first = [record for record in right if record["num_ranks"] == ranks[0]]
    far = [record["gap"] for record in right if record["gap"] > PROVEN]
    bad = Counter(record["verdict"] for record in runs if record["verdict"] != "ok")
    return (
        f"{len({record['type'] for record in mine})}, {len(names)}",
        len({record["package"] for record in mine}),
        f"{len(right)} of {len(runs)}",
        len({record["type"] for record in runs if record["way"] == OPEN}),
        sum("processes_error" in record for record in right),
        *(_median([r["share"] * n for r in right if r["num_ranks"] == n], ".2f") for n in ranks),
        _median([sum(record["collectives"].values()) for record in first], ".0f"),
        f"{_median([r['shard_s'] for r in first], '.1f')} / {_median([r['export_s'] for r in first], '.1f')}",
        f"{len(far)}, {max(far):.1%}" if far else "",
        ", ".join(f"{count} {verdict}" for verdict, count in bad.items()),
    )


def _median(values, form):
    return format(statistics.median(values), form) if values else ""


def left_out(records):
    """What gives no program or was not tried, by name, with the reason; runs that are not right."""
    text = []
    for verdict, title in (("not exportable", "Not exportable"), ("not buildable", "Does not run")):
        mine = [record for record in records.values() if record["verdict"] == verdict]
        if mine:
            text.append(f"{title} ({len(mine)}): " + _listed({r["type"]: shorten(r["reason"], 110) for r in mine}))
    wrong = [r for r in records.values() if r["plan"] and r["verdict"] != "ok"]
    if wrong:
        names = {f"{r['type']} on {r['num_ranks']}": f"{r['verdict']}, {shorten(r['reason'], 110)}" for r in wrong}
        text.append("Not right: " + _listed(names))
    text.append("Packages left out: " + _listed(LEFT_OUT))
    return "\n\n".join(text)


def _listed(reasons):
    return "; ".join(f"`{name}` ({reason})" for name, reason in reasons.items()) + "."


if __name__ == "__main__":
    main()
