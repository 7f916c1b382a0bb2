"""Cost models on disk: a small JSON file that people read and programs check.

``{"shardwright_cost_model": 1, "name": …, "constants": {…}, "measured": {…}}``. ``measured`` says how the constants
were found (ranks, threads, transport, versions), for people; nothing reads it.
"""

import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

from shardwright.assign.cost import CostModel, constant_names, is_constant
from shardwright.errors import Finding, ShardwrightError, near_misses, raise_findings
from shardwright.layout.values import check_file, check_path
from shardwright.program.atomic import written_whole

COST_FILE_VERSION = 1
MARK = "shardwright_cost_model"
"""The key that says what the file is; its value is the version of its form."""

_MOST_BYTES = 1 << 20
_FIELDS = (MARK, "name", "constants", "measured")


def read_cost_model(path: str | os.PathLike[str]) -> CostModel:
    """The cost model of a file; raises `ShardwrightError` with everything that is wrong with it."""
    file = check_file(path, "the cost model")
    if file.stat().st_size > _MOST_BYTES:
        raise ShardwrightError(f"{file} is not a cost model: it has {file.stat().st_size:,} bytes")
    try:
        data = json.loads(file.read_text(encoding="utf-8"), object_pairs_hook=_each_once)
    except OSError as error:
        raise ShardwrightError(f"cannot read the cost model {file}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise ShardwrightError(f"{file} is not a cost model: {error}\n  try: `shardwright calibrate`") from error
    if not isinstance(data, Mapping) or MARK not in data:
        raise ShardwrightError(
            f"{file} is not a cost model: it has no {MARK!r}\n  try: `shardwright calibrate -o cost.json` writes one"
        )
    if type(data[MARK]) is not int or data[MARK] != COST_FILE_VERSION:
        raise ShardwrightError(
            f"{file} is a cost model of version {data[MARK]!r}; this Shardwright reads version {COST_FILE_VERSION}\n"
            "  try: `shardwright calibrate` with this version"
        )
    raise_findings(ShardwrightError, list(_wrong(data)), summary=f"{file} is not a cost model that can be used")
    return CostModel(**data["constants"], name=data["name"])


def write_cost_model(path: str | os.PathLike[str], model: CostModel, measured: Mapping[str, Any]) -> None:
    """Write a cost model, whole or not at all. ``measured``: how its constants were found."""
    data = {MARK: COST_FILE_VERSION, "name": model.name, "constants": model.constants(), "measured": dict(measured)}
    with written_whole(check_path(path, "the cost model")) as draft:
        draft.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key!r} is given twice")
        found[key] = value
    return found


def _wrong(data: Mapping[str, Any]) -> Iterator[Finding]:
    """What is wrong with the fields of a file, each constant by itself."""
    yield from _unknown(data, _FIELDS, "")
    if not isinstance(data.get("name"), str) or not data["name"]:
        yield Finding(f"'name' must be a word for people, got {data.get('name')!r}")
    constants = data.get("constants")
    if not isinstance(constants, Mapping):
        yield Finding(f"'constants' must be names with numbers, got {constants!r}")
        return
    yield from _unknown(constants, constant_names(), "constants: ")
    for name in constant_names():
        if name not in constants:
            yield Finding(f"constants: {name!r} is missing")
        elif not is_constant(name, constants[name]):
            yield Finding(f"constants: {name!r} must be a finite number above 0, got {constants[name]!r}")


def _unknown(given: Mapping[str, Any], known: Any, where: str) -> Iterator[Finding]:
    for key in given:
        if key not in known:
            close = tuple(map(repr, near_misses(key, known)))
            yield Finding(f"{where}{key!r} is not a field of a cost model", remedies=close)
