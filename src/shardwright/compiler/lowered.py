"""The lowered program of every rank, written once for all ranks that run the same code.

Ranks of a kind hold pieces of the same lengths. Where partition wrote nothing else that says which of them it is for
(`Program.is_of_rank`), they differ in their pieces of the weights, in constants such as where their part of a
vocabulary starts, and in where they slice what is there whole. So their program is a copy of that of the first of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import fx

from shardwright.compiler.axes import Compiled
from shardwright.layout.mesh import Coordinates
from shardwright.lean.lean import lean
from shardwright.lean.options import Lean
from shardwright.lean.schedule import Schedule
from shardwright.package.alike import alike
from shardwright.program.duplicate import duplicate
from shardwright.program.legal import IllegalProgramError, is_checked
from shardwright.program.nodes import RANGE
from shardwright.program.program import Program, RankConstant, Weight


@dataclass(frozen=True, slots=True)
class LoweredPrograms:
    """Every rank's program, made when it is asked for. ``schedule``: of all ranks; ``options``: what makes it lean."""

    compiled: Compiled
    schedule: Schedule
    options: Lean
    _known: dict[Coordinates, tuple[Mapping[str, str], Program | None]] = field(default_factory=dict, repr=False)
    """By kind, the groups that the last program of it was lowered for, and that program; None where there is none that
    all ranks of the kind run.
    """

    def at(self, where: Coordinates, group_names: Mapping[str, str]) -> Program:
        """The program of the rank at a place, to be changed."""
        shared = self._of_kind(where, group_names)
        if shared is None:
            return self._written(where, group_names)
        made = replace(duplicate(shared), weights=self._weights(shared, where))
        for node, args in self._slices(made, where).items():
            node.args = args
        if is_checked() and not alike(made, self._written(where, group_names)):
            raise IllegalProgramError(f"the rank at {where} has other code than the first of its kind")
        return made

    def all(self, places: Sequence[Coordinates], group_names: Mapping[str, str]) -> list[Program]:
        """The programs at these places, to be read: ranks that run the same code share a graph."""
        known: dict[Any, Program] = {}
        found = []
        for where in places:
            shared = self._of_kind(where, group_names)
            if shared is None:
                found.append(self._written(where, group_names))
                continue
            key = (self.compiled.kind(where), *(args[1:] for args in self._slices(shared, where).values()))
            if key not in known:
                known[key] = self.at(where, group_names)
            found.append(replace(known[key], weights=self._weights(shared, where)))
        return found

    def _of_kind(self, where: Coordinates, group_names: Mapping[str, str]) -> Program | None:
        """The program of the first rank of a kind, to be copied; None where others have other code."""
        kind = self.compiled.kind(where)
        names, shared = self._known.get(kind, ({}, None))
        if kind not in self._known or (shared is not None and names != group_names):
            first = self.compiled.finished(kind, keep=True)
            if not first.is_of_rank:
                own = self.compiled.given_up(kind)
                shared = lean(first, self.schedule, group_names, self.options, copy=own)
            self._known[kind] = dict(group_names), shared
        return shared

    def _written(self, where: Coordinates, group_names: Mapping[str, str]) -> Program:
        return lean(self.compiled.finished(where), self.schedule, group_names, self.options)

    def _slices(self, code: Program, where: Coordinates) -> dict[fx.Node, tuple[Any, ...]]:
        """The slices that take a piece of what is there whole, with their arguments on the rank at a place."""
        coordinates = dict(zip(self.compiled.mesh.names, where, strict=True))
        found: dict[fx.Node, tuple[Any, ...]] = {}
        for node in code.graph.nodes:
            if node.target is torch.ops.aten.slice.Tensor and RANGE in node.meta:
                axis, cut, number = node.meta[RANGE]
                ranges = cut.intervals(coordinates[axis]) or [(0, 0)]
                found[node] = (*node.args[:2], *ranges[number])
        return found

    def _weights(self, code: Program, where: Coordinates) -> dict[str, Weight]:
        """What the rank at a place holds, for the code of its kind."""
        coordinates = dict(zip(self.compiled.mesh.names, where, strict=True))
        names = {item.target: item.name for item in code.inputs if item.is_state}
        found: dict[str, Weight] = {}
        for target, weight in code.weights.items():
            if isinstance(weight, RankConstant):
                found[target] = weight.of_rank(coordinates[weight.axis])
            else:
                found[target] = self.compiled.program.weights[target]
            for layout, coordinate in zip(self.compiled.layouts(names[target], where), where, strict=True):
                found[target] = found[target].with_cut(layout, coordinate)
        return found
