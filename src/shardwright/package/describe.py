"""What a package says about itself: the manifest of a sharded program."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import torch
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, SequenceParallel
from torch.export.graph_signature import InputKind

from shardwright.layout.layout import REPLICATE, Layout
from shardwright.layout.mesh import Coordinates, Mesh
from shardwright.package.manifest import (
    FORMAT_VERSION,
    VERSION,
    CollectiveEntry,
    DecoderEntry,
    FileEntry,
    Manifest,
    ParameterEntry,
    TensorEntry,
    ValueEntry,
    format_coordinates,
)
from shardwright.package.packing import packing_of
from shardwright.plan.plan_files import style_to_yaml
from shardwright.plan.styles import packed_style
from shardwright.program.nodes import val_of
from shardwright.program.program import Program, Weight
from shardwright.program.read import constant_inputs
from shardwright.program.signature import format_constant, output_names

if TYPE_CHECKING:
    from shardwright.compiler.sharded import ShardedProgram


_STYLES = {ColwiseParallel: "colwise", RowwiseParallel: "rowwise", SequenceParallel: "sequence_parallel"}


def describe(
    sharded: "ShardedProgram",
    *,
    graphs: Sequence[str],
    weights: Sequence[str],
    original: str,
    files: Sequence[FileEntry],
    extras: Sequence[str],
    decoder: DecoderEntry | None,
) -> Manifest:
    """The manifest; ``graphs`` and ``weights`` are file names by rank, ``files`` everything in the folder."""
    program = sharded.program
    nodes = {node.name: node for node in program.placeholders()}
    values = program.output_values()
    tied, zeros = aliases(program), zero_buffers(program)
    fixed = {name: format_constant(value) for name, value in constant_inputs(program.source).items()}
    state = {i.target for i in program.inputs if i.kind == InputKind.PARAMETER or i.persistent}
    return Manifest(
        format_version=FORMAT_VERSION,
        shardwright_version=VERSION,
        torch_version=str(torch.__version__),
        mesh=dict(sharded.mesh.axes),
        unions={name: list(axes) for name, axes in sharded.mesh.unions},
        graphs=list(graphs),
        weights=list(weights),
        original=original,
        files=list(files),
        tensors=[
            TensorEntry(
                name=w.name,
                kind=w.kind,
                shape=list(w.shape),
                dtype=str(w.dtype).removeprefix("torch."),
                layouts={axis: style_to_yaml(layout) for axis, layout in w.layouts.items()},
                elsewhere=_elsewhere(w.elsewhere),
                alias_of=tied.get(w.name, ""),
                zeros=w.name in zeros,
                in_state=w.name in state,
            )
            for w in sharded.weights
        ],
        inputs=[_input(sharded, item.name, nodes[item.name], fixed.get(item.name)) for item in program.user_inputs()],
        outputs=[_value(name, values[position]) for name, position in output_names(program).items()],
        collectives=[
            CollectiveEntry(c.kind, c.axis, c.num_bytes, c.module, c.source, c.cause, c.message)
            for c in sharded.collectives
        ],
        plan=plan_to_yaml(sharded.plan),
        source_fingerprint=fingerprint(program),
        extras=list(extras),
        decoder=decoder,
        parameters=[ParameterEntry(one.name, one.how, one.optional, one.default) for one in sharded.signature],
        ranks=_own_ranks(sharded.mesh),
        packed_for=packing_of(program),
    )


def _own_ranks(mesh: Mesh) -> list[int]:
    """The mesh's rank numbers; those of a part of a world are left out, as the package is a world of its own."""
    return list(mesh.ranks) if sorted(mesh.ranks) == list(range(mesh.num_ranks)) else []


def aliases(program: Program) -> dict[str, str]:
    """Tied weights: name → the name under which the same tensor is written."""
    first: dict[int, str] = {}
    found = {}
    for name, weight in program.weights.items():
        leader = first.setdefault(id(weight.tensor), name)
        if leader != name:
            found[name] = leader
    return found


def zero_buffers(program: Program) -> set[str]:
    """Buffers that start as zeros and are not in the state dict (key-value caches): made on loading, not stored."""
    return {
        str(item.target)
        for item in program.inputs
        if item.kind == InputKind.BUFFER and not item.persistent and _is_zero(program.weights[str(item.target)])
    }


def plan_to_yaml(plan: Any) -> Any:
    """A plan as plan files hold it; torch's style instances, which they cannot hold, as their text."""
    if isinstance(plan, type) and plan in _STYLES:
        return _STYLES[plan]
    if packed := packed_style(plan):
        return packed
    if isinstance(plan, Mapping):
        return {str(key): plan_to_yaml(value) for key, value in plan.items()}
    in_yaml = style_to_yaml(plan)
    return in_yaml if isinstance(in_yaml, (str, dict, type(None))) else repr(in_yaml)


def fingerprint(program: Program) -> str:
    """A digest of the graph and of every tensor's name, shape and dtype: which program this was."""
    digest = hashlib.sha256(str(program.graph).encode())
    for name, weight in sorted(program.weights.items()):
        digest.update(f"{name} {tuple(weight.tensor.shape)} {weight.tensor.dtype}".encode())
    return digest.hexdigest()


def _is_zero(weight: Weight) -> bool:
    tensor = weight.tensor.detach()
    if tensor.is_meta or tensor.numel() == 0 or tensor.layout != torch.strided:
        return False
    # Of its bytes, as not every dtype can be compared with zero.
    return not bool(tensor.contiguous().reshape(-1).view(torch.uint8).any())


def _elsewhere(found: Mapping[str, Mapping[Coordinates, Layout]]) -> dict[str, dict[str, Any]]:
    return {
        axis: {format_coordinates(at): style_to_yaml(layout) for at, layout in others.items()}
        for axis, others in found.items()
    }


def _input(sharded: "ShardedProgram", name: str, node: Any, constant: str | None) -> ValueEntry:
    layouts, elsewhere = sharded.input_layouts(name)
    cut = {axis: style_to_yaml(layout) for axis, layout in layouts.items() if layout != REPLICATE}
    return msgspec.structs.replace(_value(name, node, constant), layouts=cut, elsewhere=_elsewhere(elsewhere))


def _value(name: str, node: Any, constant: str | None = None) -> ValueEntry:
    val = val_of(node)
    if not isinstance(val, torch.Tensor):
        return ValueEntry(name, [], type(val).__name__, constant)
    shape = [size if isinstance(size, int) else str(size) for size in val.shape]
    return ValueEntry(name, shape, str(val.dtype).removeprefix("torch."))
