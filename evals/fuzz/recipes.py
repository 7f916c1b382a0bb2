"""A random program as data: it prints as Python, runs again from its text, and can be made shorter."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from evals.fuzz.operations import OPERATIONS, WEIGHTS


@dataclass(frozen=True)
class Step:
    """One operation: its name in `OPERATIONS`, the values it reads by number, its other arguments."""

    name: str
    reads: tuple[int, ...]
    args: tuple[Any, ...] = ()

    def __str__(self):
        return f"{self.name}({', '.join([f'v{i}' for i in self.reads] + [repr(a) for a in self.args])})"


@dataclass(frozen=True)
class Recipe:
    """A program: the shapes of its inputs, which are the first values; its steps; the values it returns."""

    seed: int
    inputs: tuple[tuple[int, ...], ...]
    steps: tuple[Step, ...]
    outputs: tuple[int, ...]

    def __str__(self):
        lines = [f"v{i} = input{shape}" for i, shape in enumerate(self.inputs)]
        lines += [f"v{i} = {step}" for i, step in enumerate(self.steps, len(self.inputs))]
        return "\n".join([*lines, f"return {', '.join(f'v{i}' for i in self.outputs)}"])


class Drawn(nn.Module):
    """The model of a recipe, in float64. Weights: ``layers.N`` for the N-th step's, drawn from the seed."""

    def __init__(self, recipe):
        super().__init__()
        self.recipe = recipe
        self.layers = nn.ModuleDict()
        with torch.random.fork_rng():
            torch.manual_seed(recipe.seed)
            for number, step in enumerate(recipe.steps):
                made = WEIGHTS[step.name](*step.args) if step.name in WEIGHTS else None
                if made is not None:
                    self.layers[str(number)] = made
            self.example = tuple(torch.randn(shape, dtype=torch.float64) for shape in recipe.inputs)
        self.double().eval()

    def forward(self, *inputs):
        values = list(inputs)
        for number, step in enumerate(self.recipe.steps):
            operands = [values[i] for i in step.reads]
            layer = dict(self.layers).get(str(number))
            values.append(OPERATIONS[step.name](layer, *operands, *step.args))
        return tuple(values[i] for i in self.recipe.outputs)


def unread(num_inputs: int, steps: Sequence[Step]) -> tuple[int, ...]:
    """The values of steps that no step reads, by number."""
    read = {i for step in steps for i in step.reads}
    return tuple(i for i in range(num_inputs, num_inputs + len(steps)) if i not in read)


def without(recipe: Recipe, number: int) -> Recipe | None:
    """The recipe without a step that nothing reads; None where something does."""
    gone = len(recipe.inputs) + number
    if any(gone in step.reads for step in recipe.steps):
        return None
    steps = [
        replace(step, reads=tuple(i - (i > gone) for i in step.reads))
        for i, step in enumerate(recipe.steps)
        if i != number
    ]
    return replace(recipe, steps=tuple(steps), outputs=unread(len(recipe.inputs), steps))
