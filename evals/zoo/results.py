"""The results file: JSON lines, one a run, appended; the last record of a run counts."""

import json
import re
from collections import Counter
from pathlib import Path

FOLDER = Path("evals/results")
"""Where records and cards are written; not kept in git."""
RESULTS = {name: FOLDER / f"{name}.jsonl" for name in ("zoo", "agreement", "training")}
"""The file of each task."""


ADVICE = r"""(?x)
    \s*(For\ more\ information|For\ extended\ logs|If\ you\ suspect|To\ fix\ the\ error|You\ can\ install\ it
    |Please\ (note|install|see)|consider\ using\ data-dependent|\(Size-like\ symbols|Model\ type\ should\ be\ one\ of
    |Check\ out\ the\ instructions|If\ you're\ using).*"""
"""Where a message goes over from what is wrong to what one might do."""
CAUSE = re.compile(r"Caused by: \((?:\S*/)?([^/()]+\.py:\d+ in \w+)\)")


def one_line(error, limit=600):
    """An error in one line: what is wrong and where, without advice and the folders of this machine."""
    text = f"{type(error).__name__}: {error}" if isinstance(error, Exception) else str(error)
    text = " ".join(text.split())
    cause = CAUSE.search(text)
    short = re.sub(ADVICE, "", text) + (f" ({cause[1]})" if cause and isinstance(error, Exception) else "")
    return re.sub(r"/[^\s'\":,]*/(?=[^\s'\":,/]+)", "", short)[:limit]


def read(path):
    """All records in the order written."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def latest(path):
    """The last record by (type, plan, ranks), and the versions of the last one.

    A type that gives no program has one record with an empty plan; records of its runs make that one obsolete, and it
    makes theirs obsolete, whichever was written later.
    """
    found, facts = {}, {"torch": "?", "transformers": "?"}
    for record in read(path):
        key = record["type"], record["plan"], record["num_ranks"]
        stale = [k for k in found if k[0] == key[0] and bool(k[1]) != bool(key[1])]
        for other in stale:
            del found[other]
        found.pop(key, None)
        found[key] = record
        facts |= {name: record[name] for name in facts if name in record}
    return found, facts


def tally(records, group, plan, num_ranks):
    """Model types of a group by verdict for one way of sharding; types that give no program count everywhere."""
    mine = [r for r in records.values() if r["group"] == group]
    runs = Counter(r["verdict"] for r in mine if (r["plan"], r["num_ranks"]) == (plan, num_ranks))
    if not runs:
        return runs
    return runs + Counter(r["verdict"] for r in mine if not r["plan"])
