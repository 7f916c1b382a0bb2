"""`python -m evals.quantised [WORDS]`: packages write checkpoints, and their sharding is held against them.

``WORDS``: those packages and formats alone whose names contain one of them (`gptq`, `fp8`). Prints a table, writes
`evals/results/quantised.json`, and fails where something is wrong.
"""

import json
import logging
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


def write(folder: Path) -> None:
    """Have packages write, each in a process of its own, as some of them change transformers when they are imported."""
    for package in WRITERS:
        command = [sys.executable, "-W", "ignore", "-m", "evals.quantised.write", package, str(folder)]
        started = time.perf_counter()
        # Some write logs where they run.
        where = {"cwd": folder, "env": {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}}
        ended = subprocess.run(command, check=False, capture_output=True, text=True, **where)
        if ended.returncode:
            said = f"{ended.stdout[-2000:]}\n{ended.stderr[-4000:]}"
            raise SystemExit(f"{package} did not write its checkpoints:\n{said}")
        print(f"written by {package} in {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)


def judged(folder: Path, words: list[str]) -> list:
    """The verdicts on all samples in a folder."""
    from evals.quantised.judge import judge
    from evals.quantised.sample import read_samples

    found = []
    for sample in read_samples(folder):
        if words and not any(word in sample.name for word in words):
            continue
        started = time.perf_counter()
        found.append(judge(sample))
        says = "; ".join(found[-1].wrong) or "right"
        print(f"{sample.name}: {says} ({time.perf_counter() - started:.0f} s)", file=sys.stderr, flush=True)
    return found


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
        made.add_row(one.name, one.package, f"{max(one.errors.values()):.0e}", sends, holds, ranks)
    return made


def main() -> None:
    """Write, judge, print."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    words = sys.argv[1:]
    if len(words) == 2 and words[0] == "--written":
        verdicts = judged(Path(words[1]), [])
    else:
        with tempfile.TemporaryDirectory() as name:
            write(Path(name))
            verdicts = judged(Path(name), words)
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps([asdict(one) for one in verdicts], indent=1) + "\n")
    Console(width=200).print(table(verdicts))
    wrong = [f"{one.name}: {text}" for one in verdicts for text in one.wrong]
    if wrong:
        raise SystemExit("\n".join(["", *wrong]))


if __name__ == "__main__":
    main()
