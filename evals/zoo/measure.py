"""What one model type gives: built, exported, sharded, simulated on every rank, compared with the original."""

import time
import warnings
from collections import Counter
from dataclasses import dataclass

import torch

import shardwright as sw
from evals.zoo.build import NotBuildableError, build
from evals.zoo.double import in_double, is_rounding
from evals.zoo.exporting import export
from evals.zoo.results import one_line
from shardwright.plan.patterns import generalize


@dataclass(frozen=True, slots=True)
class Run:
    """One way of sharding: ``auto`` or ``hf``, and the number of ranks."""

    plan: str
    num_ranks: int


def measure(kind, runs, emit):
    """Emit one record for each run, or one that says why there is none; ``emit`` also hears of each stage begun."""
    built = try_build(kind, emit)
    if built is None:
        return
    model, inputs, facts = built
    planned = [run for run in runs if run.plan != "hf" or model.config.base_model_tp_plan]
    for run in runs:
        if run not in planned:
            emit({"verdict": "no plan", "run": (run.plan, run.num_ranks)})
    if not planned:
        return
    exported, facts = try_export(export, model, inputs, facts, emit)
    if exported is None:
        return
    if exported.way:
        facts["inputs"] += f" ({exported.way})"
    for run in planned:
        emit({"stage": "shard", "run": (run.plan, run.num_ranks), **facts})
        emit({**one_run(model, exported, run.plan, run.num_ranks), "run": (run.plan, run.num_ranks), **facts})


def try_build(kind, emit):
    """The model of a kind, its inputs, and what is known of both; None where there is none, which is emitted."""
    import transformers

    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    emit({"stage": "build"})
    start = time.perf_counter()
    try:
        model, inputs, how = build(kind)
    except NotBuildableError as error:
        emit({"verdict": "not buildable", "reason": str(error)})
        return None
    versions = {"torch": str(torch.__version__), "transformers": transformers.__version__}
    parameters = sum(p.numel() for p in model.parameters())
    return model, inputs, {**how, **versions, "parameters": parameters, "build_s": _since(start)}


def try_export(export, model, inputs, facts, emit):
    """What ``export`` gives of a model, None where it raises, which is emitted; and the facts with what it took."""
    emit({"stage": "export", **facts})
    start = time.perf_counter()
    try:
        exported = export(model, inputs)
    except Exception as error:  # noqa: BLE001 - whatever export raises is the finding
        emit({"verdict": "not exportable", "reason": one_line(error), **facts})
        return None, facts
    return exported, {**facts, "export_s": _since(start), "nodes": len(exported.program.graph.nodes)}


def one_run(model, exported, plan, num_ranks, export=export, further=()):
    """Shard, simulate and compare; the record of it.

    ``export``: what exported it, for another time in double precision. ``further``: checks of what is right so far,
    given the sharded program; what they return joins the record.
    """
    start = time.perf_counter()
    try:
        sharded = sw.shard(exported.program, mesh=num_ranks, plan=plan)
        sharded.collectives  # noqa: B018 - partitions the first rank
    except sw.ShardwrightError as error:
        return {"verdict": "refused", "reason": one_line(error), "shard_s": _since(start)}
    except Exception as error:  # noqa: BLE001 - a crash is a finding too
        return {"verdict": "crashed", "reason": one_line(error), "where": where(error), "shard_s": _since(start)}
    found = {"shard_s": _since(start), **describe(sharded)}
    start = time.perf_counter()
    try:
        report = sw.verify(sharded, exported.program, (), exported.inputs)
    except Exception as error:  # noqa: BLE001 - as above
        return {"verdict": "crashed", "reason": one_line(error), "where": where(error), **found}
    found |= {"verify_s": _since(start), "max_error": report.max_error}
    if not report.ok:
        exact, change = in_double(model, exported.given, plan, num_ranks, export)
        found |= {"max_error_float64": exact, "last_digit_float64": change, "reason": one_line(report)}
        return {"verdict": "ok" if is_rounding(exact, change) else "wrong", **found}
    try:
        for check in further:
            found |= check(sharded)
    except Exception as error:  # noqa: BLE001 - as above
        return {"verdict": "crashed", "reason": one_line(error), "where": where(error), **found}
    return {"verdict": "ok", **found}


def describe(sharded):
    """Weight bytes on the busiest rank, collectives and fallbacks, and how far from the best it may be (``gap``).

    ``share_used`` counts the weights that the program reads; ``share`` all of them. ``held_beyond``: the weights that
    are left whole or cut unevenly, by name, and what they add to the share beyond an equal part. ``predicted_us``: of a
    call on one rank alone and on these, and what these spend that one does not.
    """
    read = {item.target for item in sharded.program.inputs if item.is_state and item.name in _read(sharded.program)}
    return {
        "share": _share(sharded, sharded.weights),
        "share_used": _share(sharded, [w for w in sharded.weights if w.name in read]),
        "held_beyond": _held_beyond(sharded),
        "collectives": dict(sorted(Counter(c.kind for c in sharded.collectives).items())),
        "gap": round(max(a.solution.gap for a in sharded.assignments.values()), 4),
        "collective_bytes": sum(c.num_bytes for c in sharded.collectives),
        "fallbacks": dict(sorted(Counter(f.op for f in sharded.fallbacks).items())),
        "predicted_us": _predicted_us(sharded.prediction),
    }


def _predicted_us(found):
    spent = {
        "alone": found.alone_us,
        "total": found.total_us,
        "latencies": found.latency_us,
        "bytes sent": found.communication_us - found.latency_us,
        "repeated work": found.repeated_us,
    }
    return {name: round(value, 2) for name, value in spent.items()}


def _read(program):
    """The names of placeholders that some node reads."""
    return {node.name for node in program.placeholders() if node.users}


def _share(sharded, weights):
    whole = sum(w.num_bytes for w in weights)
    busiest = max(sum(w.rank_bytes[r] for w in weights) for r in range(sharded.mesh.num_ranks))
    return round(busiest / max(whole, 1), 4)


def _held_beyond(sharded, most=4):
    whole, ranks = sum(w.num_bytes for w in sharded.weights), sharded.mesh.num_ranks
    beyond = Counter()
    for weight in sharded.weights:
        beyond[generalize(weight.name)] += (max(weight.rank_bytes) - weight.num_bytes / ranks) / max(whole, 1)
    return {name: round(share, 4) for name, share in beyond.most_common(most) if share >= 0.005}


def where(error):
    """The innermost frames of an error."""
    frames, trace = [], error.__traceback__
    while trace is not None:
        frames.append(f"{trace.tb_frame.f_code.co_filename.rpartition('/')[2]}:{trace.tb_lineno}")
        trace = trace.tb_next
    return " ".join(frames[-5:])


def _since(start):
    return round(time.perf_counter() - start, 2)
