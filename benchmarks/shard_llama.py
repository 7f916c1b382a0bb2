"""Sharding against exporting: a Llama-shaped model of hidden 8192 on the meta device, 1 to 80 layers, for 8 ranks.

Export and sharding (`shard` and one rank's program) are timed in turn, several rounds, in one process; the figures are
medians and the ratio of medians. Run: ``make bench``.
"""

import argparse
import gc
import json
import statistics
import sys
import time
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from tests.support.models import MEGATRON, Decoder

import shardwright as sw
from shardwright.report.tables import Table

PLAN = {**MEGATRON, "embed": "embedding_rowwise", "lm_head": "colwise_rep"}
DEPTHS = (1, 5, 10, 20, 40, 80)


def build(layers):
    with torch.device("meta"):
        return Decoder(layers, width=8192, heads=64, kv_heads=8, hidden=28672, vocab=128256).eval()


def timed(function):
    gc.collect()
    start = time.perf_counter()
    result = function()
    return result, time.perf_counter() - start


def shard_and_take_one(exported, plan):
    return sw.shard(exported, mesh=8, plan=plan).exported(0)


def measure(layers, rounds):
    model, ids = build(layers), torch.zeros(1, 128, dtype=torch.long, device="meta")
    times = {"export": [], "plan": [], "auto": []}
    for _ in range(rounds):
        exported, seconds = timed(lambda: torch.export.export(model, (ids,)))
        times["export"].append(seconds)
        for plan in ("plan", "auto"):
            chosen = PLAN if plan == "plan" else "auto"
            _, seconds = timed(partial(shard_and_take_one, exported, chosen))
            times[plan].append(seconds)
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {
        "layers": layers,
        "nodes": len(exported.graph.nodes),
        **{f"{name}_s": round(value, 3) for name, value in medians.items()},
        "plan_over_export": round(medians["plan"] / medians["export"], 3),
        "auto_over_export": round(medians["auto"] / medians["export"], 3),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/shard_llama.json"))
    options = parser.parse_args()
    measure(1, 1)  # imports and first-call caches are not what is measured
    console = Console(stderr=True)
    rows = [measure(layers, options.rounds) for layers in track(DEPTHS, description="measuring", console=console)]
    table = Table("Sharding against exporting (medians)", tuple(rows[0]), [tuple(r.values()) for r in rows])
    table.show(Console(highlight=False, width=120))
    facts = {"torch": str(torch.__version__), "python": sys.version.split()[0], "rounds": options.rounds, "rows": rows}
    options.output.write_text(json.dumps(facts, indent=2) + "\n")


if __name__ == "__main__":
    main()
