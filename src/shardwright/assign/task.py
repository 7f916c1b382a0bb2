"""What is to be assigned: a program with its steps folded, its pins, one mesh axis, and how a choice is priced."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from shardwright.assign.agreed import Agreed
from shardwright.assign.cost import CostModel
from shardwright.assign.folding import Folded, Site, find_units, fold_steps
from shardwright.assign.steps import Step, StepKind, Steps, build_steps
from shardwright.errors import PlanError, raise_findings
from shardwright.plan.pins import Pins
from shardwright.program.program import Input, Program
from shardwright.rules.call import num_bytes, num_elements


@dataclass(frozen=True, slots=True)
class Task:
    """One program on one axis of ``num_ranks`` ranks, as every stage of the assignment reads it.

    ``inputs``: the program's, by placeholder; ``weights``: the placeholders that are weights, here or of the call that
    runs this program as a subgraph. ``auto``: parameters are free. ``agreed``: what other ranks leave open.
    """

    program: Program
    pins: Pins
    num_ranks: int
    steps: Steps
    folded: Folded
    inputs: Mapping[str, Input]
    weights: frozenset[str]
    auto: bool
    cost: CostModel
    agreed: Agreed

    def is_state(self, step: Step) -> bool:
        """Whether a step is the placeholder of a parameter, buffer or constant."""
        item = self.inputs.get(step.node.name) if step.kind is StepKind.INPUT else None
        return item is not None and item.is_state

    def is_weight(self, site: Site) -> bool:
        """Whether a site is the placeholder of a weight."""
        return site.step.kind is StepKind.INPUT and site.step.node.name in self.weights

    def num_elements(self, value: torch.Tensor) -> int:
        """The elements of a whole value; an unknown size counts as in the example."""
        return num_elements(value, self.program.fake_mode)

    def num_bytes(self, value: torch.Tensor) -> int:
        """The bytes of a whole value."""
        return num_bytes(value, self.program.fake_mode)

    def moved_bytes(self, step: Step) -> list[int]:
        """The bytes of a step's whole operands, then results; 0 for what is not read or no tensor."""
        values = [
            None if number in step.unread else self.steps.items[source].vals[result]
            for number, (source, result) in enumerate(step.reads)
        ]
        return [0 if value is None else self.num_bytes(value) for value in (*values, *step.vals)]


def make_task(
    program: Program, pins: Pins, num_ranks: int, *, auto: bool, cost: CostModel | None, agreed: Agreed
) -> Task:
    """Build and fold the steps of a program; raises `PlanError` for boundaries that match nothing."""
    steps, findings = build_steps(program, pins.boundaries)
    raise_findings(PlanError, findings, summary="the plan does not fit the program")
    units = program.once(("units", *pins.boundaries), lambda: find_units(steps, program))
    return Task(
        program=program,
        pins=pins,
        num_ranks=num_ranks,
        steps=steps,
        folded=fold_steps(steps, units, {**pins.state, **pins.inputs, **agreed.layouts()}),
        inputs={item.name: item for item in program.inputs},
        weights=pins.weights | {item.name for item in program.inputs if item.is_state},
        auto=auto,
        cost=cost or CostModel(),
        agreed=agreed,
    )
