"""Recurrent layers over sequences, as an assignment leaves them: which hold whole weights, and the warning about it."""

from collections.abc import Sequence
from dataclasses import replace

from torch import fx

from shardwright.assign.assignment import Assignment, Fallback
from shardwright.assign.steps import StepKind
from shardwright.layout.layout import REPLICATE
from shardwright.rules.operators.unrolled import MAX_STEPS, can_write_out, is_sequence


def whole_sequences(found: Assignment) -> list[fx.Node]:
    """The recurrent layers that hold whole weights: nothing else than writing them out cuts those."""
    items, state = found.steps.items, {item.name for item in found.program.inputs if item.is_state}
    return [
        step.node
        for step in items
        if step.kind is StepKind.CALL
        and is_sequence(step.node)
        and any(
            items[maker].node.name in state and found.layouts.get(items[maker].node.name) == REPLICATE
            for maker, _ in step.reads
        )
    ]


def with_long_sequences(found: Assignment, nodes: Sequence[fx.Node]) -> Assignment:
    """The assignment with a fallback for each recurrent layer that is too long to be written out."""
    known = {fallback.node for fallback in found.fallbacks}
    reason = f"its weights are whole: only up to {MAX_STEPS} steps, a number known at export, are written out to be cut"
    added = [Fallback.of(node, reason) for node in nodes if node.name not in known and not can_write_out(node)]
    return replace(found, fallbacks=[*found.fallbacks, *added]) if added else found
