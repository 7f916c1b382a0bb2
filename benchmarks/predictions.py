"""Predicted against measured: the step time of one model under twelve plans, on two real ranks.

The machine is measured first (`sw.calibrate`), every plan is compiled and priced by what that found, and the packages
are called in turn, round after round, so that what else the machine does falls on all plans alike. A plan's time of a
round is the slower rank's, and its figure the fastest round: what it takes when nothing else is in its way. One process
alone, with the threads of one rank, is measured before and after. Spearman's rank correlation says whether the model
puts the plans in the order of the stopwatch. Run: ``make bench-predictions``.
"""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
from rich.console import Console
from tests.support.models import MEGATRON, Decoder, redraw

import shardwright as sw
from shardwright.report.tables import Table
from shardwright.run.launch import launch
from shardwright.run.timing import seconds_in_turn

ATTENTION = {key: style for key, style in MEGATRON.items() if "attn" in key}
MLP = {key: style for key, style in MEGATRON.items() if "mlp" in key}
VOCABULARY = {"embed": "embedding_rowwise", "lm_head": "colwise_rep"}
SEQUENCE = {"layers.*.norm[12]": "sequence_parallel", "norm": "sequence_parallel"}
PLANS = {
    "replicated": {},
    "vocabulary": VOCABULARY,
    "attention": ATTENTION,
    "mlp": MLP,
    "half of the layers": {key.replace("*", "[01]"): style for key, style in MEGATRON.items()},
    "megatron": MEGATRON,
    "megatron, vocabulary": {**MEGATRON, **VOCABULARY},
    "sequence": {**MEGATRON, **SEQUENCE},
    "sequence, vocabulary": {**MEGATRON, **SEQUENCE, **VOCABULARY},
    "colwise": dict.fromkeys(MEGATRON, "colwise_rep"),
    "rowwise": dict.fromkeys(MEGATRON, "rowwise"),
    "auto": "auto",
}
MODEL = {"layers": 4, "width": 256, "heads": 8, "kv_heads": 4, "hidden": 768, "vocab": 4096}
LENGTHS = (1, 64)


def measure(folder, rounds, ids):
    """The seconds of every round under every plan that has a package in ``folder``, on one rank."""
    paths = sorted(Path(folder).iterdir())
    models = {path.name: sw.load(path) for path in paths}
    calls = {name: (lambda model=model: model(ids)) for name, model in models.items()}
    before = (lambda name: dist.barrier()) if dist.is_initialized() else (lambda name: None)
    return seconds_in_turn(calls, rounds, warm_up=3, before=before)


def fastest_us(ranks, name):
    """The fastest round, of each the slower rank."""
    return min(map(max, zip(*(rank[name] for rank in ranks.values()), strict=True))) * 1e6


def spearman(one, other):
    """The correlation of ranks of two lists of distinct numbers."""
    places = [{value: place for place, value in enumerate(sorted(values))} for values in (one, other)]
    n = len(one)
    return 1 - 6 * sum((places[0][a] - places[1][b]) ** 2 for a, b in zip(one, other, strict=True)) / (n**3 - n)


def run(tokens, cost, transport, rounds):
    """Every plan, predicted and measured, and one process alone, for so many tokens."""
    ids = torch.randint(0, MODEL["vocab"], (1, tokens), generator=torch.Generator().manual_seed(0))
    exported = torch.export.export(redraw(Decoder(**MODEL)), (ids,))
    with tempfile.TemporaryDirectory() as folder:
        one, two = Path(folder) / "one", Path(folder) / "two"
        one.mkdir()
        two.mkdir()
        predictions = {}
        for name, plan in PLANS.items():
            sharded = sw.shard(exported, mesh=2, plan=plan, cost=cost)
            sharded.save(two / name)
            predictions[name] = sharded.prediction
        sw.shard(exported, mesh=1, plan={}).save(one / "alone")
        how = {"threads": 1, "transport": transport}
        alone = [fastest_us(launch(1, measure, one, rounds, ids, **how), "alone")]
        ranks = launch(2, measure, two, rounds, ids, **how)
        alone.append(fastest_us(launch(1, measure, one, rounds, ids, **how), "alone"))
    measured = {name: fastest_us(ranks, name) for name in PLANS}
    rows = [
        {
            "plan": name,
            "collectives": one.num_collectives,
            "communication_us": round(one.communication_us),
            "work_us": round(one.work_us),
            "calls_us": round(one.calls_us),
            "predicted_us": round(one.total_us),
            "measured_us": round(measured[name]),
            "ratio": round(one.total_us / measured[name], 2),
        }
        for name, one in predictions.items()
    ]
    totals = [one.total_us for one in predictions.values()]
    return {
        "tokens": tokens,
        "spearman": round(spearman(totals, [measured[name] for name in predictions]), 3),
        "alone_predicted_us": round(next(iter(predictions.values())).alone_us),
        "alone_measured_us": [round(us) for us in alone],
        "rows": sorted(rows, key=lambda row: row["measured_us"]),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--transport", default="shared_memory")
    parser.add_argument("--cost", help="a cost file; absent: the machine is measured now")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/predictions.json"))
    options = parser.parse_args()
    cost = sw.cost_model(options.cost) if options.cost else sw.calibrate(2, transport=options.transport, threads=1)
    console = Console(width=140)
    console.print(cost)
    found = [run(tokens, cost, options.transport, options.rounds) for tokens in LENGTHS]
    for one in found:
        title = f"{one['tokens']} tokens: Spearman {one['spearman']}; one process alone {one['alone_measured_us']} µs"
        title += f", predicted {one['alone_predicted_us']}"
        rows = [tuple(row.values()) for row in one["rows"]]
        Table(title, tuple(one["rows"][0]), rows).show(console)
    facts = {
        "torch": str(torch.__version__),
        "python": sys.version.split()[0],
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "rounds": options.rounds,
        "model": MODEL,
        "cost": {"name": cost.name, **cost.constants()},
        "lengths": found,
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
