"""Processor seconds of a model at its real size: to export it, to shard it for 8 ranks, to write the first of them."""

import gc
import time

import shardwright as sw
from evals.real_sizes.measure import MODELS, NUM_RANKS, built, without_weights

HEADS = ("model", "plan", "export", "shard", "first rank", "(shard + first rank) / export")


def times(name, plan, depths=None):
    """The processor seconds of each step, by its name; what a process does but once counts unless it did so before.

    ``plan``: ``"hand"`` is the one of the list. ``depths``: its blocks, where not as many as it has. Making the model
    counts nowhere. Making its program functional, which `shardwright.shard` would do, counts as sharding.
    """
    export = built(name, depths or {})
    program, export_s = _timed(export)
    plan = MODELS[name]["plan"] if plan == "hand" else plan
    sharded, shard_s = _timed(lambda: sw.shard(without_weights(program), mesh=NUM_RANKS, plan=plan))
    _, rank_s = _timed(lambda: sharded.exported(0))
    return {"export": export_s, "shard": shard_s, "first rank": rank_s}


def _timed(step):
    gc.collect()
    start = time.process_time()
    found = step()
    return found, time.process_time() - start


def head():
    return f"| {' | '.join(HEADS)} |\n" + "|" + "---|" * len(HEADS)


def row(name, plan, spent):
    """A line of the table. ``plan``: what it is called."""
    seconds = " | ".join(f"{value:.2f}" for value in spent.values())
    return f"| {name} | {plan} | {seconds} | {(spent['shard'] + spent['first rank']) / spent['export']:.2f} |"
