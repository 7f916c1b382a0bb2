"""Run the zoo: ``python -m benchmarks.zoo.run``. One process a model type; a run resumes where the last one stopped."""

import argparse
import json
import multiprocessing as mp
import resource
import time
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from benchmarks.zoo.agreement import agree
from benchmarks.zoo.measure import Run, measure
from benchmarks.zoo.results import RESULTS, finished
from benchmarks.zoo.types import ModelType, model_types

TASKS = {"zoo": measure, "agreement": agree}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("types", nargs="*", help="model types; default: all")
    parser.add_argument("--group", choices=("causal", "base"), help="only this group")
    parser.add_argument("--plans", default="auto,hf")
    parser.add_argument("--ranks", default="2,4,8")
    parser.add_argument("--seconds", type=float, default=240.0, help="time limit a model type")
    parser.add_argument("--gib", type=float, default=5.0, help="memory limit a model type")
    parser.add_argument("--task", choices=tuple(TASKS), default="zoo")
    parser.add_argument("--results", type=Path, help="default: a file in benchmarks/results for the task")
    parser.add_argument("--again", action="store_true", help="measure anew what is there already")
    options = parser.parse_args()
    results = options.results or RESULTS[options.task]
    plans = options.plans.split(",") if options.task == "zoo" else ["agreement"]
    runs = [Run(plan, int(ranks)) for ranks in options.ranks.split(",") for plan in plans]
    kinds = [k for k in model_types(options.types) if options.group in (None, k.group)]
    done = set() if options.again else finished(results)
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    context = mp.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.zoo.agreement", "transformers", "scipy.optimize"])
    with Progress(*columns, console=console) as progress, results.open("a", encoding="utf-8") as file:
        for kind in progress.track(kinds, description="zoo"):
            wanted = [run for run in runs if not {(kind.name, "", 0), (kind.name, run.plan, run.num_ranks)} & done]
            if not wanted:
                continue
            verdicts = []
            for record in watch(context, kind, wanted, options.task, options.seconds, options.gib):
                file.write(json.dumps(record) + "\n")
                file.flush()
                verdicts.append(
                    record["verdict"] + (f" {record['plan']}:{record['num_ranks']}" if record["plan"] else "")
                )
            console.print(f"{kind.name}: {', '.join(verdicts)}", highlight=False)


def watch(context, kind, runs, task, seconds, gib):
    """The records of one model type; a process that dies or takes too long is a record as well."""
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=work, args=(kind.name, kind.group, runs, task, gib, sender), daemon=True)
    process.start()
    sender.close()
    deadline, doing, left = time.monotonic() + seconds, {"stage": "start"}, list(runs)
    while True:
        if not receiver.poll(max(deadline - time.monotonic(), 0)):
            process.kill()
            yield from _ended(kind, doing, left, f"more than {seconds:.0f} s in {doing['stage']}")
            break
        try:
            message = receiver.recv()
        except EOFError:
            process.join()
            if process.exitcode:
                yield from _ended(kind, doing, left, f"the process ended with {process.exitcode} in {doing['stage']}")
            break
        if "verdict" not in message:
            doing = message
            continue
        run = message.pop("run", None)
        yield {
            "type": kind.name,
            "group": kind.group,
            "plan": run[0] if run else "",
            "num_ranks": run[1] if run else 0,
            **message,
        }
        left = [one for one in left if run != (one.plan, one.num_ranks)] if run else []
    process.join()


def _ended(kind, doing, left, reason):
    verdict = {"start": "not buildable", "build": "not buildable", "export": "not exportable"}.get(
        doing["stage"], "gave up"
    )
    facts = {k: v for k, v in doing.items() if k not in ("stage", "run")}
    if verdict != "gave up":
        yield {
            "type": kind.name,
            "group": kind.group,
            "plan": "",
            "num_ranks": 0,
            "verdict": verdict,
            "reason": reason,
            **facts,
        }
        return
    for run in left:
        yield {
            "type": kind.name,
            "group": kind.group,
            "plan": run.plan,
            "num_ranks": run.num_ranks,
            "verdict": verdict,
            "reason": reason,
            **facts,
        }


def work(name, group, runs, task, gib, sender):
    """The process of one model type."""
    import torch

    torch.set_num_threads(1)
    limit = int(gib * 2**30)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    TASKS[task](ModelType(name, group), runs, sender.send)
    sender.close()


if __name__ == "__main__":
    main()
