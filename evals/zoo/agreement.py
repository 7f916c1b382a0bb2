"""How far the automatic plan and the maintainers' plan agree at true sizes, weight by weight, and what each costs.

Models of their classes' default sizes, but few layers, on the meta device in bfloat16: nothing is computed, so no
weights are needed. Each is sharded with ``"auto"`` and with ``"hf"``.
"""

import time
import warnings

import torch

import shardwright as sw
from evals.zoo.build import NotBuildableError, auto_class
from evals.zoo.comparing import bill, compare
from evals.zoo.exporting import plain
from evals.zoo.inputs import InputsUnknownError, least
from evals.zoo.makers import VOCABULARY_FREE
from evals.zoo.recipe import as_decoder, shrink
from evals.zoo.results import one_line

TOKENS = 512
SLOWER = 1.001
"""Times the maintainers' plan takes by the cost model from which the automatic plan counts as slower."""
UNBOUNDED = 1e9
"""A slack under which any weight may be whole."""


def agree(kind, runs, emit):
    """Emit one record for each number of ranks; has the signature of `measure.measure`."""
    import transformers

    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    emit({"stage": "build"})
    try:
        config = configured(kind)
        # A composite's causal model is that of its text part.
        has_plan = config.base_model_tp_plan or config.get_text_config().base_model_tp_plan
        model, inputs = build(kind, config) if has_plan else (None, {})
    except NotBuildableError as error:
        emit({"verdict": "not buildable", "reason": str(error)})
        return
    if model is None or not model.config.base_model_tp_plan:
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


def configured(kind):
    """The config of a type at its class's sizes, with few layers."""
    from transformers import CONFIG_MAPPING

    try:
        config = shrink(CONFIG_MAPPING[kind.name], "layers")
    except Exception as error:
        raise NotBuildableError(one_line(error)) from error
    return as_decoder(config) if kind.group == "causal" else config


def build(kind, config):
    """The model and its inputs, on the meta device."""
    try:
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
        if _time(found, "auto") > SLOWER * _time(found, "hf"):
            # Only the bound on weight bytes may be the reason.
            found |= {f"unbounded_{k}": v for k, v in bill(sw.shard(exported, mesh=num_ranks, slack=UNBOUNDED)).items()}
    except sw.ShardwrightError as error:
        return {"verdict": "refused", "reason": one_line(error)}
    except Exception as error:  # noqa: BLE001 - a crash is a finding too
        return {"verdict": "crashed", "reason": one_line(error)}
    return {"verdict": "ok", **found, "seconds": round(time.perf_counter() - start, 2)}


def _time(found, way):
    return found[f"{way}_talk_us"] + found[f"{way}_work_us"]
