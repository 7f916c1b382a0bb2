"""How far rounding alone moves what a program computes: what `verify` excuses where the exact answer is 0 or nearly so.

The group norm of equal values is 0, and what both programs compute is noise: its size says nothing about the program,
and neither does an error relative to it. So the original runs again with every value it computes changed by a little
noise, drawn from a fixed seed. With ``wanted`` an operator's result, and ``moved(δ)`` the same after relative noise δ:

    floor = min(MARGIN · |moved(k·eps) - wanted| / k,  tolerance · |moved(1 / √n)|)

The first is what rounding does: noise of k ulps, taken back to one (a finite difference, k = 1/√eps being its usual
step). Where noise turns a comparison over, results move at once however little it is; hence the second, for n nodes:
what the tolerance allows values of the size that the operator gives when its operands are not such special ones.

A program that quantises what it computes has no such finite difference: a value half-way between two steps becomes
either, however little it moves, and a step is more than the tolerance. There the floor is at least what a few ulps of
noise do at once, the most of some draws, up to a step of eight bits:

    floor = max(floor, min(|moved(16·eps) - wanted|, |moved(1 / √n)| / 128))
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import fx

from shardwright.program.nodes import val_of
from shardwright.program.simulate import Watch

MARGIN = 16.0
"""How much more than the estimate rounding may do: sums in another order, and few samples of the noise."""

FLIPS = 16.0
"""Ulps of noise that turn over as much as sums in another order do, several times over."""

DRAWS = 3
"""How often that noise is drawn: few values lie so near the middle of two steps that it matters."""

STEP = 1 / 128
"""The most that is excused, in parts of a value: a step of eight bits."""

Runner = Callable[[Watch], object]
"""Runs the original; what the watch returns takes the place of each node's value."""


def rounding_floors(run: Runner, nodes: Iterable[fx.Node], tolerance: float) -> dict[str, float]:
    """The absolute error of each node's value that rounding explains; without an entry: none, or not known."""
    names = {node.name for node in nodes}
    wanted, eps, num_nodes, quantizes = _values(run, names)
    ulps = 1 / math.sqrt(eps)
    near = _moved(run, names, lambda dtype: ulps * torch.finfo(dtype).eps)
    far = _moved(run, names, lambda dtype: 1 / math.sqrt(num_nodes))
    draws = range(1, DRAWS + 1) if quantizes else ()
    turned = [_moved(run, names, lambda dtype: FLIPS * torch.finfo(dtype).eps, seed) for seed in draws]
    found = {}
    for name, value in wanted.items():
        if name in near and name in far and near[name].shape == far[name].shape == value.shape:
            rounding = MARGIN * _largest(near[name] - value) / ulps
            found[name] = min(rounding, tolerance * _largest(far[name]))
            flips = max((_largest(one[name] - value) for one in turned if name in one), default=0.0)
            found[name] = max(found[name], min(flips, STEP * _largest(far[name])))
    return found


def _values(run: Runner, names: set[str]) -> tuple[dict[str, torch.Tensor], float, int, bool]:
    """The values of the named nodes, the coarsest precision among all values that are computed with, the number of
    nodes, and whether any of them quantises.
    """
    kept: dict[str, torch.Tensor] = {}
    precisions = [torch.finfo(torch.float64).eps]
    count = 0
    quantizes = False

    def keep(_: int, node: fx.Node, value: Any) -> Any:
        nonlocal count, quantizes
        count += 1
        quantizes = quantizes or _quantizes(node, value)
        precisions.extend(torch.finfo(one.dtype).eps for one in _floats(value))
        if node.name in names and _floats(value):
            kept[node.name] = _wide(value)
        return value

    run(keep)
    return kept, max(precisions), count, quantizes


def _quantizes(node: fx.Node, value: Any) -> bool:
    """Whether a node rounds what it is given to steps: to whole numbers, or to floats of a byte."""
    if node.op != "call_function" or not isinstance(value, torch.Tensor):
        return False
    if node.target == torch.ops.aten.round.default:
        return True
    to_steps = value.itemsize == 1 and value.dtype != torch.bool
    return to_steps and any(_floats(val_of(source)) for source in node.all_input_nodes)


def _moved(
    run: Runner, names: set[str], noise: Callable[[torch.dtype], float], seed: int = 0
) -> dict[str, torch.Tensor]:
    """The values of the named nodes when every value has relative noise; none where the program cannot take that."""
    kept: dict[str, torch.Tensor] = {}
    generator = torch.Generator().manual_seed(seed)

    def disturb(_: int, node: fx.Node, value: Any) -> Any:
        changed = _disturbed(value, noise, generator)
        if node.name in names and _floats(changed):
            kept[node.name] = _wide(changed)
        return changed

    try:
        run(disturb)
    except (RuntimeError, ValueError, IndexError):
        # An index made of a number that is now past the end, a size that no longer adds up: nothing is known then.
        return {}
    return kept


def _disturbed(value: Any, noise: Callable[[torch.dtype], float], generator: torch.Generator) -> Any:
    if isinstance(value, (list, tuple)):
        return [_disturbed(one, noise, generator) for one in value]
    if not isinstance(value, torch.Tensor) or not _floats(value):
        return value
    drawn = torch.rand(value.shape, dtype=torch.float64, generator=generator).to(value.device) * 2 - 1
    changed = _wide(value) * (1 + noise(value.dtype) * drawn)
    # The least number of a dtype stands for minus infinity in masks, and must not become it.
    fits = _wide(changed.to(value.dtype)).isfinite()
    # Strides as they were: views may rest on them.
    return torch.empty_like(value).copy_(torch.where(fits, changed, _wide(value)))


def _floats(value: Any) -> list[torch.Tensor]:
    found = value if isinstance(value, (list, tuple)) else [value]
    tensors = [one for one in found if isinstance(one, torch.Tensor) and one.layout == torch.strided]
    # Floats of a byte are quantised values: what is rounded is what they are made of.
    return [one for one in tensors if (one.is_floating_point() and one.itemsize > 1) or one.is_complex()]


def _wide(value: torch.Tensor) -> torch.Tensor:
    return value.detach().to(torch.complex128 if value.is_complex() else torch.float64)


def _largest(value: torch.Tensor) -> float:
    """The largest finite magnitude."""
    finite = value[value.isfinite()].abs()
    return finite.max().item() if finite.numel() else 0.0
