"""The graph as the assignment sees it: a list of steps, each with the values it reads and the results it makes.

A *step* is a placeholder, an operator call, one output, or a *constraint* (an identity that holds one layout, put
where the plan pins what enters or leaves a module). A *value* is (step, result number); ``getitem`` only names one.
Steps without tensors (sizes and their arithmetic, asserts on them) are kept in order but choose nothing.
"""

import itertools
import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import torch
from torch import fx

from shardwright.errors import Finding
from shardwright.layout.layout import REPLICATE, Layout
from shardwright.plan.resolve import Boundary
from shardwright.program.nodes import BACKWARD_STACK, module_stack
from shardwright.program.program import Program
from shardwright.rules.call import bind_arguments, leaves, operand_nodes, tensors_among
from shardwright.rules.metadata import metadata_arguments

Value = tuple[int, int]
"""(step number, result number)."""


class StepKind(StrEnum):
    """What a step is."""

    INPUT = "input"
    """A placeholder, or a tensor that the graph holds."""
    CALL = "call"
    """An operator on tensors. One whose result is not a tensor (``item``) reads data, and all of it."""
    OUTPUT = "output"
    CONSTRAINT = "constraint"
    """An identity that holds one layout."""
    SIZES = "sizes"
    """Reads sizes of tensors, not their data."""
    PLAIN = "plain"
    """Neither takes nor gives tensors."""


@dataclass(slots=True)
class Step:
    """One step of a program."""

    index: int
    kind: StepKind
    node: fx.Node
    reads: tuple[Value, ...] = ()
    vals: tuple[Any, ...] = ()
    """The original's fake results, one each (None where a result is not a tensor)."""
    sources: Sequence[fx.Node] = ()
    """The nodes of ``reads``, as the graph has them."""
    unread: Mapping[int, str] = field(default_factory=dict)
    """Operands whose values are not read, in whatever layout they lie, and what is (see `shardwright.rules.metadata`).
    """
    output: int = -1
    """For an output: its position."""
    layout: Layout | None = None
    """For a constraint: the layout it holds."""
    key: str = ""
    """For a constraint: the plan key that asked for it."""
    members: int = 1
    """How many steps of the deep program it is, where the program is shallow."""

    def reads_values(self, operand: int) -> bool:
        """Whether it reads an operand's values, and not only its sizes or its dtype."""
        return self.kind is not StepKind.SIZES and operand not in self.unread


@dataclass(slots=True)
class Steps:
    """All steps in program order, and which value each tensor node names."""

    items: list[Step]
    value_of: dict[fx.Node, Value] = field(default_factory=dict)
    _consumers: dict[Value, list[tuple[int, int]]] = field(default_factory=dict, repr=False, compare=False)

    def device(self) -> torch.device:
        """The device of the first tensor; the CPU when there is none."""
        found = next((v.device for step in self.items for v in step.vals if v is not None), None)
        return found or torch.device("cpu")


def unread_operands(node: fx.Node) -> dict[int, str]:
    """The operands whose values a node does not read, by their number, and what it reads of each."""
    asked = metadata_arguments(node.target) if node.op == "call_function" else {}
    if not asked:
        return {}
    bound = bind_arguments(node.target, node.args, node.kwargs)
    owners = [name for name, value in bound.items() for _ in tensors_among(value)]
    return {number: asked[name] for number, name in enumerate(owners) if name in asked}


def build_steps(program: Program, boundaries: Sequence[Boundary] = ()) -> tuple[Steps, list[Finding]]:
    """The steps of a program, constraints in place; findings for boundaries that match nothing."""
    return program.once(("steps", *boundaries), lambda: _build_steps(program, boundaries))


def _build_steps(program: Program, boundaries: Sequence[Boundary]) -> tuple[Steps, list[Finding]]:
    steps = Steps([])
    constraints = _Constraints(steps, boundaries, program)
    lists: dict[fx.Node, Any] = {}
    for node in program.graph.nodes:
        if node.op == "output":
            break
        if node.target is operator.getitem and node.args[0] in lists:
            found = lists[node.args[0]][int(node.args[1])]
            if isinstance(found, tuple):
                steps.value_of[node] = constraints.leaving(node, found)
            else:
                lists[node] = found
            continue
        val, unread = node.meta.get("val"), unread_operands(node)
        is_one = isinstance(val, torch.Tensor)
        vals = (val,) if is_one else tuple(leaves(val))
        if not (is_one or any(isinstance(v, torch.Tensor) for v in vals)):
            sources = operand_nodes(node) if node.op == "call_function" else []
            reads = tuple(constraints.entering(node, source) for source in sources)
            # How a tensor lies in memory only the whole knows.
            kind = StepKind.PLAIN if not reads else StepKind.SIZES if len(unread) == len(reads) else StepKind.CALL
            members = program.members_of(node)
            steps.items.append(Step(len(steps.items), kind, node, reads, sources=sources, members=members))
            continue
        sources = operand_nodes(node)
        reads = tuple([constraints.entering(node, source) for source in sources])
        kind = StepKind.CALL if node.op == "call_function" else StepKind.INPUT
        index = len(steps.items)
        results = vals if is_one else tuple(v if isinstance(v, torch.Tensor) else None for v in vals)
        members = program.members_of(node)
        steps.items.append(Step(index, kind, node, reads, results, sources, unread, members=members))
        if isinstance(val, (list, tuple)):
            lists[node] = _numbered(val, index, itertools.count())
        else:
            steps.value_of[node] = constraints.leaving(node, (index, 0))
    output = program.graph.output_node()
    for position, value in enumerate(program.output_values()):
        if isinstance(value, fx.Node) and value in steps.value_of:
            read = steps.value_of[value]
            members = steps.items[read[0]].members
            step = Step(len(steps.items), StepKind.OUTPUT, output, (read,), output=position, members=members)
            steps.items.append(step)
    return steps, constraints.findings()


