"""The plans that transformers ships: on models, on configs, and on the classes an exported program names.

A model's own ``tp_plan`` is complete: its class, its config and its parts have been merged, with prefixes. A config
holds ``base_model_tp_plan``, whose keys are relative to the base model (``layers.*`` for ``model.layers.*``), and its
sub-configs hold one each. An `ExportedProgram` has neither, but it names the class of every module that ran, and the
classes of transformers carry the same plans (``_tp_plan``, ``config_class.base_model_tp_plan``).
"""

import importlib
from collections.abc import Mapping
from typing import Any

from shardwright.errors import PlanError
from shardwright.plan.borrowed import BorrowedPlan, Part

EMBEDDING = {"embed_tokens": "embedding_rowwise"}
"""What transformers adds to the plan of a base model that has such a table, unless the plan names it."""


def hf_plan(source: Any) -> BorrowedPlan:
    """The tensor-parallel plan of a transformers model, of its config, or of a mapping taken from either.

    Pass the result as ``plan=`` of `shard`: keys are put below the module that holds the model, and entries for
    modules that this model does not have are left out with a `PlanWarning`. Raises `PlanError` where there is none.

    >>> sharded = shard(exported, mesh=4, plan=hf_plan(model.config))
    """
    if isinstance(source, Mapping):
        parts = [Part(dict(source), "the mapping")] if source else []
    elif getattr(source, "tp_plan", None):
        parts = [Part(dict(source.tp_plan), f"{type(source).__name__}.tp_plan")]
    else:
        parts = _config_parts(getattr(source, "config", source))
    if not parts:
        raise PlanError(
            f"{type(source).__name__} carries no tensor-parallel plan (tp_plan, base_model_tp_plan)\n"
            "  try: plan='auto', or a mapping of module names to styles"
        )
    return BorrowedPlan(tuple(parts))


def plan_of_classes(modules: Mapping[str, str]) -> BorrowedPlan:
    """The plan of the transformers classes among a program's modules (path → class name); see ``plan="hf"``.

    Raises `PlanError` when none of the classes carries a plan.
    """
    entries: dict[str, Any] = {}
    for path, name in modules.items():
        found = _class_plan(name, path, modules)
        prefix = f"{path}." if path else ""
        # An outer class has the last word, as it has in transformers.
        entries = {**{prefix + key: style for key, style in found.items()}, **entries}
    if not entries:
        raise PlanError(
            "plan='hf' found no plan: none of the program's module classes is a transformers model that carries one\n"
            "  try: plan=shardwright.hf_plan(model), plan=model.tp_plan, plan=model.config.base_model_tp_plan, "
            "or plan='auto'"
        )
    return BorrowedPlan((Part(entries, "the classes of the program's modules"),))


def _config_parts(config: Any) -> list[Part]:
    found = []
    entries = getattr(config, "base_model_tp_plan", None)
    if entries:
        found.append(Part(dict(entries), f"{type(config).__name__}.base_model_tp_plan"))
    for name in getattr(config, "sub_configs_defaults", None) or getattr(config, "sub_configs", None) or ():
        part = getattr(config, name, None)
        found += _config_parts(part) if part is not None else []
    return found


def _class_plan(name: str, path: str, modules: Mapping[str, str]) -> dict[str, Any]:
    kind = _transformers_class(name)
    if kind is None:
        return {}
    prefix = f"{path}." if path else ""
    found = dict(getattr(kind, "_tp_plan", None) or {})
    base = getattr(kind, "base_model_prefix", "")
    if not base or prefix + base not in modules:
        found |= getattr(getattr(kind, "config_class", None), "base_model_tp_plan", None) or {}
        if found and modules.get(f"{prefix}embed_tokens", "").endswith("Embedding"):
            found = {**EMBEDDING, **found}
    return found


def _transformers_class(name: str) -> Any:
    """The class of this name, where it is a model of transformers; nothing else is ever imported."""
    module, _, last = name.rpartition(".")
    if not module.startswith("transformers.models."):
        return None
    try:
        kind = getattr(importlib.import_module(module), last, None)
    except ImportError:
        return None
    return kind if hasattr(kind, "config_class") else None
