"""Graph files read and written: what torch reads, we wrote."""

import io
import re
from enum import Enum
from pathlib import Path

import torch
from torch.export import ExportedProgram

from shardwright.errors import PackageError, first_line
from shardwright.package.graphs.archive import format_graph, parse_graph
from shardwright.program.named_tuples import register_read, register_written
from shardwright.program.program import STATE_KINDS, held_by
from shardwright.program.quiet import quiet_export, quiet_reading
from shardwright.program.read import constant_inputs
from shardwright.program.signature import format_constant
from shardwright.program.torch_private import load_pt2
from shardwright.program.torch_repeats import quick_tracing

_UNKNOWN_CLASS = re.compile(r"Deserializing (\S+) in pytree is not reg|TreeSpec of namedtuple class (\S+) because")
"""What torch says of a class that takes tensors apart, where nobody has registered it."""


def read_graph(path: Path) -> ExportedProgram:
    """A graph file of a package, without its weights.

    The file is parsed into strict types, and torch reads what is written from them. Raises `PackageError` for a file
    that holds anything else, and where torch cannot read it.
    """
    from shardwright.program.torch_files import texts_read_once  # It brings torch's own compiler, a second of imports.

    try:
        graph = parse_graph(path.read_bytes())
    except ValueError as error:
        raise PackageError(f"{path} is not a graph of a package: {error}\n  it was not opened") from error
    register_read(graph.program.graph_module.treespec_namedtuple_fields)
    try:
        with quiet_export(), texts_read_once(), quiet_reading(), quick_tracing():
            exported: ExportedProgram = load_pt2(io.BytesIO(format_graph(graph))).exported_programs["model"]
    except Exception as error:
        if unknown := _UNKNOWN_CLASS.search(str(error)):
            kind = unknown[1] or unknown[2]
            # The package around the module may import it only when it is asked for (diffusers does).
            module = kind.partition(".<locals>")[0].rpartition(".")[0]
            raise PackageError(
                f"{path}: the program takes or gives a {kind}, a class that nothing here has told PyTorch of\n"
                f"  try: import {module} before `load`, or export a model that gives plain tuples or dicts"
            ) from error
        # torch raises many kinds for what is well-formed but no graph.
        raise PackageError(
            f"{path} cannot be read as a graph: {first_line(error)}\n"
            f"  try: save the package again with torch {torch.__version__}"
        ) from error
    held = held_by(exported)
    named = [spec.target for spec in exported.graph_signature.input_specs if spec.kind in STATE_KINDS]
    lacking = [name for name in named if not isinstance(held.get(str(name)), torch.Tensor)]
    if lacking:
        raise PackageError(f"{path} cannot be read as a graph: it uses {lacking}, which it does not describe")
    return exported


def graph_bytes(exported: ExportedProgram) -> bytes:
    """The graph file of a program whose weights are on the meta device; raises `PackageError` where it cannot be kept.

    It holds what `read_graph` needs and no more: equal programs give equal bytes.
    """
    members = {name: value for name, value in constant_inputs(exported).items() if isinstance(value, Enum)}
    if members:
        name, member = next(iter(members.items()))
        raise PackageError(
            f"input {name!r} was {format_constant(member)} at export, and a package holds no members of enumerations "
            "but those of text and numbers\n  try: let forward take the member's name or value"
        )
    from shardwright.program.torch_files import without_canonical_form  # See `read_graph`.

    saved = io.BytesIO()
    register_written(exported)
    try:
        with quiet_export(), without_canonical_form():
            torch.export.save(exported, saved)
        return format_graph(parse_graph(saved.getvalue()))
    except Exception as error:
        # torch raises many kinds for what its format does not hold; a dtype it looks up in a table of its own, which is
        # behind safetensors.
        if isinstance(error, KeyError) and isinstance(error.args[0], torch.dtype):
            held = held_by(exported)
            names = [repr(name) for name, value in held.items() if getattr(value, "dtype", None) == error.args[0]]
            raise PackageError(
                f"torch.export.save of torch {torch.__version__} cannot write {error.args[0]}, which "
                f"{', '.join(names) or 'the graph'} has\n  try: keep the bytes as uint8 and unpack them in forward"
            ) from error
        raise PackageError(f"this program cannot be kept in a package: {first_line(error)}") from error
