"""Folders of pipelines: what components there are, for somebody who named the whole or misspelt a part."""

import json
from pathlib import Path
from typing import Any

from shardwright.errors import near_misses

INDEX_NAME = "model_index.json"
CONFIG_NAME = "config.json"


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; an empty one where there is none that can be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def no_checkpoint(path: Path) -> str:
    """Why ``path`` is no checkpoint, and what to name instead, where it is a pipeline or in one; else ''."""
    if path.is_dir():
        index = read_json(path / INDEX_NAME)
        if index:
            kind = f"the pipeline {index['_class_name']}" if isinstance(index.get("_class_name"), str) else "a pipeline"
            return f"{path} is {kind}, which is several models: {_listed(path)}" + _try(path, list(components(path)))
    folder, name = path.parent, path.name
    index = read_json(folder / INDEX_NAME)
    if not index:
        return ""
    known = components(folder)
    kind = _class_of(index.get(name))
    if path.is_dir() and kind:
        what = f"{path} is the pipeline's {kind}, which is no model with weights"
    else:
        what = f"the pipeline {folder} has no component {name!r}"
    return f"{what}; its models: {_listed(folder)}" + _try(folder, near_misses(name, known) or list(known))


def components(folder: Path) -> dict[str, str]:
    """The models of a pipeline's folder: name → class. Those are the parts that have a configuration of their own."""
    index = read_json(folder / INDEX_NAME)
    found = {name: _class_of(value) for name, value in index.items() if not name.startswith("_")}
    return {name: kind for name, kind in found.items() if kind and (folder / name / CONFIG_NAME).is_file()}


def _class_of(entry: Any) -> str:
    """The class of a component's entry, ``[library, class]``; '' where the pipeline does without."""
    return str(entry[1]) if isinstance(entry, list) and len(entry) == 2 and entry[1] else ""


def _listed(folder: Path) -> str:
    return ", ".join(f"{name} ({kind})" for name, kind in components(folder).items()) or "none in this folder"


def _try(folder: Path, names: list[str]) -> str:
    return f"\n  try: {' or '.join(str(folder / name) for name in names[:3])}" if names else ""
