"""What the backends of ``torch.distributed`` take, and in which form a value of any dtype can be sent by all of them.

The tables say which dtypes a collective takes *and gets right*. That of gloo was read off runs of two processes with
torch 2.13.0 (`tests/program/test_backends.py` repeats them); that of NCCL off its user guide (``ncclDataType_t``,
``ncclRedOp_t``) and torch's list of the dtypes it maps to these (``NCCLUtils.hpp``), as of November 2026.
A rank's program does not know its backend, so it rests on what both take. ``docs/collectives.md`` shows the tables.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from shardwright.layout.reduce import REDUCTIONS
from shardwright.program.collectives import REDUCING, CollectiveKind

_INTEGERS = frozenset({torch.uint8, torch.int8, torch.int32, torch.int64})
_FLOATS = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64})
_COMPLEX = frozenset({torch.complex32, torch.complex64, torch.complex128})
_FLOAT8 = frozenset({torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.float8_e5m2, torch.float8_e5m2fnuz})
_BOOL = frozenset({torch.bool})
_NUMBERS = _INTEGERS | _FLOATS

MOVES = ("all_gather", "all_to_all", "broadcast")

GLOO: Mapping[str, frozenset[torch.dtype]] = {
    "all_gather": _NUMBERS | _BOOL | _COMPLEX,
    "all_to_all": _NUMBERS | _BOOL,
    "broadcast": _NUMBERS | _BOOL | _COMPLEX,
    # Booleans that are true on two ranks become a byte of 2, which is neither True nor False.
    "all_reduce sum": _NUMBERS | _COMPLEX,
    "all_reduce product": _NUMBERS | _BOOL,
    # A NaN on one rank is lost or wins, by where in the tensor it stands.
    "all_reduce max": _INTEGERS | _BOOL,
    "all_reduce min": _INTEGERS | _BOOL,
    "reduce_scatter sum": _NUMBERS | _COMPLEX | _BOOL,
    # Of complex numbers, the real and imaginary parts would be multiplied, or compared, each for itself.
    "reduce_scatter product": _NUMBERS | _BOOL,
    "reduce_scatter max": _INTEGERS | _BOOL,
    "reduce_scatter min": _INTEGERS | _BOOL,
}

_NCCL_REDUCED: Mapping[str, frozenset[torch.dtype]] = {
    "sum": _NUMBERS | _BOOL,
    "product": _NUMBERS | _BOOL,
    # Its documentation does not say what becomes of a NaN.
    "max": _INTEGERS | _BOOL,
    "min": _INTEGERS | _BOOL,
}

NCCL: Mapping[str, frozenset[torch.dtype]] = {
    **dict.fromkeys(MOVES, _NUMBERS | _BOOL | _FLOAT8),
    **{f"{kind} {op}": took for kind in REDUCING for op, took in _NCCL_REDUCED.items()},
}

BACKENDS = {"gloo": GLOO, "nccl": NCCL}


def is_taken(kind: CollectiveKind, dtype: torch.dtype, op: str = "") -> bool:
    """Whether every backend takes a collective of this dtype, and gets it right; ``op``: of a reduction."""
    name = f"{kind} {op}" if op else kind
    return all(dtype in table.get(name, ()) for table in BACKENDS.values())


@dataclass(frozen=True, slots=True)
class Form:
    """What a value is sent as.

    ``how``: ``"itself"``; ``"view"``, the same bits under another dtype of that width; ``"bytes"``, one more dim of
    them; ``"reals"``, pairs; ``"cast"``, another dtype that holds all its values; ``"ordered"``, integers that stand
    to each other as floating-point numbers do, with NaN beyond both ends. ``op``: the reduction of what is sent.
    """

    how: str
    dtype: torch.dtype
    op: str = ""


def form_of(kind: CollectiveKind, dtype: torch.dtype, op: str = "") -> Form | None:
    """The form in which every backend takes a value of ``dtype``, to the bit; None when there is none.

    ``op``: of the kinds that reduce.
    """
    if is_taken(kind, dtype, op):
        return Form("itself", dtype, op)
    form = _reduced_form(dtype, op) if op else _moved_form(dtype)
    assert form is None or form.how == "ordered" or is_taken(kind, _sent(form), form.op), f"{kind} of {form} is unknown"
    return form


def _sent(form: Form) -> torch.dtype:
    return form.dtype.to_real() if form.how == "reals" else form.dtype


def _moved_form(dtype: torch.dtype) -> Form | None:
    if dtype.is_complex:
        return Form("reals", dtype)
    if dtype in _UNVIEWABLE:
        return None
    same_width = {1: torch.uint8, 4: torch.int32, 8: torch.int64}.get(dtype.itemsize)
    return Form("bytes", torch.uint8) if same_width is None else Form("view", same_width)


_UNVIEWABLE = frozenset({torch.qint8, torch.quint8, torch.qint32, torch.quint4x2, torch.quint2x4})
_MODULAR = {torch.uint32: torch.int32, torch.uint64: torch.int64}
"""Sums and products of these are the same bits when the numbers are taken as signed."""

_WIDER = {torch.int16: torch.int32, torch.uint16: torch.int32}
_KEYS = {
    torch.float16: torch.int32,
    torch.bfloat16: torch.int32,
    torch.float32: torch.int32,
    torch.float64: torch.int64,
}


def _reduced_form(dtype: torch.dtype, op: str) -> Form | None:
    if op == "sum":
        if dtype == torch.bool:
            return Form("view", torch.uint8, "max")
        if dtype.is_complex:
            return Form("reals", dtype, op)
        if dtype in _FLOAT8:
            # No operator adds them, so at most one rank's share is not zero.
            return Form("cast", torch.float32, op)
    if op in ("sum", "product") and dtype in _MODULAR:
        return Form("view", _MODULAR[dtype], op)
    if op in REDUCTIONS and dtype in _WIDER:
        return Form("cast", _WIDER[dtype], op)
    if op in ("max", "min") and dtype == torch.uint32:
        return Form("cast", torch.int64, op)
    if op in ("max", "min") and dtype in _KEYS:
        return Form("ordered", _KEYS[dtype], op)
    return None


def is_reducible(dtype: torch.dtype, op: str) -> bool:
    """Whether shares of a value, one a rank, can be reduced by ``op``: at once, or so that each rank gets a piece."""
    return all(form_of(kind, dtype, op) is not None for kind in REDUCING)