def _numbered(val: Any, step: int, numbers: Iterator[int]) -> Any:
    """The values of a step in the structure of its result: lists of (step, result number)."""
    if isinstance(val, (list, tuple)):
        return [_numbered(item, step, numbers) for item in val]
    return step, next(numbers)


class _Constraints:
    """Puts constraint steps at module boundaries while the steps are built."""

    def __init__(self, steps: Steps, boundaries: Sequence[Boundary], program: Program) -> None:
        self.steps, self.members_of = steps, program.members_of
        self.state = frozenset(item.name for item in program.inputs if item.is_state)
        self.by_module: dict[str, list[Boundary]] = {}
        for boundary in boundaries:
            self.by_module.setdefault(boundary.module, []).append(boundary)
        self.made: dict[tuple[Value, str, str], Value] = {}
        self.inside: dict[str, dict[fx.Node, None]] = {}
        self.left: dict[str, int] = {}
        self.matched: set[Boundary] = set()
        self.pinned: dict[tuple[Any, ...], list[str]] = {}

    def entering(self, user: fx.Node, source: fx.Node) -> Value:
        """The value ``user`` reads for ``source``: constrained where the edge goes into a pinned module."""
        value = self.steps.value_of[source]
        if not self.by_module or source.name in self.state:
            return value
        for path in self.paths(user):
            wanted = [b for b in self.by_module[path] if b.side == "input"]
            if not wanted or path in self.paths(source):
                continue
            seen = self.inside.setdefault(path, {})
            seen.setdefault(source, None)
            position = list(seen).index(source)
            for boundary in wanted:
                if boundary.position in (None, position):
                    value = self._constrain(value, boundary, user)
        return value

    def leaving(self, node: fx.Node, value: Value) -> Value:
        """The value that ``node`` names: constrained where it is what a pinned module returns."""
        if not self.by_module:
            return value
        for path in reversed(self.paths(node)):
            wanted = [b for b in self.by_module[path] if b.side == "output"]
            users = [user for user in node.users if user.target is not operator.getitem]
            is_kept = any(BACKWARD_STACK in user.meta for user in users)
            is_returned = any(BACKWARD_STACK not in user.meta and path not in self.paths(user) for user in users)
            if not wanted or not (is_returned or is_kept):
                continue
            if is_returned:
                self.left[path] = self.left.get(path, -1) + 1
            for boundary in wanted:
                if is_returned:
                    is_meant = boundary.position in (None, self.left[path])
                else:
                    # Kept for the backward pass, which runs in no module: it need not be whole where what is returned
                    # is, but where that is cut, people want to keep less.
                    is_meant = boundary.position is None and boundary.layout != REPLICATE
                if is_meant:
                    value = self._constrain(value, boundary, node)
        return value

    def paths(self, node: fx.Node) -> list[str]:
        """The modules with pinned boundaries that a node ran in, outermost first."""
        stack = tuple((node.meta.get("nn_module_stack") or {}).values())
        if stack not in self.pinned:
            self.pinned[stack] = [path for path in _paths(node) if path in self.by_module]
        return self.pinned[stack]

    def _constrain(self, value: Value, boundary: Boundary, node: fx.Node) -> Value:
        self.matched.add(boundary)
        place = (value, boundary.module, boundary.side)
        if place not in self.made:
            index = len(self.steps.items)
            vals = (self.steps.items[value[0]].vals[value[1]],)
            step = Step(index, StepKind.CONSTRAINT, node, (value,), vals, layout=boundary.layout, key=boundary.key)
            step.members = self.members_of(node)
            self.steps.items.append(step)
            self.made[place] = (index, 0)
        return self.made[place]

    def findings(self) -> list[Finding]:
        return [
            Finding(
                f"plan entry {b.key!r} pins {b.side} {b.position or 0} of module {b.module!r}, "
                f"but the exported graph has no such tensor there",
                remedies=("export the model so that this module runs, or remove the layout from the entry",),
            )
            for wanted in self.by_module.values()
            for b in wanted
            if b not in self.matched
        ]


def _paths(node: fx.Node) -> list[str]:
    return list(dict.fromkeys(path for path, _ in module_stack(node)))


def consumers(steps: Steps) -> Mapping[Value, list[tuple[int, int]]]:
    """For every value that is read, the (step, operand number) pairs that read it; worked out once."""
    found = steps._consumers
    if not found:
        for step in steps.items:
            for position, value in enumerate(step.reads):
                found.setdefault(value, []).append((step.index, position))
    return found
