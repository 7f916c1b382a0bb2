"""What a program consists of: its module tree with sizes, and which dims could be cut."""

from typing import Any

from rich.markup import escape
from rich.tree import Tree

from shardwright.assign.structure import weight_structure
from shardwright.page.words import format_bytes
from shardwright.program.program import Program
from shardwright.report.tables import Table


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
    """The module tree; equal numbered layers are shown once."""
    modules = program.modules()
    sizes: dict[str, int] = {}
    leaves: dict[str, list[str]] = {}
    for row in tensors_table(program, num_ranks).rows:
        name, _, shape, dtype, size, dims, structure = row
        path, _, last = str(name).rpartition(".")
        said = f"; {structure}" if structure else ""
        facts = escape(f"{shape} {dtype}, dims to cut: {dims}{said}")
        leaves.setdefault(path, []).append(f"{escape(last)} [dim]{facts}[/dim]")
        parts = path.split(".") if path else []
        for depth in range(len(parts) + 1):
            key = ".".join(parts[:depth])
            sizes[key] = sizes.get(key, 0) + int(size)
    return _branch("", modules, sizes, leaves, "(root)")


def _branch(
    path: str, modules: dict[str, str], sizes: dict[str, int], leaves: dict[str, list[str]], label: str
) -> Tree:
    kind = modules.get(path, "").rsplit(".", 1)[-1]
    tree = Tree(f"[bold]{escape(label)}[/bold] {escape(kind)} [cyan]{format_bytes(sizes.get(path, 0))}[/cyan]")
    for leaf in leaves.get(path, ()):
        tree.add(leaf)
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
        label = names[0] if len(names) == 1 else f"{names[0]} … {names[-1]} ({len(names)} equal)"
        tree.add(_branch(f"{prefix}{names[0]}", modules, sizes, leaves, label))
    return tree
