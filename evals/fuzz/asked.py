"""How a random program is sharded: a mesh, a plan for each axis, layouts of inputs and outputs."""

import random
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.distributed import tensor
from torch.distributed.tensor import parallel

from evals.fuzz.layouts import draw_layout
from evals.fuzz.recipes import Drawn


@dataclass(frozen=True)
class Asked:
    """Arguments of `shard`, each by axis; inputs by name, outputs by position."""

    mesh: dict[str, int]
    plan: dict[str, Any]
    inputs: dict[str, dict[str, Any]]
    outputs: dict[str, dict[int, Any]]

    @property
    def options(self) -> dict[str, Any]:
        """As `shard` takes them."""
        plan = {
            axis: held if isinstance(held, str) else {key: _made(value) for key, value in held.items()}
            for axis, held in self.plan.items()
        }
        return {"mesh": self.mesh, "plan": plan, "inputs": self.inputs, "outputs": self.outputs}


@dataclass(frozen=True)
class TorchStyle:
    """One of torch's classes in a plan, spelled so that it can be pasted: its arguments are ``"R"``, ``"P"`` or
    ``"S<dim>"``.
    """

    name: str
    arguments: tuple[tuple[str, str], ...] = ()

    def made(self) -> Any:
        """What it spells."""
        if self.name == "placement":
            return _placement(self.arguments[0][1])
        made = getattr(parallel, self.name)
        return made(**{key: _placement(value) for key, value in self.arguments}) if self.arguments else made


def _placement(text: str) -> Any:
    return {"R": tensor.Replicate, "P": tensor.Partial}[text]() if text in "RP" else tensor.Shard(int(text[1:]))


def _made(value: Any) -> Any:
    return value.made() if isinstance(value, TorchStyle) else value


def draw_mesh(dice: random.Random, num_axes: int) -> dict[str, int]:
    """2 to 8 ranks on one axis; 2 or 3 on each of several."""
    sizes = [dice.randint(2, 8)] if num_axes == 1 else [dice.choice((2, 2, 3)) for _ in range(num_axes)]
    return dict(zip("abc", sizes, strict=False))


def draw_asked(seed: int, model: Drawn, num_axes: int = 1) -> Asked:
    """A mesh, and a plan for each axis: none, or pins of some weights, most of which can be cut so."""
    dice = random.Random(f"asked {seed}")
    mesh = draw_mesh(dice, num_axes)
    plan = {axis: "auto" if dice.random() < 0.4 else _pins(dice, model, ranks) for axis, ranks in mesh.items()}
    given = [tuple(x.shape) for x in model.example]
    returned = [tuple(out.shape) for out in model(*model.example)]
    inputs = {axis: {f"inputs_{i}": one for i, one in draw_some(dice, given)} for axis in mesh}
    outputs = {axis: dict(draw_some(dice, returned)) for axis in mesh}
    return Asked(mesh, plan, inputs, outputs)


def draw_some(dice: random.Random, shapes: list[tuple[int, ...]]) -> list[tuple[int, Any]]:
    """Layouts of a few of the tensors, by position."""
    return [(i, draw_layout(dice, shape)) for i, shape in enumerate(shapes) if shape and dice.random() < 0.2]


def _pins(dice: random.Random, model: nn.Module, num_ranks: int) -> dict[str, Any]:
    pins = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and dice.random() < 0.4:
            cut = {"colwise": module.out_features, "rowwise": module.in_features, "replicate": num_ranks}
            pins[name] = dice.choice(
                [style for style, size in cut.items() if size >= num_ranks or dice.random() < 0.02]
            )
            continue
        for own, value in module.named_parameters(recurse=False):
            can_be_cut = value.ndim and (max(value.shape) >= num_ranks or dice.random() < 0.02)
            if can_be_cut and dice.random() < 0.25:
                pins[f"{name}.{own}"] = draw_layout(dice, tuple(value.shape), num_ranks)
    return pins
