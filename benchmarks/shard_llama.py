"""Sharding against exporting, on the meta device: Llama shapes from 1 to 126 layers, many ranks, packages, memory.

Export and sharding (`shard`, then one rank's program) are timed in turn, several rounds, in one process; figures are
medians of seconds of processor time, and ratios of medians. Memory is the most that a process of its own holds.
Run: ``make bench``.
"""

import argparse
import gc
import json
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from contextlib import ExitStack, contextmanager
from functools import partial, wraps
from pathlib import Path
from unittest import mock

import torch
from rich.console import Console
from rich.progress import track
from tests.support.models import MEGATRON, Decoder
from torch import nn

import shardwright as sw
from shardwright import api
from shardwright.report.tables import Table

PLAN = {**MEGATRON, "embed": "embedding_rowwise", "lm_head": "colwise_rep"}
DEPTHS = (1, 5, 10, 20, 40, 80)
ROWS = {
    "8 ranks, Megatron": (8, PLAN),
    "16 ranks, Megatron": (16, PLAN),
    "16 ranks, auto": (16, "auto"),
    "64 ranks, auto": (64, "auto"),
}
MESHES = ({"tp": 64}, {"dp": 8, "tp": 64})
PHASES = (
    "read",
    "accept",
    "shorten",
    "compile_axes",
    "split_scarce_axes",
    "check_ranks",
    "deepen_compiled",
    "ShardedProgram",
)
"""The stages of `shardwright.shard`, by their names in its module; the last settles the order of collectives."""


class MLPs(nn.Module):
    """Four blocks of two layers, whose features every rank has a part of."""

    def __init__(self):
        super().__init__()
        self.up = nn.ModuleList(nn.Linear(1024, 2048) for _ in range(4))
        self.down = nn.ModuleList(nn.Linear(2048, 1024) for _ in range(4))

    def forward(self, x):
        for up, down in zip(self.up, self.down, strict=True):
            x = x + down(torch.relu(up(x)))
        return x


def llama(layers, tokens=128, width=8192, heads=64, hidden=28672):
    """A decoder with 8 key-value heads, and ids for it."""
    with torch.device("meta"):
        model = Decoder(layers, width=width, heads=heads, kv_heads=8, hidden=hidden, vocab=128256).eval()
        return model, torch.zeros(1, tokens, dtype=torch.long)


def llama_405b(layers):
    return llama(layers, 2048, 16384, 128, 53248)


def timed(function):
    gc.collect()
    start = time.process_time()
    result = function()
    return result, time.process_time() - start


def medians(times):
    return {name: statistics.median(values) for name, values in times.items()}


def shard_and_take_one(exported, plan):
    return sw.shard(exported, mesh=8, plan=plan).exported(0)


def growth(layers, rounds):
    """One row of the growth with depth: 8 ranks, hidden 8192."""
    model, ids = llama(layers)
    times = defaultdict(list)
    for _ in range(rounds):
        exported, seconds = timed(lambda: torch.export.export(model, (ids,)))
        times["export"].append(seconds)
        for plan in ("plan", "auto"):
            chosen = PLAN if plan == "plan" else "auto"
            _, seconds = timed(partial(shard_and_take_one, exported, chosen))
            times[plan].append(seconds)
    found = medians(times)
    return {
        "layers": layers,
        "nodes": len(exported.graph.nodes),
        **{f"{name}_s": round(value, 3) for name, value in found.items()},
        "plan_over_export": round(found["plan"] / found["export"], 3),
        "auto_over_export": round(found["auto"] / found["export"], 3),
    }


@contextmanager
def phases_timed(spent):
    """Adds to ``spent`` what every phase of `shardwright.shard` takes."""

    def watched(name, function):
        @wraps(function)
        def run(*args, **kwargs):
            start = time.process_time()
            try:
                return function(*args, **kwargs)
            finally:
                spent[name] += time.process_time() - start

        return run

    with ExitStack() as stack:
        for name in PHASES:
            stack.enter_context(mock.patch.object(api, name, watched(name, getattr(api, name))))
        yield


def large(layers, rounds):
    """The rows of the 405B shape: every phase, the first and the last rank's programs, over the export."""
    model, ids = llama_405b(layers)
    export, times = [], {row: defaultdict(list) for row in ROWS}
    for _ in range(rounds):
        exported, seconds = timed(lambda: torch.export.export(model, (ids,)))
        export.append(seconds)
        for row, (ranks, plan) in ROWS.items():
            spent = defaultdict(float)
            with phases_timed(spent):
                sharded, seconds = timed(partial(sw.shard, exported, mesh=ranks, plan=plan))
            _, first = timed(partial(sharded.exported, 0))
            _, last = timed(partial(sharded.exported, ranks - 1))
            for name, value in {**spent, "shard": seconds, "first_rank": first, "last_rank": last}.items():
                times[row][name].append(value)
            del sharded
    whole = statistics.median(export)
    rows = []
    for row, found in times.items():
        one = medians(found)
        ratio = (one["shard"] + one["first_rank"]) / whole
        rows.append(
            {
                "row": row,
                "shard_and_first_over_export": round(ratio, 3),
                "last_over_export": round(one["last_rank"] / whole, 3),
                **{f"{name}_s": round(one[name], 3) for name in ("shard", "first_rank", "last_rank", *PHASES)},
            }
        )
    return {"layers": layers, "nodes": len(exported.graph.nodes), "export_s": round(whole, 3), "rows": rows}


