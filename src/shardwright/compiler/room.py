"""How many ranks a program has room for: checked before anything is done rank by rank."""

import math
from typing import Any

import torch

from shardwright.errors import Finding, ShardwrightError, raise_findings
from shardwright.layout.mesh import Mesh
from shardwright.layout.sizes import size_hint
from shardwright.program.program import Program
from shardwright.rules.call import leaves, symbolic_size

ALWAYS = 64
"""So many ranks are taken without a question: small examples are tried on the ranks of large ones."""


def check_room(program: Program, mesh: Mesh) -> None:
    """Raise `ShardwrightError` for an axis with more ranks than any dim has indices, and for a mesh with more ranks
    than any tensor has elements: some would never hold a share of anything.
    """
    longest, most = _largest(program)
    findings = [
        Finding(
            f"axis {name!r} has {size} ranks, but the longest dim in the program has {longest} indices",
            remedies=(f"at most {longest} ranks",),
        )
        for name, size in mesh
        if size > max(longest, ALWAYS)
    ]
    if not findings and mesh.num_ranks > max(most, ALWAYS):
        what = f"the mesh has {mesh.num_ranks} ranks, but the largest tensor in the program has {most} elements"
        findings.append(Finding(what, remedies=(f"at most {most} ranks in all",)))
    raise_findings(ShardwrightError, findings, summary="the program has no room for so many ranks")


def _largest(program: Program) -> tuple[int, int]:
    """The indices of the longest dim and the elements of the largest tensor, symbolic sizes as they were exported."""
    shapes: dict[tuple[Any, ...], None] = {}
    longest = most = 1
    for node in program.graph.nodes:
        for value in leaves(node.meta.get("val")):
            if isinstance(value, torch.Tensor):
                shapes[tuple(map(symbolic_size, value.shape))] = None
    for shape in shapes:
        sizes = [size_hint(size, program.fake_mode) for size in shape]
        longest, most = max([longest, *sizes]), max(most, math.prod(sizes))
    return longest, most
