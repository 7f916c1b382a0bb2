"""The sweep: every operator judged in a worker process of its own kind, results as JSON lines, so that a run resumes.

python -m scorecard.sweep [names …] [--limit 6] [--out benchmarks/results/operators.jsonl] [--again]
"""

import argparse
import json
import multiprocessing
import resource
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from scorecard.judge import Findings, judge
from scorecard.samples import operator_samples, operators

RESULTS = Path("benchmarks/results/operators.jsonl")
MEMORY = 6 << 30
"""Bytes of address space a worker may take."""
SECONDS = 300
"""An operator that takes longer is cut short and says so."""


def judged(name: str, limit: int) -> dict[str, Any]:
    """One operator's findings, as they are written down."""
    findings, started, problem = Findings(), time.monotonic(), ""
    signal.signal(signal.SIGALRM, _out_of_time)
    signal.alarm(SECONDS)
    try:
        for sample in operator_samples(operators()[name], limit):
            judge(sample.program, findings, sample.name)
    except TimeoutError:
        problem = f"stopped after {SECONDS} s"
    finally:
        signal.alarm(0)
    seconds = round(time.monotonic() - started, 1)
    return {"name": name, "seconds": seconds, "problem": problem, **asdict(findings)}


def _out_of_time(*_: Any) -> None:
    raise TimeoutError


def _worker(tasks: Any, answers: Any, limit: int) -> None:
    import warnings

    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    for name in iter(tasks.get, None):
        answers.put(("started", name))
        try:
            answers.put(("done", judged(name, limit)))
        except Exception as error:  # noqa: BLE001 - the judge itself failed: written down like everything else
            answers.put(("done", {"name": name, "problem": f"{type(error).__name__}: {error}"[:500]}))


def sweep(names: Sequence[str], limit: int, workers: int = 2) -> Iterator[dict[str, Any]]:
    """Judge operators in worker processes; a worker that dies costs only the operator it was at."""
    context = multiprocessing.get_context("spawn")
    tasks = context.SimpleQueue()
    for name in [*names, *[None] * workers]:
        tasks.put(name)

    def start() -> tuple[Any, Any, list[str]]:
        answers = context.SimpleQueue()
        process = context.Process(target=_worker, args=(tasks, answers, limit), daemon=True)
        process.start()
        return process, answers, []

    crew = [start() for _ in range(workers)]
    while crew:
        for member in list(crew):
            process, answers, current = member
            while not answers.empty():
                kind, content = answers.get()
                if kind == "started":
                    current[:] = [content]
                else:
                    current.clear()
                    yield content
            if not process.is_alive() and answers.empty():
                crew.remove(member)
                if current:
                    yield {"name": current[0], "problem": f"the process died (exit code {process.exitcode})"}
                    crew.append(start())
        time.sleep(0.05)


def main() -> None:
    """Judge the operators named (patterns with ``*`` as well), or all that the results do not hold yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--limit", type=int, default=6, help="samples of an operator in each set of sizes")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--again", action="store_true", help="judge anew what the results already hold")
    options = parser.parse_args()
    held = {} if not options.out.exists() else {r["name"]: r for r in map(json.loads, options.out.open())}
    names = options.names or [n for n in operators() if options.again or n not in held]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress, options.out.open("a") as out:
        task = progress.add_task("operators", total=len(names))
        for result in sweep(names, options.limit):
            out.write(json.dumps(result) + "\n")
            out.flush()
            progress.update(task, advance=1, description=result["name"])
            for line in (*result.get("wrong", ())[:3], result["problem"]):
                if line:
                    progress.console.print(f"{result['name']}: {line}", markup=False)


if __name__ == "__main__":
    main()
