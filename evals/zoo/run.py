"""Run the zoo: ``python -m evals.zoo.run``. One process a model type; a run resumes where the last one stopped."""

import argparse
import json
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from evals.zoo.agreement import agree
from evals.zoo.gradients import gradients
from evals.zoo.measure import Run, measure
from evals.zoo.results import RESULTS, latest
from evals.zoo.types import model_types
from evals.zoo.worker import records, server

TASKS = {"zoo": measure, "agreement": agree, "training": gradients}
PLANS = {"zoo": "auto,hf", "agreement": "agreement", "training": "rules"}


def main():
    options = parse()
    plans = (options.plans or PLANS[options.task]).split(",")
    # Rules are looked up once, whatever the ranks.
    runs = [Run(plan, int(ranks)) for ranks in options.ranks.split(",") for plan in plans if plan != "rules"]
    runs += [Run("rules", 1)] if "rules" in plans else []
    kinds = [kind for kind in model_types(options.types) if options.group in (None, kind.group)]
    path = options.results or RESULTS[options.task]
    sweep(kinds, runs, TASKS[options.task], path, options, server("evals.zoo.run", "transformers"))


def sweep(kinds, runs, task, path, options, context):
    """Append to ``path`` the records of the ``runs`` of ``kinds`` that it lacks. ``context``: starts the processes."""
    done = finished(path, options.again)
    work = [(kind, left) for kind in kinds if (left := missing(kind, runs, done))]
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console) as progress,
        path.open("a", encoding="utf-8") as file,
    ):
        for kind, left in progress.track(work, description=path.stem):
            said = []
            for record in records(context, kind, left, task, options.seconds, options.gib):
                file.write(json.dumps(record) + "\n")
                file.flush()
                said.append(f"{record['verdict']} {record['plan']} {record['num_ranks'] or ''}".strip())
            console.print(f"{kind.name}: {', '.join(said)}", highlight=False)


def parse():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("types", nargs="*", help="model types; default: all")
    parser.add_argument("--task", choices=tuple(TASKS), default="zoo")
    parser.add_argument("--group", choices=("causal", "base"), help="only this group")
    parser.add_argument("--plans", help="default: auto,hf; of training: rules, which looks rules up; or auto, hf")
    add_options(parser, "2,4,8", seconds=480.0, gib=10.0)
    return parser.parse_args()


def add_options(parser, ranks, seconds, gib):
    """What every sweep can be told, with these defaults."""
    parser.add_argument("--ranks", default=ranks, help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=seconds, help="time limit of each run; default: %(default)s")
    parser.add_argument("--gib", type=float, default=gib, help="memory limit; default: %(default)s")
    parser.add_argument("--results", type=Path, help="default: a file in evals/results for the task")
    parser.add_argument(
        "--again", default="", help="verdicts that are measured anew ('not buildable,gave up'), or 'all'; default: none"
    )


def finished(path, again):
    """(type, plan, ranks) of what is there and is not to be measured again."""
    verdicts = [verdict.strip() for verdict in again.split(",")]
    found, _ = latest(path)
    return {key for key, record in found.items() if "all" not in verdicts and record["verdict"] not in verdicts}


def missing(kind, runs, done):
    """The runs of a type that are not done; none where the type gives no program."""
    return [run for run in runs if not {(kind.name, "", 0), (kind.name, run.plan, run.num_ranks)} & done]


if __name__ == "__main__":
    main()
