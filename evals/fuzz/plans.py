"""Random plans for models of the kinds people shard: globs, styles, torch's classes, layouts, and slips of the pen."""

import inspect
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from evals.fuzz.asked import Asked, TorchStyle, draw_mesh, draw_some
from evals.fuzz.judge import Verdict, judge
from evals.fuzz.layouts import draw_layout
from evals.fuzz.models import MODELS, Example, make
from evals.fuzz.shorten import entry_cuts, shorten
from shardwright.plan.styles import STYLE_NAMES


@dataclass(frozen=True)
class PlanCase:
    """A model by name and how it is sharded."""

    model: str
    asked: Asked

    def verdict(self) -> Verdict:
        """Of both judges."""
        return judge(*make(self.model), self.asked)


def draw_plan(seed: int) -> PlanCase:
    """A model, a mesh, mostly of one axis, and a plan for each axis."""
    dice = random.Random(f"plan {seed}")
    name = dice.choice(sorted(MODELS))
    model, example = make(name)
    mesh = draw_mesh(dice, 2 if dice.random() < 0.15 else 1)
    plan = {axis: "auto" if dice.random() < 0.1 else _entries(dice, model, ranks) for axis, ranks in mesh.items()}
    return PlanCase(name, Asked(mesh, plan, *_boundaries(dice, model, example, mesh)))


def _boundaries(dice: random.Random, model: nn.Module, example: Example, mesh: dict[str, int]) -> Any:
    """Layouts of some inputs and of some outputs, by axis."""
    names = list(inspect.signature(model.forward).parameters)
    given = [tuple(x.shape) for x in example]
    returned = model(*example)
    shapes = [tuple(out.shape) for out in (returned if isinstance(returned, tuple) else (returned,))]
    inputs = {axis: {names[i]: one for i, one in draw_some(dice, given)} for axis in mesh}
    outputs = {axis: dict(draw_some(dice, shapes)) for axis in mesh}
    return inputs, outputs


def _entries(dice: random.Random, model: nn.Module, num_ranks: int) -> dict[str, Any]:
    """Styles of some layers, layouts of some tensors; mostly such as can be, and one entry for each."""
    found = {}
    how_many = dice.choice((0.2, 0.4, 0.7))
    for name, module in model.named_modules():
        tensors = {key: tensor for key, tensor in module.named_parameters(recurse=False) if tensor.ndim}
        if not tensors or dice.random() > how_many:
            continue
        key = _key(dice, name) if name else ""
        if isinstance(module, (nn.Linear, nn.Embedding)) and dice.random() < 0.7:
            found[key] = _style(dice, tuple(module.weight.shape), num_ranks)
        elif name and dice.random() < 0.1:
            found[key] = _any_style(dice)
        else:
            tensor = dice.choice(sorted(tensors))
            shape = tuple(tensors[tensor].shape)
            if max(shape) >= num_ranks or dice.random() < 0.05:
                found[f"{key}.{tensor}".lstrip(".")] = draw_layout(dice, shape, num_ranks)
    return found


def _key(dice: random.Random, name: str) -> str:
    """The name, now and then with globs, and rarely misspelt."""
    tokens = ["*" if token.isdigit() and dice.random() < 0.5 else token for token in name.split(".")]
    if dice.random() < 0.05:
        tokens = ["**", tokens[-1]]
    if dice.random() < 0.03:
        tokens[-1] = tokens[-1][:1] + "*"
    if dice.random() < 0.01:
        tokens[-1] = tokens[-1][:-1]
    return ".".join(tokens)


def _style(dice: random.Random, weight: tuple[int, ...], num_ranks: int) -> Any:
    """What Megatron would write of the styles that this weight can have; now and then any."""
    if dice.random() < 0.05:
        return _any_style(dice)
    rows, columns = weight
    named = {"colwise": rows, "rowwise": columns, "colwise_rep": rows}
    classes = {"ColwiseParallel": rows, "RowwiseParallel": columns}
    fits = [name for name, size in named.items() if size >= num_ranks]
    fits += [TorchStyle(name) for name, size in classes.items() if size >= num_ranks]
    fits += [
        TorchStyle(name, (("input_layouts", dice.choice(("R", "S0", "S-1"))), ("output_layouts", "R")))
        for name, size in classes.items()
        if size >= num_ranks
    ]
    return dice.choice([*fits, "replicate"])


def _any_style(dice: random.Random) -> Any:
    kind = dice.random()
    if kind < 0.4:
        return dice.choice(STYLE_NAMES)
    if kind < 0.7:
        return TorchStyle("placement", (("layout", dice.choice(("R", "S0", "S1", "S-1", "P", "S7"))),))
    if kind < 0.8:
        return TorchStyle("SequenceParallel")
    layouts = [(key, dice.choice(("R", "S0", "S1", "S-1"))) for key in ("input_layouts", "output_layouts")]
    return TorchStyle(dice.choice(("ColwiseParallel", "RowwiseParallel")), tuple(layouts))


def shortened(case: PlanCase, fails: Callable[[PlanCase], bool]) -> PlanCase:
    """A plan of fewer entries that fails still."""
    return shorten(case, entry_cuts(case.asked), fails)


def text_of(case: PlanCase) -> str:
    """Python that judges the case again."""
    return f"""from evals.fuzz.asked import Asked, TorchStyle
from evals.fuzz.plans import PlanCase
from shardwright import Blocks, Replicate, Shard

asked = {case.asked!r}
print(PlanCase({case.model!r}, asked).verdict())
"""
