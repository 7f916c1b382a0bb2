"""Example inputs that a model is exported with: shapes of tensors and plain values, by parameter.

A tensor is written as its dtype and sizes, ``"float32[batch=2, 77, 768]"``; a size with a name may change from call to
call. A tensor that is given counts for its dtype and shape alone: no values are read.
"""

import os
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.export import Dim

from shardwright.errors import CheckpointError, Finding, first_line, near_misses, raise_findings
from shardwright.layout.yaml_files import read_yaml
from shardwright.program.torch_private import FakeTensorMode

ExampleLike = Mapping[str, Any] | str | os.PathLike[str]

_TENSOR = re.compile(r"\s*(\w+)\s*\[(.*)\]\s*")
_SIZE = re.compile(r"\s*(?:([A-Za-z_]\w*)\s*=\s*)?(\d+)\s*")
_DTYPES = {str(value).removeprefix("torch."): value for value in vars(torch).values() if isinstance(value, torch.dtype)}


@dataclass(frozen=True, slots=True)
class ExampleTensor:
    """The dtype and sizes of a tensor; ``names``: of the sizes, '' for one that is always the same."""

    dtype: torch.dtype
    sizes: tuple[int, ...]
    names: tuple[str, ...]

    def empty(self) -> torch.Tensor:
        """A tensor like that."""
        return torch.empty(self.sizes, dtype=self.dtype)

    def dynamic(self) -> dict[int, Any] | None:
        """What torch's exporter is told of its sizes."""
        return {dim: Dim.DYNAMIC for dim, name in enumerate(self.names) if name} or None


def read_example(given: ExampleLike) -> dict[str, Any]:
    """An example by parameter, each tensor in it an `ExampleTensor`, from a mapping or a YAML file.

    Raises `CheckpointError` with every value that is none, and every name of sizes that differ.

    >>> read_example({"x": "float32[batch=2, 8]", "scale": 0.5})["x"].sizes
    (2, 8)
    """
    if not isinstance(given, Mapping):
        holds = "parameters to inputs, such as sample: float32[2, 4, 64, 64]"
        given = read_yaml(given, "the example", holds, error=CheckpointError)
    findings: list[Finding] = []
    try:
        found = {str(name): _read(value, str(name), findings) for name, value in given.items()}
    except RecursionError as error:
        raise CheckpointError("the example is nested too deeply, or holds itself") from error
    findings += _sizes_that_differ(found)
    raise_findings(CheckpointError, findings, summary="the example cannot be used")
    return found


def map_example(found: Any, use: Any) -> Any:
    """An example with ``use`` of every leaf in its place."""
    if isinstance(found, dict):
        return {key: map_example(value, use) for key, value in found.items()}
    if isinstance(found, (list, tuple)):
        return type(found)(map_example(value, use) for value in found)
    return use(found)


def _read(value: Any, where: str, findings: list[Finding]) -> Any:
    if isinstance(value, Mapping):
        return {key: _read(one, f"{where}[{key!r}]", findings) for key, one in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_read(one, f"{where}[{number}]", findings) for number, one in enumerate(value))
    if isinstance(value, torch.Tensor):
        return _checked(ExampleTensor(value.dtype, tuple(value.shape), ("",) * value.dim()), where, findings)
    if isinstance(value, str) and (match := _TENSOR.fullmatch(value)):
        return _read_tensor(match[1], match[2], where, findings)
    if value is not None and not isinstance(value, (bool, int, float, str)):
        what = f"{where} is a value of type {type(value).__name__}"
        remedy = "a tensor, text such as 'float32[2, 4]', a number, or lists of these"
        findings.append(Finding(what, remedies=(remedy,)))
    return value


def _read_tensor(kind: str, sizes: str, where: str, findings: list[Finding]) -> ExampleTensor | None:
    dtype = _DTYPES.get(kind)
    if dtype is None:
        close = near_misses(kind, _DTYPES) or ["float32", "bfloat16", "int64"]
        findings.append(Finding(f"{where} has the dtype {kind!r}, which torch does not have", remedies=tuple(close)))
    matches = [_SIZE.fullmatch(size) for size in sizes.split(",")] if sizes.strip() else []
    if not all(matches):
        remedy = f"{kind}[2, 4] or {kind}[batch=2, 4], where the batch may change"
        findings.append(Finding(f"{where} has sizes [{sizes}], which are not numbers", remedies=(remedy,)))
        return None
    found = [(match[1] or "", int(match[2])) for match in matches if match]
    if dtype is None:
        return None
    return _checked(ExampleTensor(dtype, tuple(s for _, s in found), tuple(n for n, _ in found)), where, findings)


def _checked(tensor: ExampleTensor, where: str, findings: list[Finding]) -> ExampleTensor:
    """A tensor that torch can make: not of every dtype it names, nor of any size."""
    try:
        with FakeTensorMode(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch tells of dtypes that it will do without
            tensor.empty()
    except (RuntimeError, TypeError, OverflowError) as error:
        what = f"{where} is a tensor that torch cannot make: {first_line(error)}"
        findings.append(Finding(what, remedies=("float32[2, 4], or another dtype of plain numbers",)))
    return tensor


def _sizes_that_differ(found: Any) -> Iterator[Finding]:
    leaves: list[ExampleTensor] = []
    map_example(found, lambda leaf: leaves.append(leaf) if isinstance(leaf, ExampleTensor) else None)
    sizes: dict[str, set[int]] = {}
    for leaf in leaves:
        for name, size in zip(leaf.names, leaf.sizes, strict=True):
            if name:
                sizes.setdefault(name, set()).add(size)
    for name, given in sizes.items():
        if len(given) > 1:
            yield Finding(
                f"the size {name!r} is {' and '.join(map(str, sorted(given)))}", remedies=("a name for each",)
            )
        elif min(given) < 2:
            yield Finding(
                f"the size {name!r} may change, and is {min(given)} in the example",
                remedies=("2 or more, which stands for any size",),
            )
