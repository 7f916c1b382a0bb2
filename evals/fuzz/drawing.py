"""Random programs and plans: chains of views, slices, joins and reductions between weights, sizes odd and small.

A program is a list of steps with the arguments spelled out, so that a failing one can be printed, run again from its
seed, and made shorter (`shortened`). ``python -m evals.fuzz.drawing 0 300`` runs seeds 0 to 299.
"""

import math
import random
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

import shardwright as sw

F = nn.functional
SIZES = (1, 2, 2, 3, 3, 4, 4, 5, 6, 6, 7, 8, 9, 10, 12)
MOST_ELEMENTS, MOST_DIMS = 3000, 5


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


class Held(nn.Module):
    """A parameter by itself."""

    def __init__(self, shape):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(shape) / 2 + 1)


def _attend(layer, x, heads, kv_heads):
    """Attention of the last dim's heads, key-value heads repeated for their queries."""
    *front, tokens, width = x.shape
    q, k, v = layer.q(x), layer.k(x), layer.v(x)
    q = q.view(*front, tokens, heads, width // heads).transpose(-2, -3)
    k, v = (s.view(*front, tokens, kv_heads, width // heads).transpose(-2, -3) for s in (k, v))
    k, v = (s.repeat_interleave(heads // kv_heads, -3) for s in (k, v))
    mixed = F.scaled_dot_product_attention(q, k, v).transpose(-2, -3)
    return x + layer.o(mixed.reshape(*front, tokens, width))


class Projections(nn.Module):
    """Of attention, with fewer key-value heads than heads."""

    def __init__(self, width, heads, kv_heads):
        super().__init__()
        self.q, self.o = nn.Linear(width, width), nn.Linear(width, width, bias=False)
        self.k, self.v = (nn.Linear(width, width // heads * kv_heads) for _ in range(2))


WEIGHTS: dict[str, Callable[..., nn.Module]] = {
    "linear": lambda before, after, bias: nn.Linear(before, after, bias=bias),
    "plus": Held,
    "times": Held,
    "matmul": Held,
    "joined": lambda shape, dim: Held(shape),
    "layer_norm": nn.LayerNorm,
    "conv": lambda before, after, kernel: nn.Conv1d(before, after, kernel, padding=kernel // 2),
    "attention": Projections,
}

OPERATIONS: dict[str, Callable[..., Any]] = {
    "linear": lambda layer, x, *_: layer(x),
    "plus": lambda layer, x, _: x + layer.weight,
    "times": lambda layer, x, _: x * layer.weight,
    "matmul": lambda layer, x, _: x @ layer.weight / math.sqrt(x.shape[-1]),
    "joined": lambda layer, x, _, dim: torch.cat([x, layer.weight], dim),
    "layer_norm": lambda layer, x, _: layer(x),
    "conv": lambda layer, x, *_: layer(x),
    "attention": lambda layer, x, _, heads, kv_heads: _attend(layer, x, heads, kv_heads),
    "view": lambda _, x, shape: x.contiguous().view(shape),
    "reshape": lambda _, x, shape: x.reshape(shape),
    "flatten": lambda _, x, first, last: x.flatten(first, last),
    "unflatten": lambda _, x, dim, sizes: x.unflatten(dim, sizes),
    "permute": lambda _, x, order: x.permute(order),
    "unsqueeze": lambda _, x, dim: x.unsqueeze(dim),
    "squeeze": lambda _, x, dim: x.squeeze(dim),
    "expand": lambda _, x, shape: x.expand(shape),
    "repeat": lambda _, x, times: x.repeat(times),
    "repeat_interleave": lambda _, x, times, dim: x.repeat_interleave(times, dim),
    "slice": lambda _, x, dim, start, stop, stride: x[(slice(None),) * dim + (slice(start, stop, stride),)],
    "select": lambda _, x, dim, index: x.select(dim, index),
    "chunk": lambda _, x, dim, count, index: x.chunk(count, dim)[index],
    "split": lambda _, x, dim, sizes, index: x.split(sizes, dim)[index],
    "halves": lambda _, x, dim: torch.mul(*x.chunk(2, dim)),
    "unfold": lambda _, x, dim, size, stride: x.unfold(dim, size, stride),
    "pixel_shuffle": lambda _, x, factor: F.pixel_shuffle(x, factor),
    "pixel_unshuffle": lambda _, x, factor: F.pixel_unshuffle(x, factor),
    "roll": lambda _, x, shift, dim: x.roll(shift, dim),
    "flip": lambda _, x, dim: x.flip(dim),
    "pad": lambda _, x, sizes: F.pad(x, sizes),
    "cat": lambda _, *args: torch.cat(args[:-1], args[-1]),
    "stack": lambda _, *args: torch.stack(args[:-1], args[-1]),
    "add": lambda _, x, y: x + y,
    "multiply": lambda _, x, y: x * y,
    "scores": lambda _, x, y: x @ y.transpose(-1, -2) / math.sqrt(x.shape[-1]),
    "tanh": lambda _, x: x.tanh(),
    "gelu": lambda _, x: F.gelu(x),
    "abs": lambda _, x: x.abs(),
    "sum": lambda _, x, dim, keepdim: x.sum(dim, keepdim=keepdim),
    "mean": lambda _, x, dim, keepdim: x.mean(dim, keepdim=keepdim),
    "amax": lambda _, x, dim, keepdim: x.amax(dim, keepdim=keepdim),
    "softmax": lambda _, x, dim: x.softmax(dim),
    "cumsum": lambda _, x, dim: x.cumsum(dim) / x.shape[dim],
    "tril": lambda _, x: x.tril(),
    "index_select": lambda _, x, dim, indices: x.index_select(dim, torch.tensor(indices)),
    "take": lambda _, x, indices: x[..., torch.tensor(indices)],
}


def _splits(size: int) -> list[tuple[int, int]]:
    return [(a, size // a) for a in range(2, size) if size % a == 0]


class _Draw:
    """One program being drawn: the values so far, by number, and their shapes."""

    def __init__(self, dice: random.Random):
        self.dice, self.shapes, self.steps = dice, [], []

    def shape(self) -> tuple[int, ...]:
        return tuple(self.dice.choice(SIZES) for _ in range(self.dice.randint(2, 4)))

    def try_one(self) -> bool:
        """Add a step of a kind drawn, to a value drawn, the latest ones first; False where it does not apply."""
        name = self.dice.choice(KINDS)
        value = max(self.dice.randrange(len(self.shapes)) for _ in range(3))
        drawn = getattr(self, f"_{name}")(value, self.shapes[value])
        if drawn is None:
            return False
        step = Step(name, *drawn) if not isinstance(drawn, Step) else drawn
        with torch.device("meta"), torch.no_grad():
            layer = WEIGHTS[step.name](*step.args) if step.name in WEIGHTS else None
            if step.name in ("index_select", "take"):
                shape = self._indexed(step)
            else:
                operands = [torch.empty(self.shapes[i]) for i in step.reads]
                shape = tuple(OPERATIONS[step.name](layer, *operands, *step.args).shape)
        if not 0 < math.prod(shape) <= MOST_ELEMENTS or len(shape) > MOST_DIMS:
            return False
        self.steps.append(step)
        self.shapes.append(shape)
        return True

    def _indexed(self, step):
        shape = list(self.shapes[step.reads[0]])
        shape[step.args[0] if step.name == "index_select" else -1] = len(step.args[-1])
        return tuple(shape)

    def _dim(self, shape):
        return self.dice.randrange(len(shape)) if shape else None

    def _linear(self, v, shape):
        return ((v,), (shape[-1], self.dice.choice(SIZES), self.dice.random() < 0.5)) if shape else None

    def _broadcast(self, shape):
        kept = [size if self.dice.random() < 0.6 else 1 for size in shape]
        return tuple(kept[self.dice.randint(0, len(kept)) :])

    def _plus(self, v, shape):
        return (v,), (self._broadcast(shape),)

    _times = _plus

    def _matmul(self, v, shape):
        return ((v,), ((shape[-1], self.dice.choice(SIZES)),)) if len(shape) > 1 else None

    def _joined(self, v, shape):
        if (dim := self._dim(shape)) is None:
            return None
        return (v,), ((*shape[:dim], self.dice.choice(SIZES), *shape[dim + 1 :]), dim)

    def _layer_norm(self, v, shape):
        return ((v,), (shape[-1],)) if shape and shape[-1] > 1 else None

    def _conv(self, v, shape):
        return ((v,), (shape[1], self.dice.choice(SIZES), self.dice.choice((1, 3)))) if len(shape) == 3 else None

    def _attention(self, v, shape):
        pairs = _splits(shape[-1]) if 2 < len(shape) < 5 else []
        if not pairs:
            return None
        heads, _ = self.dice.choice(pairs)
        return (v,), (shape[-1], heads, self.dice.choice([n for n in range(1, heads + 1) if heads % n == 0]))

    def _view(self, v, shape):
        total, sizes = math.prod(shape), []
        while total > 1 and len(sizes) < 4:
            sizes.append(self.dice.choice([n for n in range(2, total + 1) if total % n == 0]))
            total //= sizes[-1]
        sizes = [*sizes, total] if total > 1 else sizes
        if sizes and self.dice.random() < 0.4:
            sizes[self.dice.randrange(len(sizes))] = -1
        return (v,), (tuple(sizes),)

    _reshape = _view

    def _flatten(self, v, shape):
        if len(shape) < 2:
            return None
        first, last = sorted(self.dice.sample(range(len(shape)), 2))
        return (v,), (first, last)

    def _unflatten(self, v, shape):
        dims = [dim for dim, size in enumerate(shape) if _splits(size)]
        if not dims:
            return None
        dim = self.dice.choice(dims)
        sizes = self.dice.choice(_splits(shape[dim]))
        return (v,), (dim, self.dice.choice((sizes, (sizes[0], -1), (-1, sizes[1]))))

    def _permute(self, v, shape):
        return (v,), (tuple(self.dice.sample(range(len(shape)), len(shape))),)

    def _unsqueeze(self, v, shape):
        return (v,), (self.dice.randint(0, len(shape)),)

    def _squeeze(self, v, shape):
        ones = [dim for dim, size in enumerate(shape) if size == 1]
        return ((v,), (self.dice.choice(ones),)) if ones else None

    def _expand(self, v, shape):
        front = (self.dice.choice(SIZES),) if self.dice.random() < 0.5 else ()
        return (v,), ((*front, *(self.dice.choice(SIZES) if size == 1 else size for size in shape)),)

    def _repeat(self, v, shape):
        return ((v,), (tuple(self.dice.choice((1, 1, 2, 3)) for _ in shape),)) if shape else None

    def _repeat_interleave(self, v, shape):
        return ((v,), (self.dice.choice((2, 3)), self._dim(shape))) if shape else None

    def _slice(self, v, shape):
        dims = [dim for dim, size in enumerate(shape) if size > 1]
        if not dims:
            return None
        dim = self.dice.choice(dims)
        start = self.dice.randrange(shape[dim] - 1)
        return (v,), (dim, start, self.dice.randint(start + 1, shape[dim]), self.dice.choice((1, 1, 2)))

    def _select(self, v, shape):
        return ((v,), (dim := self._dim(shape), self.dice.randrange(shape[dim]))) if len(shape) > 1 else None

    def _chunk(self, v, shape):
        dims = [dim for dim, size in enumerate(shape) if size > 1]
        return ((v,), (self.dice.choice(dims), 2, self.dice.randint(0, 1))) if dims else None

    def _split(self, v, shape):
        dims = [dim for dim, size in enumerate(shape) if size > 2]
        if not dims:
            return None
        dim = self.dice.choice(dims)
        first, second = sorted(self.dice.sample(range(1, shape[dim]), 2))
        return (v,), (dim, (first, second - first, shape[dim] - second), self.dice.randint(0, 2))

    def _halves(self, v, shape):
        dims = [dim for dim, size in enumerate(shape) if size % 2 == 0]
        return ((v,), (self.dice.choice(dims),)) if dims else None

    def _unfold(self, v, shape):
        dims = [dim for dim, size in enumerate(shape) if size > 1]
        if not dims:
            return None
        dim = self.dice.choice(dims)
        return (v,), (dim, self.dice.randint(1, shape[dim]), self.dice.randint(1, 3))

    def _pixel_shuffle(self, v, shape):
        return ((v,), (2,)) if len(shape) > 2 and shape[-3] % 4 == 0 else None

    def _pixel_unshuffle(self, v, shape):
        return ((v,), (2,)) if len(shape) > 2 and shape[-1] % 2 == 0 and shape[-2] % 2 == 0 else None

    def _roll(self, v, shape):
        return ((v,), (self.dice.randint(-3, 3), self._dim(shape))) if shape else None

    def _flip(self, v, shape):
        return ((v,), ((self._dim(shape),),)) if shape else None

    def _pad(self, v, shape):
        return ((v,), (tuple(self.dice.randint(0, 2) for _ in range(2 * min(len(shape), 2))),)) if shape else None

    def _others(self, shape):
        return [i for i, other in enumerate(self.shapes) if other == shape]

    def _cat(self, v, shape):
        if (dim := self._dim(shape)) is None:
            return None
        rest = shape[:dim] + shape[dim + 1 :]
        fits = [i for i, o in enumerate(self.shapes) if len(o) == len(shape) and o[:dim] + o[dim + 1 :] == rest]
        return (v, *self.dice.choices(fits, k=self.dice.randint(1, 2))), (dim,)

    def _stack(self, v, shape):
        return (v, self.dice.choice(self._others(shape))), (self.dice.randint(0, len(shape)),)

    def _add(self, v, shape):
        def fits(other):
            pairs = list(zip(reversed(shape), reversed(other), strict=False))
            return len(other) <= len(shape) and all(b in (1, a) for a, b in pairs)

        return (v, self.dice.choice([i for i, other in enumerate(self.shapes) if fits(other)])), ()

    _multiply = _add

    def _scores(self, v, shape):
        fits = [
            i
            for i, other in enumerate(self.shapes)
            if len(other) == len(shape) > 1 and other[:-2] == shape[:-2] and other[-1] == shape[-1]
        ]
        return ((v, self.dice.choice(fits)), ()) if fits else None

    def _tanh(self, v, _):
        return (v,), ()

    _gelu = _abs = _tanh

    def _sum(self, v, shape):
        return ((v,), (self._dim(shape), self.dice.random() < 0.5)) if shape else None

    _mean = _amax = _sum

    def _softmax(self, v, shape):
        return ((v,), (self._dim(shape),)) if shape else None

    _cumsum = _softmax

    def _tril(self, v, shape):
        return ((v,), ()) if len(shape) > 1 else None

    def _index_select(self, v, shape):
        if (dim := self._dim(shape)) is None:
            return None
        return (v,), (dim, self.dice.choices(range(shape[dim]), k=self.dice.randint(1, 6)))

    def _take(self, v, shape):
        return ((v,), (self.dice.choices(range(shape[-1]), k=self.dice.randint(1, 6)),)) if shape else None


_WEIGHTY = ("linear", "linear", "linear", "matmul", "plus", "times", "joined", "attention", "layer_norm", "conv")
KINDS = (*OPERATIONS, *_WEIGHTY, "view", "reshape", "flatten", "unflatten", "permute", "slice", "cat", "add")


def draw_program(seed: int, num_steps: int | None = None) -> Recipe:
    """A program of 20 to 40 steps, unless said."""
    dice = random.Random(f"program {seed}")
    draw = _Draw(dice)
    draw.shapes = [draw.shape() for _ in range(dice.choice((1, 1, 2)))]
    inputs = tuple(draw.shapes)
    wanted, tries = num_steps or dice.randint(20, 40), 0
    while len(draw.steps) < wanted and tries < 40 * wanted:
        draw.try_one()
        tries += 1
    return _returned(Recipe(seed, inputs, tuple(draw.steps), ()))


def _returned(recipe: Recipe) -> Recipe:
    """The recipe that returns what nothing reads."""
    num_inputs = len(recipe.inputs)
    read = {i for step in recipe.steps for i in step.reads}
    unread = [i for i in range(num_inputs, num_inputs + len(recipe.steps)) if i not in read]
    return replace(recipe, outputs=tuple(unread))


@dataclass(frozen=True)
class Asked:
    """How a program is sharded: arguments of `shard`."""

    mesh: dict[str, int]
    plan: Any
    inputs: Any = None
    outputs: Any = None

    @property
    def options(self) -> dict[str, Any]:
        return {"mesh": self.mesh, "plan": self.plan, "inputs": self.inputs, "outputs": self.outputs}


def draw_asked(seed: int, model: Drawn, num_axes: int = 1) -> Asked:
    """A mesh of 2 to 8 ranks on this many axes, and a plan for each: none, or pins drawn."""
    dice = random.Random(f"asked {seed}")
    sizes = [dice.randint(2, 8)] if num_axes == 1 else [dice.choice((2, 2, 3)) for _ in range(num_axes)]
    mesh = dict(zip("abc", sizes, strict=False))
    plan = {axis: "auto" if dice.random() < 0.4 else _pins(dice, model, ranks) for axis, ranks in mesh.items()}
    given = [tuple(x.shape) for x in model.example]
    returned = [tuple(out.shape) for out in model(*model.example)]
    inputs = {axis: {f"inputs_{i}": one for i, one in _some(dice, given)} for axis in mesh}
    outputs = {axis: dict(_some(dice, returned)) for axis in mesh}
    return Asked(mesh, plan, inputs, outputs)


def _pins(dice: random.Random, model: Drawn, num_ranks: int) -> dict[str, Any]:
    """A plan for some of the weights, most of which can be cut so."""
    pins = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and dice.random() < 0.4:
            cut = {"colwise": module.out_features, "rowwise": module.in_features, "replicate": num_ranks}
            pins[name] = dice.choice(
                [style for style, size in cut.items() if size >= num_ranks or dice.random() < 0.02]
            )
            continue
        for tensor, value in module.named_parameters(recurse=False):
            can_be_cut = value.ndim and (max(value.shape) >= num_ranks or dice.random() < 0.02)
            if can_be_cut and dice.random() < 0.25:
                pins[f"{name}.{tensor}"] = _layout(dice, tuple(value.shape), num_ranks)
    return pins


def _some(dice: random.Random, shapes: list[tuple[int, ...]]) -> list[tuple[int, Any]]:
    return [(i, _layout(dice, shape)) for i, shape in enumerate(shapes) if shape and dice.random() < 0.2]


def _layout(dice: random.Random, shape: tuple[int, ...], num_ranks: int = 1) -> Any:
    dim = dice.choice([d for d, size in enumerate(shape) if size >= num_ranks] or range(len(shape)))
    kind = dice.choice(("whole", "even", "even", "unit", "parts"))
    if kind == "whole":
        return sw.Replicate()
    units = [unit for unit in range(2, shape[dim] + 1) if shape[dim] % unit == 0]
    if kind == "unit" and units:
        return sw.Shard(dim, sw.Blocks(unit=dice.choice(units)))
    if kind == "parts" and shape[dim] > 1:
        first = dice.randint(1, shape[dim] - 1)
        return sw.Shard(dim, sw.Blocks(parts=(first, shape[dim] - first)))
    return sw.Shard(dim)


def outcome(recipe: Recipe, asked_seed: int, num_axes: int = 1) -> str:
    """``"right"``, ``"refused: …"`` in words of the library's, or what went wrong."""
    model = Drawn(recipe)
    program = torch.export.export(model, model.example)
    asked = draw_asked(asked_seed, model, num_axes)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", sw.SolverWarning)
            sharded = sw.shard(program, **asked.options)
        report = sw.verify(sharded, program, model.example, tolerance=1e-9)
    except sw.RuleError as error:
        return f"RuleError: {error}"
    except sw.ShardwrightError as error:
        return f"refused: {type(error).__name__}: {error}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "right" if report.ok else f"wrong: {report}"


def is_fault(said: str) -> bool:
    """Whether an outcome is neither right nor refused."""
    return not said.startswith(("right", "refused"))


def shortened(recipe: Recipe, fails: Callable[[Recipe], bool]) -> Recipe:
    """A shorter program that fails still: steps that nothing else needs are left out, one after the other."""
    changed = True
    while changed:
        changed = False
        for number in reversed(range(len(recipe.steps))):
            shorter = without(recipe, number)
            if shorter is not None and shorter.steps and fails(shorter):
                recipe, changed = shorter, True
                break
    return recipe


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
    return _returned(replace(recipe, steps=tuple(steps)))


def main(first: int, last: int, num_axes: int = 1) -> None:
    """Run seeds, print what went wrong, and a count of outcomes."""
    counts: dict[str, int] = {}
    for seed in range(first, last):
        recipe = draw_program(seed)
        said = outcome(recipe, seed, num_axes)
        kind = said.split(":")[0] + (":" + said.split(":")[1] if said.startswith("refused") else "")
        counts[kind] = counts.get(kind, 0) + 1
        if is_fault(said) or said.startswith("refused: AssignmentError"):
            print(f"--- seed {seed}: {said[:1200]}", flush=True)
    print(counts)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(*map(int, sys.argv[1:]))
