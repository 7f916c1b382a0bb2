"""YAML files that people write: a mapping, in which every key is given once."""

import os
from collections.abc import Hashable, Mapping
from typing import Any

import yaml

from shardwright.layout.values import Error, check_file


def read_yaml(path: str | os.PathLike[str], name: str, holds: str, *, error: Error) -> Mapping[Any, Any]:
    """The mapping in a YAML file; raises ``error`` naming the file. ``holds``: from what to what it maps, in words."""
    file = check_file(path, name, error=error)
    try:
        data = yaml.load(file.read_text(encoding="utf-8"), _Loader)  # noqa: S506 - a SafeLoader
    except OSError as cause:
        raise error(f"cannot read {name} {path}: {cause.strerror or cause}") from cause
    except (yaml.YAMLError, UnicodeDecodeError) as cause:
        raise error(f"{path} is not YAML, as {name} has to be: {cause}") from cause
    except RecursionError as cause:
        raise error(f"{path} is nested too deeply for {name}") from cause
    if not isinstance(data, Mapping):
        raise error(f"{path} holds {type(data).__name__}, not a mapping of {holds}")
    return data


class _Loader(yaml.SafeLoader):
    """YAML as `yaml.safe_load` reads it, but that a key given twice is an error rather than the last one's."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable):
                if key in seen:
                    what = f"the key {key!r} is given twice"
                    raise yaml.constructor.ConstructorError(None, None, what, key_node.start_mark)
                seen.add(key)
        return super().construct_mapping(node, deep)
