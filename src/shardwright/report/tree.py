"""What a program consists of: its module tree with sizes, and which dims could be cut."""

import re
from typing import Any

from rich.markup import escape
from rich.tree import Tree

from shardwright.assign.structure import weight_structure
from shardwright.page.words import format_bytes
from shardwright.program.program import Program
from shardwright.report.tables import Table

LEGEND = (
    "dims to cut: those with an index for every rank at least, ~ in unequal pieces; units: indices that stay together "
    "(a head, a group of heads); parts: each is cut by itself (query, key and value of one projection)"
)


def cuttable(shape: tuple[int, ...], num_ranks: int) -> str:
    """The dims of a tensor that ``num_ranks`` ranks can cut, uneven ones marked ``~``."""
    dims = [f"{dim}" if size % num_ranks == 0 else f"{dim}~" for dim, size in enumerate(shape) if size >= num_ranks]
    return " ".join(dims) or "-"


def tensors_table(program: Program, num_ranks: int) -> Table:
    """Every parameter, buffer and constant; ``structure``: units and parts of its dims that cuts must respect."""
    rows = []
    structure = weight_structure(program)
    for item in program.inputs:
        if item.is_state and item.target is not None:
            tensor = program.weights[item.target].tensor
            shape = tuple(tensor.shape)
            size = tensor.numel() * tensor.element_size()
            dtype = str(tensor.dtype).removeprefix("torch.")
            said = "; ".join(map(str, structure.get(item.target, ())))
            cut = cuttable(shape, num_ranks)
            rows.append((item.target, item.kind.name.lower(), str(shape), dtype, size, cut, said))
    columns = ("tensor", "kind", "shape", "dtype", "bytes", f"dims to cut among {num_ranks}", "structure")
    return Table("Tensors", columns, rows, frozenset({"bytes"}))


def module_tree(program: Program, num_ranks: int) -> Tree:
    """The module tree; equal numbered layers, and equal numbered tensors of a module, are shown once."""
    modules = program.modules()
    sizes: dict[str, int] = {}
    leaves: dict[str, list[tuple[str, str]]] = {}
    for row in tensors_table(program, num_ranks).rows:
        name, _, shape, dtype, size, dims, structure = row
        path, _, last = str(name).rpartition(".")
        said = f"; {structure}" if structure else ""
        leaves.setdefault(path, []).append((last, f"{shape} {dtype}, dims to cut: {dims}{said}"))
        parts = path.split(".") if path else []
        for depth in range(len(parts) + 1):
            key = ".".join(parts[:depth])
            sizes[key] = sizes.get(key, 0) + int(size)
    return _branch("", modules, sizes, leaves, "(root)")


def _branch(
    path: str, modules: dict[str, str], sizes: dict[str, int], leaves: dict[str, list[tuple[str, str]]], label: str
) -> Tree:
    kind = modules.get(path, "").rsplit(".", 1)[-1]
    tree = Tree(f"[bold]{escape(label)}[/bold] {escape(kind)} [cyan]{format_bytes(sizes.get(path, 0))}[/cyan]")
    alike: dict[tuple[str, str], list[str]] = {}
    for name, facts in leaves.get(path, ()):
        alike.setdefault((re.sub(r"\d+", "*", name), facts), []).append(name)
    for (_, facts), names in alike.items():
        tree.add(f"{escape(_label(names))} [dim]{escape(facts)}[/dim]")
    prefix = f"{path}." if path else ""
    children = sorted(
        {name[len(prefix) :].split(".")[0] for name in (*modules, *leaves) if name.startswith(prefix) and name != path},
        key=lambda name: (0, int(name), "") if name.isdigit() else (1, 0, name),
    )
    seen: dict[Any, list[str]] = {}
    for child in children:
        below = f"{prefix}{child}"
        shape = tuple(
            (name[len(below) :], tuple(found))
            for name, found in leaves.items()
            if name == below or name.startswith(below + ".")
        )
        seen.setdefault((modules.get(below, ""), shape) if child.isdigit() else child, []).append(child)
    for names in seen.values():
        tree.add(_branch(f"{prefix}{names[0]}", modules, sizes, leaves, _label(names)))
    return tree


def _label(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} … {names[-1]} ({len(names)} equal)"
