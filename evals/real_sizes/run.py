"""Measure models at their real size into ``evals/results/real_sizes.jsonl``, and print the table.

    python -m evals.real_sizes.run ["Wan 14B" …]
    python -m evals.real_sizes.run --times ["Wan 14B" …]

What is measured is not measured again. ``--times`` instead prints the processor seconds of export, shard and the first
rank's program under the automatic plan and the plan by hand, and keeps nothing.
"""

import argparse
import importlib.util
import json
import sys
import warnings
from pathlib import Path

from evals.real_sizes import times
from evals.real_sizes.measure import MODELS, blocks_by_hand, expert_bytes, few_blocks, sent

RESULTS = Path(__file__).parent.parent / "results" / "real_sizes.jsonl"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*", default=[name for name in MODELS if is_installed(name)])
    parser.add_argument("--times", action="store_true", help="processor seconds alone, each measured anew")
    parser.add_argument("--plans", default="auto,hand", help="of --times; default: %(default)s")
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    if asked.times:
        print_times(asked.names, asked.plans.split(","))
        return
    found = read()
    for name in asked.names:
        if name not in found:
            found[name] = keep(measured(name))
    print(table([found[name] for name in MODELS if name in found]))


def print_times(names, plans):
    """A line as soon as it is known; each model was exported and sharded with few blocks before."""
    print(times.head(), flush=True)
    for name in names:
        times.times(name, plans[0], few_blocks(name))
        for plan in plans:
            spent = times.times(name, plan)
            print(times.row(name, plan, spent), flush=True)


def is_installed(name):
    """Whether the library of a model is there; torchtune's is, in the environment of ``make wild``."""
    library = MODELS[name]["make"].partition(".")[0]
    found = importlib.util.find_spec(library) is not None
    if not found:
        print(f"{name}: {library} is not installed", file=sys.stderr)
    return found


def read():
    lines = RESULTS.read_text(encoding="utf-8").splitlines() if RESULTS.exists() else []
    return {one["model"]: one for one in map(json.loads, lines)}


def keep(record):
    RESULTS.parent.mkdir(exist_ok=True)
    with RESULTS.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")
    return record


def measured(name):
    plan = MODELS[name]["plan"]
    more = blocks_by_hand(name, sent(name, few_blocks(name), plan))
    blocks = {key: block.num_bytes / expert_bytes(name, key) for key, block in more.items()}
    hand, found = sent(name, {}, plan), sent(name, {}, "auto")
    return {
        "model": name,
        "by_hand": blocks,
        "kinds": found.kinds,
        "bytes": found.num_bytes / hand.num_bytes,
        "time": found.prediction.total_us / hand.prediction.total_us,
        "alone": found.prediction.alone_us / found.prediction.total_us,
        "export_s": [hand.export_s, found.export_s],
        "hand_s": hand.compile_s,
        "auto_s": found.compile_s,
    }


HEADS = (
    "model",
    "a block by hand over the expert's",
    "automatic plan sends",
    "bytes",
    "time",
    "faster than one rank",
    "compile over export: by hand, automatic",
)


def table(records):
    lines = [f"| {' | '.join(HEADS)} |", "|" + "---|" * len(HEADS)]
    for one in records:
        hand = ", ".join(f"`{key}` {ratio:.2f}" for key, ratio in one["by_hand"].items())
        kinds = ", ".join(f"{count} {kind.replace('_', '-')}" for kind, count in sorted(one["kinds"].items()))
        export = min(one["export_s"])
        figures = f"{one['bytes']:.2f} | {one['time']:.2f} | {one['alone']:.1f} ×"
        spent = f"{one['hand_s'] / export:.2f}, {one['auto_s'] / export:.2f}"
        lines.append(f"| {one['model']} | {hand} | {kinds} | {figures} | {spent} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
