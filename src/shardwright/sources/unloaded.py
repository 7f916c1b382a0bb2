"""A model of a checkpoint before its weights are read: what a source of any kind finds."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch.export import ExportedProgram

from shardwright.layout.box import Holder
from shardwright.package.manifest import DecoderEntry
from shardwright.sources.hugging_face.checkpoint_files import Unused


@dataclass(frozen=True)
class Unloaded:
    """A model without weights, and where these are.

    ``model``: its parameters are shapes alone. ``holders``: what holds each of its tensors, by name. ``unused``: what
    of the checkpoint nothing reads. ``fingerprint``: of the files. ``export``: the model's program. ``extras``: files
    that a package keeps. ``decoder``: of a decoder with a cache.
    """

    model: Any
    holders: dict[str, Holder]
    unused: list[Unused]
    fingerprint: str
    export: Callable[[], ExportedProgram]
    extras: Mapping[str, bytes] = field(default_factory=dict)
    decoder: DecoderEntry | None = None
