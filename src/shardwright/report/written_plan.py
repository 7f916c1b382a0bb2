"""The layouts that a sharded program has on an axis, as a plan to read, edit and give to `shard` again.

Layers that are alike are written once, entries stand under the module that holds them, and comments say what each
costs.
"""

import json
import os
import sys
from collections import Counter
from collections.abc import Iterable
from typing import Any

import yaml

from shardwright.compiler.sharded import ShardedProgram
from shardwright.compiler.weights import WeightLayout
from shardwright.errors import ShardwrightError
from shardwright.layout.layout import Shard
from shardwright.layout.values import check_free
from shardwright.page.words import format_bytes
from shardwright.plan.layers_alike import merge_layers
from shardwright.plan.patterns import generalize
from shardwright.plan.plan_files import style_to_yaml
from shardwright.plan.styles import style_spec
from shardwright.program.atomic import written_whole

_FREE_STYLES = ("colwise", "rowwise", "grouped_gemm")
"""Styles that name a dim and leave it to the graph how it is cut."""


def plan_of(sharded: ShardedProgram, axis: str) -> dict[str, Any]:
    """Plan key → style or layout, which pin every parameter and buffer as ``axis`` has it, in order of the program.

    Where the axis was split because heads are scarce, a style stands for the dim that its parts cut: how far they can
    cut it is found again from the graph.
    """
    said = _said(sharded, axis)
    return {key: said[names[0]] for key, names in _merged(sharded, said).items()}


def plan_text(sharded: ShardedProgram, axis: str) -> str:
    """`plan_of` as YAML: entries under a comment that names their module, each with its bytes."""
    weights = {one.name: one for one in sharded.weights}
    said = _said(sharded, axis)
    groups: dict[str, list[str]] = {}
    for key, names in _merged(sharded, said).items():
        price = _price([weights[name] for name in names])
        groups.setdefault(_module(names[0]), []).append(f"{_entry(key, said[names[0]])}  # {price}")
    collectives = _collectives(sharded, groups)
    title = f"# The plan of {sharded.mesh.size(axis)} ranks on the axis {axis}.\n\n"
    return title + "\n".join(
        "\n".join([f"# {module or 'the root module'}{collectives[module]}", *lines, ""])
        for module, lines in groups.items()
    )


def write_plan(sharded: ShardedProgram, path: str | os.PathLike[str], *, axis: str | None = None) -> None:
    """Write the plan of a mesh axis (absent: the only one, or ``"tp"``) as a YAML file for ``plan=``, whole or not.

    It pins every parameter and buffer as the program has it, with layers that are alike written once and with what each
    entry costs as a comment. Raises `ShardwrightError` for a file that exists, and for an axis that does not.

    >>> write_plan(shard(exported, mesh=4), "plan.yaml")
    """
    if not isinstance(sharded, ShardedProgram):
        raise ShardwrightError(f"write_plan takes what `shard` returned, got {type(sharded).__name__}")
    file = check_free(path, "the plan")
    text = plan_text(sharded, _axis(sharded, axis))
    with written_whole(file) as draft:
        draft.write_text(text, encoding="utf-8")


def _axis(sharded: ShardedProgram, axis: str | None) -> str:
    unions = dict(sharded.mesh.unions)
    within = {part for parts in unions.values() for part in parts}
    known = [*unions, *(name for name in sharded.mesh.names if name not in within)]
    found = axis if axis is not None else known[0] if len(known) == 1 else "tp"
    if found not in known:
        raise ShardwrightError(f"the mesh has no axis {found!r}\n  try: axis= one of {', '.join(map(repr, known))}")
    return found


def _said(sharded: ShardedProgram, axis: str) -> dict[str, Any]:
    """Parameter or buffer → what a plan must say of it, so that ``axis`` has it as it is."""
    parts, modules = sharded.mesh.parts(axis), sharded.program.modules()
    found = {}
    for one in sharded.weights:
        if one.kind not in ("parameter", "buffer"):
            continue
        layouts = [one.layouts[part] for part in parts]
        cut = next((layout for layout in layouts if isinstance(layout, Shard)), None)
        owner = modules.get(one.name.rpartition(".")[0], "")
        found[one.name] = layouts[0] if cut is None or len(parts) == 1 else _free_style(one, cut, owner)
    return found


def _free_style(weight: WeightLayout, cut: Shard, owner: str) -> Any:
    """A style that cuts the same dim of a weight as the graph allows; the dim itself where no style does."""
    last = weight.name.rpartition(".")[2]
    for style in _FREE_STYLES:
        layout = style_spec(style, owner).for_tensor(last, len(weight.shape), owner)
        if isinstance(layout, Shard) and layout.dim % len(weight.shape) == cut.dim:
            return style
    return Shard(cut.dim)


def _merged(sharded: ShardedProgram, said: dict[str, Any]) -> dict[str, list[str]]:
    # Compared as they are written: layers of different sizes are cut alike if the file says the same of them.
    values = {name: json.dumps(style_to_yaml(value)) for name, value in said.items()}
    return merge_layers(values, [*sharded.program.modules(), *(one.name for one in sharded.weights)])


def _entry(key: str, value: Any) -> str:
    # One by one, as a mapping of a single line would get braces, and a long key a line of its own.
    written, said = (
        yaml.safe_dump(one, default_flow_style=True, width=sys.maxsize) for one in (key, style_to_yaml(value))
    )
    return f"{written.splitlines()[0]}: {said.splitlines()[0]}"


def _price(weights: list[WeightLayout]) -> str:
    sizes = [one.num_bytes for one in weights]
    held = max(sum(one.rank_bytes[rank] for one in weights) for rank in range(len(weights[0].rank_bytes)))
    alike = len(sizes) > 1 and len({*sizes}) == 1
    whole = f"{len(sizes)} × {format_bytes(sizes[0])}" if alike else format_bytes(sum(sizes))
    return f"{whole}, {format_bytes(held)} a rank"


def _module(name: str) -> str:
    """The module that holds a tensor's own module, layers alike."""
    return generalize(".".join(name.split(".")[:-2]))


def _collectives(sharded: ShardedProgram, modules: Iterable[str]) -> dict[str, str]:
    """Module → what is communicated in it and below it, but not in a module of its own heading."""
    known = sorted(modules, key=len)
    found: dict[str, Counter[tuple[str, int]]] = {module: Counter() for module in known}
    for one in sharded.collectives:
        path = generalize(one.module)
        inside = [module for module in known if not module or f"{path}.".startswith(f"{module}.")]
        if inside:
            found[inside[-1]][str(one.kind), one.num_bytes] += 1
    return {
        module: "".join(f"; {count} × {kind} of {format_bytes(size)}" for (kind, size), count in counts.items())
        for module, counts in found.items()
    }
