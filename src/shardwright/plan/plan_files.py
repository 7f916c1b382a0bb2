"""Plan files: YAML, keys to styles.

A style is a string (``colwise``) or a mapping,
``{shard: 0, parts: [4096, 1024, 1024], unit: 128}`` or ``{replicate:}``.
"""

import os
from collections.abc import Mapping
from typing import Any

from shardwright.errors import LayoutError, PlanError
from shardwright.layout.cut import EVERY, Blocks, Cut, describe_cut
from shardwright.layout.layout import Layout, Partial, Replicate, Shard
from shardwright.layout.values import is_count
from shardwright.layout.yaml_files import read_yaml


def read_plan(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The plan in a YAML file; raises `PlanError` naming the file and the entry that is wrong."""
    return as_plan(read_yaml(path, "the plan", "names to styles", error=PlanError), str(path))


def as_plan(data: Mapping[Any, Any], where: str) -> dict[str, Any]:
    """A plan from what a file holds; raises `PlanError` naming ``where`` and the entry that is wrong."""
    return {str(key): _style(value, f"{where}: {key!r}") for key, value in data.items()}


def read_layout(value: Any, num_ranks: int) -> Layout:
    """The layout that `style_to_yaml` wrote, for ``num_ranks`` ranks; raises `PlanError` for anything else."""
    style = Replicate() if value == "replicate" else _style(value, "layout")
    if not isinstance(style, (Replicate, Partial, Shard)):
        raise PlanError(f"{value!r} is not a layout")
    if isinstance(style, Shard) and isinstance(style.cut, Cut):
        # The last ranks may own nothing, which a list of owners does not show.
        return Shard(style.dim, Cut.of(num_ranks, style.cut.flat_runs()))
    return style


def style_to_yaml(style: Any) -> Any:
    """A style or layout as YAML holds it."""
    if isinstance(style, Replicate):
        return "replicate"
    if isinstance(style, Partial):
        return {"partial": style.op}
    if isinstance(style, Shard):
        how = describe_cut(style.cut) if isinstance(style.cut, Cut) else style.cut
        found: dict[str, Any] = {"shard": style.dim}
        if isinstance(how, Blocks):
            found |= {"parts": list(how.parts)} if how.parts else {}
            found |= {"unit": how.unit} if how.unit != 1 else {}
        elif isinstance(how, Cut):
            found["owners"] = [list(run) for run in how.flat_runs()]
        return found
    return style


def _style(value: Any, where: str) -> Any:
    if isinstance(value, str):
        return value
    if not isinstance(value, Mapping):
        raise PlanError(f"{where}: expected a style name or a mapping such as {{shard: 0}}, got {value!r}")
    unknown = set(value) - {"shard", "parts", "unit", "owners", "replicate", "partial"}
    if unknown:
        raise PlanError(f"{where}: unknown fields {sorted(unknown)}; known are shard, parts, unit, replicate, partial")
    kinds = [kind for kind in ("replicate", "partial", "shard") if kind in value]
    if len(kinds) > 1 or (kinds != ["shard"] and len(value) > 1):
        raise PlanError(f"{where}: {dict(value)!r} is more than one layout\n  try: one of shard, replicate, partial")
    try:
        if "replicate" in value:
            return _replicate(value["replicate"], where)
        return Partial(value["partial"]) if "partial" in value else _shard(value, where)
    except LayoutError as error:
        raise PlanError(f"{where}: {error}") from error


def _replicate(value: Any, where: str) -> Replicate:
    if value not in (None, True, {}):
        raise PlanError(f"{where}: replicate takes no value, got {value!r}\n  try: replicate")
    return Replicate()


def _are_ints(parts: Any) -> bool:
    return isinstance(parts, (list, tuple)) and all(map(is_count, parts))


def _shard(value: Mapping[str, Any], where: str) -> Layout:
    dim, parts, unit = value.get("shard"), value.get("parts", []), value.get("unit", 1)
    if not is_count(dim) or not is_count(unit) or not _are_ints(parts):
        raise PlanError(f"{where}: shard and unit are numbers, parts a list of numbers; got {dict(value)!r}")
    if "owners" in value:
        try:
            runs = [(int(owner), int(length)) for owner, length in value["owners"]]
        except (TypeError, ValueError) as error:
            raise PlanError(f"{where}: owners is a list of [owner, length], got {value['owners']!r}") from error
        if not any(owner >= 0 for owner, _ in runs) or any(owner < EVERY or length < 0 for owner, length in runs):
            raise PlanError(
                f"{where}: owners are numbers from 0, or {EVERY} for every rank, with lengths; got {value['owners']!r}"
            )
        return Shard(dim, Cut.of(max(owner for owner, _ in runs) + 1, runs))
    return Shard(dim, Blocks(tuple(parts), unit)) if parts or unit != 1 else Shard(dim)
