"""What torch's own operators give for operands of known sizes: the same in every program, so it is remembered.

To run an operator on fake tensors takes torch half a millisecond, and it does so again for every rank, mesh axis and
program; to make a tensor of the sizes that it gave before takes a twentieth of that.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch

from shardwright.program.torch_private import FakeTensor, OpOverload

UNKNOWN = object()
"""Stands for a result that is not remembered."""

MOST_KNOWN = 50_000
"""How many results are remembered; after as many, it begins anew."""

_NAMESPACES = ("aten", "prims", "_c10d_functional")
"""Whose operators give the same for the same operands whenever they are called; a user's may not."""

_known: dict[Any, Any] = {}


class _Lies(NamedTuple):
    """All that a fake tensor says."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    dtype: torch.dtype
    device: torch.device


class _Several(NamedTuple):
    """A list or tuple of results."""

    kind: type
    parts: tuple[Any, ...]


def known_result(op: Any, key: Any, fake_mode: Any) -> Any:
    """A new result, in this mode, of a call as an earlier one; `UNKNOWN` where there was none.

    ``key``: the operator and all that a call can tell of its operands.
    """
    if not _is_remembered(op, fake_mode):
        return UNKNOWN
    found = _known.get((key, torch.get_default_dtype()), UNKNOWN)
    return UNKNOWN if found is UNKNOWN else _made(found, fake_mode)


def remember_result(op: Any, key: Any, fake_mode: Any, operands: Any, result: Any) -> None:
    """Keep what a call gave, where operands of the same sizes are all that it needs to give it again."""
    if not _is_remembered(op, fake_mode):
        return
    taken = list(_tensors(operands))
    given = list(_tensors(result))
    # The values of small constants are known, and bits of complex numbers say what is not written out yet.
    if any(tensor.constant is not None or tensor.dtype.is_complex for tensor in (*taken, *given)):
        return
    # One that is given back as it came is the operand, whatever holds of that.
    if any(tensor is operand for tensor in given for operand in taken):
        return
    said = _said(result)
    if said is not UNKNOWN:
        if len(_known) >= MOST_KNOWN:
            _known.clear()
        _known[key, torch.get_default_dtype()] = said


def _is_remembered(op: Any, fake_mode: Any) -> bool:
    """Not under autocast, which has operators give other dtypes."""
    return (
        fake_mode is not None
        and isinstance(op, OpOverload)
        and op.namespace in _NAMESPACES
        and not torch.is_autocast_enabled("cpu")
        and not torch.is_autocast_enabled("cuda")
    )


def _tensors(value: Any) -> Iterator[Any]:
    if isinstance(value, FakeTensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, dict):
        yield from _tensors(tuple(value.values()))


def _said(result: Any) -> Any:
    """What is kept of a result; `UNKNOWN` where that is not all of it."""
    if type(result) is FakeTensor:
        is_plain = result.layout == torch.strided and not result.is_quantized and not result.requires_grad
        sizes = (*result.shape, *result.stride(), result.storage_offset()) if is_plain else ()
        if not is_plain or not all(type(size) is int for size in sizes):
            return UNKNOWN
        return _Lies(tuple(result.shape), result.stride(), int(result.storage_offset()), result.dtype, result.device)
    if type(result) in (list, tuple):
        parts = tuple(map(_said, result))
        return UNKNOWN if UNKNOWN in parts else _Several(type(result), parts)
    return result if result is None or type(result) in (int, float, bool) else UNKNOWN


def _made(said: Any, fake_mode: Any) -> Any:
    """The result of which this was kept."""
    if isinstance(said, _Several):
        return said.kind(_made(part, fake_mode) for part in said.parts)
    if not isinstance(said, _Lies):
        return said
    shape, stride, offset, dtype, device = said
    if offset:
        last = sum((size - 1) * step for size, step in zip(shape, stride, strict=True)) if 0 not in shape else -1
        bare = torch.empty(offset + last + 1, dtype=dtype, device="meta").as_strided(shape, stride, offset)
    else:
        bare = torch.empty_strided(shape, stride, dtype=dtype, device="meta")
    return FakeTensor(fake_mode, bare, device)
