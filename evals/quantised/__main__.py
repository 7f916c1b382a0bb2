"""`python -m evals.quantised [PACKAGES]`: packages write checkpoints, and their sharding is held against them.

``PACKAGES``: some of `compressed_tensors`, `gptqmodel`, `autoawq`, `transformers`, `torchao`, `gguf`; absent: all.
Prints a table, replaces what they had in `evals/results/quantised.json`, and fails where something is wrong.
"""

import json
import logging
import math
import os
import subprocess
import sys
import tempfile
import time
import warnings
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

WRITERS = ("compressed_tensors", "gptqmodel", "autoawq", "transformers", "torchao", "gguf")
ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "evals" / "results" / "quantised.json"


def write(folder: Path, package: str) -> None:
    """Have a package write, in a process of its own, as some of them change transformers when they are imported."""
    command = [sys.executable, "-W", "ignore", "-m", "evals.quantised.write", package, str(folder)]
    started = time.perf_counter()
    # Some write logs where they run.
    where = {"cwd": folder, "env": {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}}
    ended = subprocess.run(command, check=False, capture_output=True, text=True, **where)
    if ended.returncode:
        said = f"{ended.stdout[-2000:]}\n{ended.stderr[-4000:]}"
        raise SystemExit(f"{package} did not write its checkpoints:\n{said}")
    print(f"written by {package} in {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)


def judged(folder: Path) -> list:
    """The verdicts on all samples in a folder; each is kept at once."""
    from evals.quantised.judge import Verdict, judge
    from evals.quantised.sample import read_samples

    found = []
    for sample in read_samples(folder):
        started = time.perf_counter()
        try:
            found.append(judge(sample))
        except Exception as error:  # noqa: BLE001
            found.append(Verdict(sample.name, sample.package, wrong=[f"{type(error).__name__}: {error}"]))
        keep(found[-1])
        says = "; ".join(found[-1].wrong) or "right"
        print(f"{sample.name}: {says} ({time.perf_counter() - started:.0f} s)", file=sys.stderr, flush=True)
    return found


def keep(verdict: object) -> None:
    """Put a verdict in the place of an earlier one of its name, or behind all others."""
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    RESULTS.write_text(json.dumps({**kept, verdict.name: asdict(verdict)}, indent=1) + "\n")


def table(verdicts: list) -> Table:
    """A line a sample."""
    made = Table("checkpoint", "written by", "error", "sends (plain)", "busiest rank holds (at most)", "text", box=None)
    for one in verdicts:
        if one.refused:
            made.add_row(one.name, one.package, "refused", "", "", "")
            continue
        sends = " ".join(f"{packed} ({plain})" for packed, plain in one.sent.values())
        holds = " ".join(f"{has:.1%} ({most:.1%})" for has, most in one.held.values())
        ranks = ", ".join(map(str, one.texts))
        made.add_row(one.name, one.package, f"{max(one.errors.values(), default=math.inf):.0e}", sends, holds, ranks)
    return made


def main() -> None:
    """Write, judge, print."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    asked = sys.argv[1:] or WRITERS
    if unknown := set(asked) - set(WRITERS):
        raise SystemExit(f"no package is called {', '.join(sorted(unknown))}; there are {', '.join(WRITERS)}")
    verdicts = []
    for package in asked:
        with tempfile.TemporaryDirectory() as name:
            write(Path(name), package)
            verdicts += judged(Path(name))
    Console(width=200).print(table(verdicts))
    wrong = [f"{one.name}: {text}" for one in verdicts for text in one.wrong]
    if wrong:
        raise SystemExit("\n".join(["", *wrong]))


if __name__ == "__main__":
    main()
