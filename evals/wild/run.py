"""Run the wild zoo: ``python -m evals.wild.run``. One process a model; a run resumes where the last one stopped."""

import argparse
import fnmatch

from evals.wild.measure import measure
from evals.wild.models import FIELDS, fields
from evals.zoo.measure import Run
from evals.zoo.results import FOLDER
from evals.zoo.run import add_options, sweep
from evals.zoo.types import ModelType
from evals.zoo.worker import server

RESULTS = FOLDER / "wild.jsonl"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=["*"], help="names or patterns: 'timm: *'; default: all")
    parser.add_argument("--field", choices=FIELDS, help="only this field")
    add_options(parser, "2,3,4,8", seconds=240.0, gib=8.0)
    options = parser.parse_args()
    chosen = [
        ModelType(name, field)
        for name, field in fields().items()
        if options.field in (None, field) and any(fnmatch.fnmatchcase(name, one) for one in options.models)
    ]
    runs = [Run("auto", int(ranks)) for ranks in options.ranks.split(",")]
    context = server("evals.wild.measure", "evals.wild.slow_imports")
    sweep(chosen, runs, measure, options.results or RESULTS, options, context)


if __name__ == "__main__":
    main()
