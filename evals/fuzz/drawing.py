"""Random programs: chains of views, slices, joins and reductions between weights, sizes odd and small."""

import math
import random

import torch

from evals.fuzz.operations import OPERATIONS, WEIGHTS
from evals.fuzz.recipes import Recipe, Step, unread

SIZES = (1, 2, 2, 3, 3, 4, 4, 5, 6, 6, 7, 8, 9, 10, 12)
MOST_ELEMENTS, MOST_DIMS = 3000, 5


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
    """A program of 20 to 40 steps, unless said; it returns what nothing reads."""
    dice = random.Random(f"program {seed}")
    draw = _Draw(dice)
    draw.shapes = [draw.shape() for _ in range(dice.choice((1, 1, 2)))]
    inputs = tuple(draw.shapes)
    wanted, tries = num_steps or dice.randint(20, 40), 0
    while len(draw.steps) < wanted and tries < 40 * wanted:
        draw.try_one()
        tries += 1
    return Recipe(seed, inputs, tuple(draw.steps), unread(len(inputs), draw.steps))
