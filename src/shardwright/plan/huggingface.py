"""The plans that transformers and diffusers ship: on models, on configs, and on classes that a program names.

A model's own ``tp_plan`` is complete: its class, its config and its parts have been merged, with prefixes. A config
holds ``base_model_tp_plan``, whose keys are relative to the base model (``layers.*`` for ``model.layers.*``), and its
sub-configs hold one each. An `ExportedProgram` has neither, but it names the class of every module that ran, and the
classes of transformers carry the same plans (``_tp_plan``, ``config_class.base_model_tp_plan``). Classes of diffusers
carry a ``_tp_plan`` that is complete.
"""

import importlib
from collections.abc import Mapping
from typing import Any

from shardwright.errors import PlanError
from shardwright.plan.borrowed import BorrowedEntries, BorrowedPlan
from shardwright.program.quiet import quiet_imports

EMBEDDING = {"embed_tokens": "embedding_rowwise"}
"""What transformers adds to the plan of a base model that has such a table, unless the plan names it."""


def hf_plan(source: Any) -> BorrowedPlan:
    """The tensor-parallel plan of a transformers or diffusers model, of a config, or of a mapping taken from either.

    Pass the result as ``plan=`` of `shard`: keys are put below the module that holds the model, and entries for
    modules that this model does not have are left out with a `PlanWarning`. Raises `PlanError` where there is none.

    >>> sharded = shard(exported, mesh=4, plan=hf_plan(model.config))
    """
    if isinstance(source, Mapping):
        parts = [BorrowedEntries(dict(source), "the mapping")] if source else []
    elif isinstance(getattr(source, "tp_plan", None), Mapping) and source.tp_plan:
        parts = [BorrowedEntries(dict(source.tp_plan), f"{type(source).__name__}.tp_plan")]
    else:
        parts = _config_parts(getattr(source, "config", source))
        own = getattr(source, "_tp_plan", None)
        if not parts and isinstance(own, Mapping) and own:
            name = source.__name__ if isinstance(source, type) else type(source).__name__
            parts = [BorrowedEntries(dict(own), f"{name}._tp_plan")]
    if not parts:
        raise PlanError(
            f"{type(source).__name__} carries no tensor-parallel plan (tp_plan, base_model_tp_plan, _tp_plan)\n"
            "  try: plan='auto', or a mapping of module names to styles"
        )
    return BorrowedPlan(tuple(parts))


LIBRARIES = {"hf": ("transformers", "diffusers"), "diffusers": ("diffusers",)}
"""The plans that go by a name, and the libraries whose classes carry them."""


def plan_of_classes(modules: Mapping[str, str], plan: str = "hf") -> BorrowedPlan:
    """The plan of the transformers and diffusers classes among a program's modules (path → class name).

    ``plan``: a name in `LIBRARIES`; classes of other libraries are passed over. Raises `PlanError` when none of the
    classes carries a plan.
    """
    own = {path: kind for path, kind in modules.items() if kind.partition(".")[0] in LIBRARIES[plan]}
    entries: dict[str, Any] = {}
    for path, kind in own.items():
        found = _class_plan(kind, path, modules)
        prefix = f"{path}." if path else ""
        # An outer class has the last word, as it has in transformers.
        entries = {**{prefix + key: style for key, style in found.items()}, **entries}
    if not entries:
        libraries = " or ".join(LIBRARIES[plan])
        outer = f" ({next(iter(own.values())).rpartition('.')[2]} does not)" if own else ""
        raise PlanError(
            f"plan={plan!r} found no plan: none of the program's module classes is a model of {libraries} "
            f"that carries one{outer}\n"
            "  try: plan='auto', plan=shardwright.hf_plan(model), plan=model.tp_plan, "
            "or plan=model.config.base_model_tp_plan"
        )
    return BorrowedPlan((BorrowedEntries(entries, "the classes of the program's modules"),))


def _config_parts(config: Any) -> list[BorrowedEntries]:
    found = []
    entries = getattr(config, "base_model_tp_plan", None)
    if entries:
        found.append(BorrowedEntries(dict(entries), f"{type(config).__name__}.base_model_tp_plan"))
    for name in getattr(config, "sub_configs_defaults", None) or getattr(config, "sub_configs", None) or ():
        part = getattr(config, name, None)
        found += _config_parts(part) if part is not None else []
    return found


def _class_plan(name: str, path: str, modules: Mapping[str, str]) -> dict[str, Any]:
    if (kind := _class_of("diffusers.models.", name)) is not None:
        own = getattr(kind, "_tp_plan", None)
        return dict(own) if isinstance(own, Mapping) else {}
    kind = _class_of("transformers.models.", name)
    if not hasattr(kind, "config_class"):
        return {}
    prefix = f"{path}." if path else ""
    found = dict(getattr(kind, "_tp_plan", None) or {})
    base = getattr(kind, "base_model_prefix", "")
    if not base or prefix + base not in modules:
        found |= getattr(getattr(kind, "config_class", None), "base_model_tp_plan", None) or {}
        if found and modules.get(f"{prefix}embed_tokens", "").endswith("Embedding"):
            found = {**EMBEDDING, **found}
    return found


def _class_of(package: str, name: str) -> Any:
    """The class of this name, where a package of the two libraries has it; nothing else is ever imported."""
    module, _, last = name.rpartition(".")
    if not module.startswith(package):
        return None
    try:
        with quiet_imports():
            return getattr(importlib.import_module(module), last, None)
    except ImportError:
        return None