def packages(layers, rounds):
    """The 405B shape on 64 and 512 ranks: seconds of `shard`, then of every rank's program, and how many graphs those
    have between them, each of which a package holds once.
    """
    model, ids = llama_405b(layers)
    exported = torch.export.export(model, (ids,))
    rows = []
    for name, plan in (("Megatron", PLAN), ("auto", "auto")):
        for mesh in MESHES:
            times = defaultdict(list)
            for _ in range(rounds):
                asked = {"tp": plan} if len(mesh) > 1 else plan
                sharded, seconds = timed(partial(sw.shard, exported, mesh=mesh, plan=asked))
                times["shard_s"].append(seconds)
                programs, seconds = timed(sharded.rank_programs)
                times["all_ranks_s"].append(seconds)
            found = {key: round(value, 3) for key, value in medians(times).items()}
            graphs = len({id(program.graph) for program in programs})
            rows.append({"mesh": str(mesh), "plan": name, "ranks": len(programs), **found, "graphs": graphs})
    return rows


def many_ranks(rounds):
    """Four blocks on 64 to 1,024 ranks: seconds of `shard`, the first call with a number of ranks, then later ones."""
    with torch.device("meta"):
        exported = torch.export.export(MLPs(), (torch.empty(2, 3, 1024),))
    plan = {"up.*": "colwise", "down.*": "rowwise"}
    sw.shard(exported, mesh=2, plan=plan)
    found = []
    for ranks in (64, 128, 256, 512, 1024):
        first, *later = (timed(partial(sw.shard, exported, mesh=ranks, plan=plan))[1] for _ in range(rounds + 1))
        found.append({"ranks": ranks, "first_s": round(first, 3), "later_s": round(statistics.median(later), 3)})
    return found


def peak_mib(layers, row):
    """The most memory that a process of its own holds that exports and, for a row, shards and takes the first rank."""
    command = [sys.executable, "-m", "benchmarks.shard_llama", "--peak", str(layers), row]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def hold_at_most(layers, row):
    """What `peak_mib` runs."""
    model, ids = llama_405b(layers)
    exported = torch.export.export(model, (ids,))
    if row:
        ranks, plan = ROWS[row]
        sw.shard(exported, mesh=ranks, plan=plan).exported(0)
    # ru_maxrss would count the process that this one was forked from; VmHWM starts with the new program.
    status = Path("/proc/self/status").read_text()
    kib = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    print(kib // 1024)


def memory(layers):
    alone = peak_mib(layers, "")
    rows = [{"row": row, "peak_mib": peak_mib(layers, row)} for row in ROWS]
    return {
        "layers": layers,
        "export_mib": alone,
        "rows": [{**one, "over_export": round(one["peak_mib"] / alone, 2)} for one in rows],
    }


def show(title, rows):
    Table(title, tuple(rows[0]), [tuple(row.values()) for row in rows]).show(Console(highlight=False, width=160))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--layers", type=int, default=126, help="of the 405B shape; default: %(default)s")
    parser.add_argument("--depths", type=int, nargs="*", default=DEPTHS)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/shard_llama.json"))
    parser.add_argument("--peak", nargs=2, metavar=("LAYERS", "ROW"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        return hold_at_most(int(options.peak[0]), options.peak[1])
    growth(1, 1)  # imports and first-call caches are not what is measured
    for ranks, plan in ROWS.values():
        model, ids = llama_405b(1)
        sw.shard(torch.export.export(model, (ids,)), mesh=ranks, plan=plan).exported(0)
    facts = {"torch": str(torch.__version__), "python": sys.version.split()[0], "rounds": options.rounds}
    facts["many_ranks"] = many_ranks(options.rounds)
    facts["llama_405b"] = large(options.layers, options.rounds)
    facts["packages"] = packages(options.layers, options.rounds)
    facts["memory"] = memory(options.layers)
    console = Console(stderr=True)
    rows = [growth(layers, options.rounds) for layers in track(options.depths, description="growth", console=console)]
    facts["rows"] = rows
    show("Many ranks", facts["many_ranks"])
    show(
        f"405B, {facts['llama_405b']['layers']} layers, export {facts['llama_405b']['export_s']} s",
        facts["llama_405b"]["rows"],
    )
    show(f"Programs of all ranks, {options.layers} layers", facts["packages"])
    show(f"Memory, export alone {facts['memory']['export_mib']} MiB", facts["memory"]["rows"])
    if rows:
        show("Sharding against exporting (medians)", rows)
    options.output.write_text(json.dumps(facts, indent=2) + "\n")
    return None


if __name__ == "__main__":
    main()
