"""Which dtypes safetensors files hold, and how they say so: the one table for reading and writing."""

from collections.abc import Mapping, Sequence

import torch

from shardwright.errors import Finding, ShardwrightError, raise_findings

DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e4m3fnuz: "F8_E4M3FNUZ",
    torch.float8_e5m2: "F8_E5M2",
    torch.float8_e5m2fnuz: "F8_E5M2FNUZ",
    torch.float8_e8m0fnu: "F8_E8M0",
    torch.float4_e2m1fn_x2: "F4",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
    torch.complex64: "C64",
}
"""How safetensors names dtypes. Not in the format: complex128, complex32, integers of fewer than 8 bits."""


def stored_shape(shape: Sequence[int], dtype: torch.dtype) -> tuple[int, ...]:
    """A tensor's shape as files have it: where a byte holds two numbers, a file counts both and torch counts one."""
    if dtype != torch.float4_e2m1fn_x2 or not shape:
        return tuple(shape)
    return (*shape[:-1], 2 * shape[-1])


def check_storable(tensors: Mapping[str, tuple[torch.dtype, Sequence[int]]], error: type[ShardwrightError]) -> None:
    """Raise ``error`` naming every tensor, given by name as dtype and shape, that safetensors files cannot hold."""
    findings = []
    for name, (dtype, shape) in tensors.items():
        if dtype not in DTYPES:
            why = f"has dtype {dtype}, which safetensors files cannot hold"
            findings.append(Finding(f"{name!r} {why}", remedies=_remedies(dtype)))
        elif dtype == torch.float4_e2m1fn_x2 and not shape:
            findings.append(Finding(f"{name!r} is a {dtype} without dims, which safetensors files cannot hold"))
    raise_findings(error, findings, summary="tensors cannot be written")


def _remedies(dtype: torch.dtype) -> tuple[str, ...]:
    if dtype.is_complex:
        return ("keep it as real numbers (torch.view_as_real) and use torch.view_as_complex in forward", "complex64")
    return ("keep its bytes as uint8 and view them in forward",)
