"""How far the automatic plan and the maintainers' plan agree at true sizes, weight by weight, and what each costs.

Models of their classes' default sizes, but few layers, on the meta device in bfloat16: nothing is computed, so no
weights are needed. Each is sharded with ``"auto"`` and with ``"hf"``.
"""

import time
import warnings

import torch

import shardwright as sw
from benchmarks.zoo.build import NotBuildableError, auto_class
from benchmarks.zoo.exporting import plain
from benchmarks.zoo.inputs import InputsUnknownError, least
from benchmarks.zoo.makers import VOCABULARY_FREE
from benchmarks.zoo.recipe import as_decoder, shrink
from benchmarks.zoo.results import one_line
from shardwright.plan.patterns import generalize

TOKENS = 512
FACTORS = {"all_reduce": 2.0, "all_gather": 1.0, "reduce_scatter": 1.0}
"""Bytes a rank sends over those of the whole value, in a ring, but for the (ranks - 1)/ranks they all share."""


def agree(kind, runs, emit):
    """Emit one record for each number of ranks; has the signature of `measure.measure`."""
    import transformers

    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    emit({"stage": "build"})
    try:
        model, inputs = build(kind)
    except NotBuildableError as error:
        emit({"verdict": "not buildable", "reason": str(error)})
        return
    if not model.config.base_model_tp_plan:
        emit({"verdict": "no plan"})
        return
    facts = {"torch": str(torch.__version__), "transformers": transformers.__version__, "tokens": TOKENS}
    facts["parameters"] = sum(p.numel() for p in model.parameters())
    emit({"stage": "export", **facts})
    try:
        exported = plain(model, inputs)
    except Exception as error:  # noqa: BLE001 - whatever export raises is the finding
        emit({"verdict": "not exportable", "reason": one_line(error), **facts})
        return
    for run in runs:
        name = (run.plan, run.num_ranks)
        emit({"stage": "shard", "run": name, **facts})
        emit({**_one(exported, run.num_ranks), "run": name, **facts})


def build(kind):
    """The model and its inputs, on the meta device."""
    from transformers import CONFIG_MAPPING

    try:
        config = shrink(CONFIG_MAPPING[kind.name], "layers")
        if kind.group == "causal":
            config = as_decoder(config)
        with torch.device("meta"):
            model = auto_class(kind).from_config(config, dtype=torch.bfloat16).eval()
        inputs = least(model)
    except InputsUnknownError as error:
        raise NotBuildableError(str(error)) from error
    except Exception as error:
        raise NotBuildableError(one_line(error)) from error
    return model, {name: _on_meta(name, value) for name, value in inputs.items()}


def _on_meta(name, value):
    if not isinstance(value, torch.Tensor):
        return value
    if name in VOCABULARY_FREE:
        return torch.zeros(1, TOKENS, dtype=torch.long, device="meta")
    return torch.empty_like(value, device="meta", dtype=torch.bfloat16 if value.is_floating_point() else None)


def _one(exported, num_ranks):
    start = time.perf_counter()
    try:
        auto, maintained = (sw.shard(exported, mesh=num_ranks, plan=plan) for plan in ("auto", "hf"))
        found = compare(auto, maintained)
    except sw.ShardwrightError as error:
        return {"verdict": "refused", "reason": one_line(error)}
    except Exception as error:  # noqa: BLE001 - a crash is a finding too
        return {"verdict": "crashed", "reason": one_line(error)}
    return {"verdict": "ok", **found, "seconds": round(time.perf_counter() - start, 2)}


def compare(auto, maintained):
    """Parameters of the same layout, those that differ, and the bytes each plan communicates and holds."""
    theirs = {w.name: w for w in maintained.weights if w.kind == "parameter"}
    ours = {w.name: w for w in auto.weights if w.kind == "parameter"}
    layouts = {name: (str(ours[name].layouts["tp"]), str(w.layouts["tp"])) for name, w in theirs.items()}
    equal = {name for name, (mine, other) in layouts.items() if mine == other}
    named = {name for name, w in theirs.items() if w.plan_key}
    return {
        "equal": len(equal),
        "of": len(theirs),
        "named_equal": len(named & equal),
        "named": len(named),
        "differ": {generalize(name): pair for name, pair in layouts.items() if name not in equal},
        "auto_sent": sent(auto),
        "hf_sent": sent(maintained),
        "auto_held": held(auto),
        "hf_held": held(maintained),
    }


def sent(sharded):
    """Bytes a rank sends in one forward pass."""
    ranks = sharded.mesh.num_ranks
    whole = sum(FACTORS.get(c.kind, 1 / ranks) * c.num_bytes for c in sharded.collectives)
    return round(whole * (ranks - 1) / ranks)


def held(sharded):
    """Weight bytes on the busiest rank."""
    return max(sharded.rank_bytes)
