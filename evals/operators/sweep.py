"""The sweep: every operator judged in a worker process of its own kind, results as JSON lines, so that a run resumes.

python -m evals.operators.sweep [names …] [--limit 6] [--seconds 300] [--again]
    [--out evals/results/operators.jsonl]
"""

import argparse
import json
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from evals import crew
from evals.operators.judge import Findings, judge
from evals.operators.samples import cases, samples_of

RESULTS = Path("evals/results/operators.jsonl")


def judged(name: str, limit: int) -> dict[str, Any]:
    """One operator's findings, as they are written down."""
    findings, started = Findings(), time.monotonic()
    for sample in samples_of(cases()[name], limit):
        judge(sample.program, findings, sample.name)
    return {"name": name, "limit": limit, "seconds": round(time.monotonic() - started, 1), **asdict(findings)}


def main() -> None:
    """Judge the entries named, or all that the results do not hold yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--limit", type=int, default=6, help="samples of an operator in each set of sizes")
    parser.add_argument("--seconds", type=float, default=crew.SECONDS, help="time limit of an operator")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--again", action="store_true", help="judge anew what the results already hold")
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    held = {} if not options.out.exists() else {r["name"]: r for r in map(json.loads, options.out.open())}
    names = options.names or [n for n in cases() if options.again or n not in held]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress, options.out.open("a") as out:
        task = progress.add_task("operators", total=len(names))
        for result in crew.run(names, partial(judged, limit=options.limit), seconds=options.seconds):
            out.write(json.dumps(result) + "\n")
            out.flush()
            progress.update(task, advance=1, description=result["name"])
            for line in (*result.get("wrong", ())[:3], result["problem"]):
                if line:
                    progress.console.print(f"{result['name']}: {line}", markup=False)


if __name__ == "__main__":
    main()
