"""`send`: one collective for one value, or for several that are sent as one message.

Several are packed into one tensor, and what comes of it is taken apart. torch has operators for lists of tensors
(``all_reduce_coalesced``), but what they save hangs on the backend: our own for shared memory takes the tensors one
after the other. A packed tensor is one message everywhere, for the simulator and for compilers too.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from shardwright.partition.emit import Emitter

aten = torch.ops.aten
c10d = torch.ops._c10d_functional

UNPACKS = "unpacks"
"""In the metadata of what is written after a collective, to bring what came of it into the form its readers want."""


@dataclass(frozen=True, slots=True)
class Sent:
    """What a collective sends: ``op(x, *args)``, of the operators ``_c10d_functional``; ``x`` is contiguous."""

    op: Any
    x: fx.Node
    args: tuple[Any, ...]


Lowering = Generator[Sent, fx.Node, fx.Node]
"""Writes what prepares a collective, yields what is sent, is given what came of it, returns the collective's value."""


def send(emit: Emitter, sent: Sequence[Sent]) -> list[fx.Node]:
    """Write one collective for all of ``sent``, which have one operator and group; what came of each."""
    if len(sent) == 1:
        (one,) = sent
        return [_wait(emit, one.op, one.x, one.args)]
    how, num_ranks = _FORMS[sent[0].op], _num_ranks(sent[0])
    if how.takes_rows:
        rows = [emit.call(aten.view.default, one.x, [num_ranks, -1]) for one in sent]
        packed = emit.call(aten.view.default, emit.call(aten.cat.default, rows, 1), [-1])
    else:
        packed = emit.call(aten.cat.default, [emit.call(aten.view.default, one.x, [-1]) for one in sent])
    whole = _wait(emit, sent[0].op, packed, _packed_args(sent[0], packed, num_ranks))
    shapes = [_shape_of(one, num_ranks) for one in sent]
    sizes = [torch.Size(shape).numel() for shape in shapes]
    if how.gives_rows:
        whole = emit.call(aten.view.default, whole, [num_ranks, -1])
        sizes = [size // num_ranks for size in sizes]
    parts = emit.open(emit.call(aten.split_with_sizes.default, whole, sizes, 1 if how.gives_rows else 0))
    return [emit.call(aten.reshape.default, part, shape) for part, shape in zip(parts, shapes, strict=True)]


@dataclass(frozen=True, slots=True)
class _Form:
    """Whether what is sent, and what comes of it, has a block of rows for each rank."""

    takes_rows: bool
    gives_rows: bool


_FORMS = {
    c10d.all_gather_into_tensor.default: _Form(takes_rows=False, gives_rows=True),
    c10d.all_reduce.default: _Form(takes_rows=False, gives_rows=False),
    c10d.all_to_all_single.default: _Form(takes_rows=True, gives_rows=True),
    c10d.reduce_scatter_tensor.default: _Form(takes_rows=True, gives_rows=False),
}


def _num_ranks(sent: Sent) -> int:
    """How many ranks have blocks in a message; 1 where that does not matter."""
    if sent.op is c10d.all_reduce.default:
        return 1
    return len(sent.args[0]) if sent.op is c10d.all_to_all_single.default else sent.args[-2]


def _packed_args(first: Sent, packed: fx.Node, num_ranks: int) -> tuple[Any, ...]:
    if first.op is not c10d.all_to_all_single.default:
        return first.args
    splits = [packed.meta["val"].shape[0] // num_ranks] * num_ranks
    return (splits, splits, first.args[-1])


def _shape_of(sent: Sent, num_ranks: int) -> list[int]:
    """The shape of what comes of one value."""
    rows, *rest = sent.x.meta["val"].shape or (1,)
    if sent.op is c10d.all_gather_into_tensor.default:
        rows *= num_ranks
    elif sent.op is c10d.reduce_scatter_tensor.default:
        rows //= num_ranks
    return [rows, *rest] if sent.x.meta["val"].dim() else []


def _wait(emit: Emitter, op: Any, x: fx.Node, args: Sequence[Any]) -> fx.Node:
    started = emit.call(op, x, *args)
    emit.meta = {**emit.meta, UNPACKS: True}
    return emit.call(c10d.wait_tensor.default, started)
