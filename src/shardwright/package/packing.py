"""Weights that lie as one kind of CPU reads them: a package says which, and is not opened on another."""

from pathlib import Path

import torch

from shardwright.errors import PackageError
from shardwright.package.manifest import Manifest
from shardwright.program.nodes import graphs_of
from shardwright.program.program import Program

_PACKED_BY_CPU = (torch.ops.aten._weight_int4pack_mm_for_cpu.default,)
"""Operators whose weights lie in blocks as wide as the CPU's vectors."""


def packing_of(program: Program) -> str:
    """The kind of CPU that weights of a program are packed for, which is this one; '' where none is packed so."""
    calls = (node.target for graph in graphs_of(program.graph) for node in graph.nodes)
    return torch.backends.cpu.get_cpu_capability() if any(call in _PACKED_BY_CPU for call in calls) else ""


def check_packing(manifest: Manifest, folder: Path) -> None:
    """Raise `PackageError` where this CPU would read a package's packed weights otherwise than they lie."""
    here = torch.backends.cpu.get_cpu_capability()
    if manifest.packed_for and manifest.packed_for != here:
        raise PackageError(
            f"{folder}: its int4 weights are packed for a CPU with {manifest.packed_for}, and this one has {here}, "
            "which would read other numbers\n"
            "  try: quantise and shard the model on a machine of the kind that runs it"
        )
