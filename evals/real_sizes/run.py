"""Measure models at their real width into ``evals/results/real_sizes.jsonl``, and print the table.

    python -m evals.real_sizes.run ["Wan 14B" …] [--full]

``--full``: with all their blocks. What is measured is not measured again.
"""

import argparse
import json
import warnings
from pathlib import Path

from evals.real_sizes.measure import MODELS, blocks_by_hand, depth_of, sent

RESULTS = Path(__file__).parent.parent / "results" / "real_sizes.jsonl"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*", default=list(MODELS))
    parser.add_argument("--full", action="store_true")
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    found = read()
    for name in asked.names:
        if (name, asked.full) not in found:
            found[name, asked.full] = keep(measured(name, full=asked.full))
    print(table([one for (name, full), one in found.items() if full == asked.full]))


def read():
    lines = RESULTS.read_text(encoding="utf-8").splitlines() if RESULTS.exists() else []
    return {(one["model"], one["full"]): one for one in map(json.loads, lines)}


def keep(record):
    RESULTS.parent.mkdir(exist_ok=True)
    with RESULTS.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")
    return record


def measured(name, *, full):
    depths = {} if full else depth_of(name, 2)
    hand, found = sent(name, depths, MODELS[name]["plan"]), sent(name, depths, "auto")
    return {
        "model": name,
        "full": full,
        "by_hand": {} if full else blocks_by_hand(name, hand),
        "kinds": found.kinds,
        "bytes": found.num_bytes / hand.num_bytes,
        "time": found.prediction.total_us / hand.prediction.total_us,
        "alone": found.prediction.alone_us / found.prediction.total_us,
        "export_s": found.export_s,
        "compile_s": found.compile_s,
    }


HEADS = ("model", "by hand over the expert's", "automatic plan sends", "bytes", "time", "faster than one rank")


def table(records):
    lines = [f"| {' | '.join(HEADS)} |", "|" + "---|" * len(HEADS)]
    for one in records:
        hand = ", ".join(f"`{key}` {ratio:.2f}" for key, ratio in one["by_hand"].items())
        kinds = ", ".join(f"{count} {kind.replace('_', '-')}" for kind, count in sorted(one["kinds"].items()))
        figures = f"{one['bytes']:.2f} | {one['time']:.2f} | {one['alone']:.1f} ×"
        lines.append(f"| {one['model']} | {hand} | {kinds} | {figures} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
