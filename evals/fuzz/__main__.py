"""Draw cases from seeds and judge them: right numbers or words, anything else is a fault.

python -m evals.fuzz [programs plans …] [--seeds 0:100] [--seconds 120] [--again] [--out evals/results/fuzz]

Every case runs in a process with limits on time and memory. What the results hold is not judged again. A fault leaves
a file that reproduces it, made shorter.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from evals import crew
from evals.fuzz import results
from evals.fuzz.tasks import TASKS, judged, reproduced, text_of

MEMORY = 4 << 30
"""Bytes of address space a case may take."""


def main() -> int:
    """Judge, reproduce the faults, print the table; 1 if there is a fault."""
    options = _parse()
    names = [f"{task} {seed}" for task in options.tasks or TASKS for seed in range(*options.seeds)]
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "verdicts.jsonl"
    held = {} if options.again else results.read(path)
    _judge([name for name in names if name not in held], path, options)
    rows = [row for name, row in results.read(path).items() if name in set(names)]
    faults = [row["name"] for row in rows if row["verdict"] == "fault"]
    for row in rows:
        if row["verdict"] != "fault":
            _file(row["name"], options).unlink(missing_ok=True)
    _reproduce(faults, options)
    Console().print(results.table(rows))
    return 1 if faults else 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", help=f"of {', '.join(TASKS)}; default: all", choices=[*TASKS, []])
    parser.add_argument("--seeds", type=_seeds, default=(0, 100), help="FIRST:LAST, the last one left out")
    parser.add_argument("--seconds", type=float, default=120.0, help="time limit of a case; default: %(default)s")
    parser.add_argument("--workers", type=int, default=1, help="processes; default: %(default)s")
    parser.add_argument("--again", action="store_true", help="judge anew what the results already hold")
    parser.add_argument("--out", type=Path, default=results.FOLDER, help="default: %(default)s")
    return parser.parse_args()


def _seeds(text: str) -> tuple[int, int]:
    first, _, last = text.partition(":")
    return int(first), int(last)


def _judge(names: Sequence[str], path: Path, options: argparse.Namespace) -> None:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console) as progress, path.open("a", encoding="utf-8") as out:
        bar = progress.add_task("cases", total=len(names))
        for answer in crew.run(names, judged, options.workers, options.seconds, MEMORY):
            row = _as_row(answer)
            out.write(json.dumps(row) + "\n")
            out.flush()
            progress.update(bar, advance=1, description=row["name"])
            if row["verdict"] == "fault":
                console.print(f"{row['name']}: {row['kind']}: {row['said'][-500:]}", markup=False, highlight=False)


def _as_row(answer: crew.Answer) -> results.Row:
    """A case that had no end, or took its process with it, is a fault."""
    if problem := answer.pop("problem"):
        return {"name": answer["name"], "verdict": "fault", "kind": "no end", "said": problem}
    return answer


def _reproduce(names: Sequence[str], options: argparse.Namespace) -> None:
    """A file for each fault that has none."""
    files = {name: _file(name, options) for name in names}
    missing = [name for name, file in files.items() if options.again or not file.exists()]
    for answer in crew.run(missing, reproduced, options.workers, 20 * options.seconds, MEMORY):
        name = answer["name"]
        files[name].write_text(answer.get("text") or text_of(name), encoding="utf-8")
        Console(stderr=True).print(f"{name}: {files[name]}", highlight=False)


def _file(name: str, options: argparse.Namespace) -> Path:
    return options.out / f"{name.replace(' ', '-')}.py"


if __name__ == "__main__":
    sys.exit(main())
