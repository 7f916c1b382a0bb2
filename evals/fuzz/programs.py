"""Random programs under random plans, and failing ones made shorter."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from evals.fuzz.asked import Asked, draw_asked
from evals.fuzz.drawing import draw_program
from evals.fuzz.judge import Verdict, judge
from evals.fuzz.recipes import Drawn, Recipe, without
from evals.fuzz.shorten import entry_cuts, shorten


@dataclass(frozen=True)
class Case:
    """A program and how it is sharded."""

    recipe: Recipe
    asked: Asked

    def verdict(self) -> Verdict:
        """Of both judges."""
        model = Drawn(self.recipe)
        return judge(model, model.example, self.asked)

    def __str__(self):
        return f"{self.recipe}\n{self.asked}"


def draw_case(seed: int, num_axes: int = 1) -> Case:
    """The program and the question of a seed."""
    recipe = draw_program(seed)
    return Case(recipe, draw_asked(seed, Drawn(recipe), num_axes))


def shortened(case: Case, fails: Callable[[Case], bool]) -> Case:
    """A shorter case that fails still."""
    steps = reversed(range(len(case.recipe.steps)))
    return shorten(case, [*(partial(_without_step, number=number) for number in steps), *entry_cuts(case.asked)], fails)


def _without_step(case: Case, number: int) -> Case | None:
    """Without a step that nothing reads; what is asked of others keeps its meaning."""
    recipe = case.recipe
    shorter = without(recipe, number) if number < len(recipe.steps) and len(recipe.steps) > 1 else None
    if shorter is None:
        return None
    gone = len(recipe.inputs) + number
    asked = case.asked
    plan = {axis: held if held == "auto" else _renumbered(held, number) for axis, held in asked.plan.items()}
    old = dict(enumerate(recipe.outputs))
    places = {value: position for position, value in enumerate(shorter.outputs)}
    outputs = {
        axis: {places[old[at] - (old[at] > gone)]: one for at, one in held.items() if old[at] != gone}
        for axis, held in asked.outputs.items()
    }
    return Case(shorter, replace(asked, plan=plan, outputs=outputs))


def _renumbered(pins: dict[str, Any], gone: int) -> dict[str, Any]:
    """Keys ``layers.N…`` once step ``gone`` has left."""
    found = {}
    for key, value in pins.items():
        head, number, *rest = key.split(".")
        if int(number) != gone:
            found[".".join([head, str(int(number) - (int(number) > gone)), *rest])] = value
    return found


def text_of(case: Case) -> str:
    """Python that judges the case again."""
    return f'''"""{case!s}"""

from shardwright import Blocks, Replicate, Shard

from evals.fuzz.asked import Asked
from evals.fuzz.programs import Case
from evals.fuzz.recipes import Recipe, Step

recipe = {case.recipe!r}
asked = {case.asked!r}
print(Case(recipe, asked).verdict())
'''
