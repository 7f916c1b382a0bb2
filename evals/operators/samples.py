"""Sample programs from PyTorch's databases: one operator or module call, its tensors held as buffers."""

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import nn
from torch.testing._internal import common_methods_invocations as databases
from torch.testing._internal.common_modules import ModuleInfo, module_db
from torch.testing._internal.hop_db import hop_db

EVEN_SIZES = {"L": 24, "M": 12, "S": 4, "XS": 2}
"""Database sizes that divide by the rank counts; the database's own are 20, 10, 5 and 3."""


OWN_SIZES_ONLY = ("_segment_reduce.offsets", "_segment_reduce.lengths")
"""Makers whose samples read past the end of their data at any other sizes."""


class Program(nn.Module):
    """A call with every tensor argument as a buffer ``t0, t1 …``: a plan can pin each of them."""

    def __init__(self, function: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
        super().__init__()
        flat, self.spec = pytree.tree_flatten((tuple(args), kwargs))
        self.function = function
        self.constants = [None if isinstance(leaf, torch.Tensor) else leaf for leaf in flat]
        self.positions = [i for i, leaf in enumerate(flat) if isinstance(leaf, torch.Tensor)]
        for number, position in enumerate(self.positions):
            self.register_buffer(f"t{number}", flat[position].detach().clone())

    def forward(self) -> Any:
        """Call the function on the buffers."""
        flat = list(self.constants)
        for number, position in enumerate(self.positions):
            flat[position] = getattr(self, f"t{number}")
        args, kwargs = pytree.tree_unflatten(flat, self.spec)
        return self.function(*args, **kwargs)


@dataclass
class Sample:
    """One sample program and what to call it."""

    name: str
    program: nn.Module


@contextlib.contextmanager
def database_sizes(*, even: bool) -> Iterator[None]:
    """The sizes that the database builds its samples from."""
    saved = {name: getattr(databases, name) for name in EVEN_SIZES}
    try:
        if even:
            for name, size in EVEN_SIZES.items():
                setattr(databases, name, size)
        yield
    finally:
        for name, size in saved.items():
            setattr(databases, name, size)


def cases() -> dict[str, Any]:
    """Every entry of the databases by name: operators, ``module nn.Linear``, ``hop cond`` (a higher-order one)."""
    found = operators()
    for entry in module_db:
        found[f"module {entry.name}"] = entry
    for entry in hop_db:
        variant = "" if entry.variant_test_name == "simple" else f".{entry.variant_test_name}"
        found[f"hop {entry.name}{variant}"] = entry
    return found


def samples_of(entry: Any, limit: int) -> Iterator[Sample]:
    """Sample programs of an entry of any database."""
    return module_samples(entry, limit) if isinstance(entry, ModuleInfo) else operator_samples(entry, limit)


def module_samples(entry: Any, limit: int) -> Iterator[Sample]:
    """The first ``limit`` ways of building a module, in evaluation and in training, called on its sample inputs."""
    for training in (False, True):
        torch.manual_seed(0)
        inputs = entry.module_inputs_func(
            entry, device="cpu", dtype=torch.float32, requires_grad=False, training=training
        )
        usable = [one for one in inputs if one.forward_input is not None]
        for number, one in enumerate(usable[:limit]):
            built, given = one.constructor_input, one.forward_input
            module = entry.module_cls(*built.args, **built.kwargs).train(training)
            name = f"{'training' if training else 'evaluation'}, sample {number}"
            yield Sample(name, Program(module, given.args, given.kwargs))


def operators() -> dict[str, Any]:
    """Every entry of the operator database that takes float32 on the CPU, by its full name."""
    found = {}
    for entry in databases.op_db:
        if torch.float32 in entry.supported_dtypes("cpu"):
            name = f"{entry.name}.{entry.variant_test_name}" if entry.variant_test_name else entry.name
            found[name] = entry
    return found


def operator_samples(entry: Any, limit: int) -> Iterator[Sample]:
    """The first ``limit`` samples in each of the two sets of sizes, calls of unequal shapes first."""
    name = f"{entry.name}.{entry.variant_test_name}"
    for even in (False,) if name in OWN_SIZES_ONLY else (True, False):
        with database_sizes(even=even):
            torch.manual_seed(0)
            made = entry.sample_inputs("cpu", torch.float32, requires_grad=False)
            drawn: list[Any] = []
            # A few makers index what only the database's own sizes have; what they made before is kept. Others make
            # hundreds: enough are looked at to find unequal ones.
            with contextlib.suppress(RuntimeError, IndexError):
                drawn.extend(itertools.islice(made, 8 * limit))
        for number, sample in enumerate(_unlike_first(drawn)[:limit]):
            args = (sample.input, *sample.args)
            yield Sample(f"{'even' if even else 'own'} sizes, sample {number}", Program(entry.op, args, sample.kwargs))


def _unlike_first(samples: Sequence[Any]) -> list[Any]:
    firsts: dict[str, Any] = {}
    rest = []
    for sample in samples:
        flat = pytree.tree_leaves((sample.input, sample.args, sample.kwargs))
        key = str([tuple(leaf.shape) if isinstance(leaf, torch.Tensor) else type(leaf) for leaf in flat])
        if key in firsts:
            rest.append(sample)
        else:
            firsts[key] = sample
    return [*firsts.values(), *rest]
