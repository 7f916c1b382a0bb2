"""An entry of the list: where a model's class is, what it is made with, and what it is called with."""

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils import _pytree as pytree


@dataclass(frozen=True, slots=True)
class Drawn:
    """A tensor of this shape: normal numbers, or integers from ``least`` to below ``below``, also as floats."""

    shape: tuple[int, ...]
    below: int = 0
    least: int = 0
    as_floats: bool = False

    def draw(self, generator):
        if self.below:
            drawn = torch.randint(self.least, self.below, self.shape, generator=generator)
            return drawn.float() if self.as_floats else drawn
        return torch.randn(self.shape, generator=generator)


@dataclass(frozen=True, slots=True)
class Entry:
    """A model of a package.

    ``make``: ``"module:Class"``, called with ``given``; or a function without arguments, where that is not enough.
    ``args``, ``kwargs``: what the model is called with; `Drawn` stands for a tensor.
    """

    package: str
    make: str | Callable[[], torch.nn.Module]
    args: tuple[Any, ...] = ()
    given: Mapping[str, Any] = field(default_factory=dict)
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    label: str = ""

    @property
    def name(self):
        """Package and class; the label tells models of one class apart."""
        made = self.make if isinstance(self.make, str) else self.make.__name__
        return " ".join(filter(None, (f"{self.package}: {made.rpartition(':')[2]}", self.label)))

    def build(self):
        """The model, made after a fixed seed, and its inputs by name."""
        torch.manual_seed(0)
        model = class_of(self.make)(**self.given) if isinstance(self.make, str) else self.make()
        generator = torch.Generator().manual_seed(1)
        args, kwargs = pytree.tree_map_only(Drawn, lambda one: one.draw(generator), (self.args, dict(self.kwargs)))
        return model, dict(inspect.signature(model.forward).bind(*args, **kwargs).arguments)


def class_of(path):
    """What ``"module:name"`` names."""
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


def image(size=32, channels=3, batch=2, dims=2):
    """Images, or volumes with ``dims=3``."""
    return Drawn((batch, channels, *[size] * dims))


def tokens(length=16, below=64, batch=2):
    """Token numbers."""
    return Drawn((batch, length), below)


def floats(*shape):
    """Normal numbers."""
    return Drawn(shape)


def ints(*shape, below, least=0):
    """Integers below ``below``."""
    return Drawn(shape, below, least)
