"""Which stored tensors make which of the model's: transformers' own renaming and converting, done lazily.

Checkpoints are older than the classes that read them: prefixes have come and gone, experts are stored one by one where
the model keeps one tensor. transformers (5 and later) describes this as renamings and converters; they are followed
here key by key as its loader does. A renamed tensor is read slice by slice; a converted one is made whole when asked.
"""

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import torch

from shardwright.errors import CheckpointError, Finding, first_line, raise_findings
from shardwright.layout.box import Holder, WholeTensor
from shardwright.sources.hugging_face.checkpoint_files import StoredTensor, Unused


@dataclass(frozen=True)
class Conversion:
    """One use of a transformers converter: stored tensors by the pattern that found them → the model's, by name."""

    converter: Any
    model: Any
    first: str
    sources: dict[str, list[StoredTensor]] = field(default_factory=dict)

    def run(self, load: Callable[[StoredTensor], torch.Tensor]) -> dict[str, torch.Tensor]:
        """The tensors it makes. ``load`` gives a stored one."""
        converter = deepcopy(self.converter)
        for pattern, tensors in self.sources.items():
            for tensor in tensors:
                converter.add_tensor(self.first, tensor.name, pattern, lambda t=tensor: load(t))
        made = converter.convert(self.first, model=self.model, config=self.model.config)
        return {name: value[0] if isinstance(value, list) else value for name, value in made.items()}


@dataclass(frozen=True)
class Converted(WholeTensor):
    """A tensor of the model that a conversion makes."""

    conversion: Conversion
    name: str

    def copy(self, box: tuple[slice, ...], out: torch.Tensor) -> None:
        """Copy a box of the tensor into ``out``; the whole of it is made for that."""
        out.copy_(self.conversion.run(lambda tensor: tensor.read())[self.name][box])


@dataclass(frozen=True)
class Renaming:
    """How transformers names a model's stored tensors. ``wanted``: the model's, by name."""

    renamings: list[Any]
    converters: list[Any]
    prefix: str
    wanted: dict[str, torch.Tensor]

    @staticmethod
    def of(model: Any) -> "Renaming":
        """The renamings and converters of a model's class."""
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightConverter, WeightRenaming

        transforms = get_model_conversion_mapping(model)
        renamings = [one for one in transforms if isinstance(one, WeightRenaming)]
        converters = [one for one in transforms if isinstance(one, WeightConverter)]
        return Renaming(renamings, converters, model.base_model_prefix, model.state_dict())

    @property
    def by_pattern(self) -> dict[str, Any]:
        """The converters by the patterns of what they take."""
        return {pattern: one for one in self.converters for pattern in one.source_patterns}

    def name(self, key: str) -> tuple[str, str | None]:
        """The model's name of a stored tensor, and the pattern by which a converter takes it, if one does."""
        from transformers.core_model_loading import rename_source_key

        found = rename_source_key(key, self.renamings, self.converters, self.prefix, self.wanted)
        if found[0] not in self.wanted and key in self.wanted:
            return rename_source_key(key, [], [], self.prefix, self.wanted)
        return found


def match_names(model: Any, stored: Mapping[str, StoredTensor]) -> tuple[dict[str, Holder], list[Unused]]:
    """What holds each of the model's tensors, by name, and the stored tensors that the model has no use for.

    Where two stored names mean one tensor, the first in transformers' order is it. Raises `CheckpointError` when stored
    tensors do not go together as a converter needs them.
    """
    from transformers.core_model_loading import dot_natural_key

    renaming = Renaming.of(model)
    wanted = renaming.wanted
    holders: dict[str, Holder] = {}
    conversions: dict[str, Conversion] = {}
    unused: list[Unused] = []
    for key in sorted(stored, key=dot_natural_key):
        name, pattern = renaming.name(key)
        if name not in wanted:
            unused.append(Unused(key, stored[key].file.name, "the model has no such tensor"))
        elif name in holders or (pattern is None and name in conversions):
            unused.append(Unused(key, stored[key].file.name, f"{name} is read from another tensor"))
        elif pattern is None:
            holders[name] = stored[key]
        else:
            conversion = conversions.setdefault(name, Conversion(renaming.by_pattern[pattern], model, name))
            conversion.sources.setdefault(pattern, []).append(stored[key])
    findings = []
    for conversion in conversions.values():
        try:
            holders |= _converted(conversion)
        except CheckpointError as error:
            findings.append(Finding(str(error)))
    raise_findings(CheckpointError, findings, summary="the checkpoint does not fit its configuration")
    return holders, unused


def _converted(conversion: Conversion) -> dict[str, Holder]:
    """The tensors that a conversion makes of its sources: which and how large shows without their data."""
    try:
        made = conversion.run(lambda tensor: torch.empty(tensor.shape, device="meta"))
    except Exception as error:
        # Sizes that do not go together surface as whatever torch makes of them.
        sources = [tensor for tensors in conversion.sources.values() for tensor in tensors]
        some = ", ".join(f"{tensor.name!r} {tensor.shape}" for tensor in sources[:4])
        raise CheckpointError(f"{conversion.first!r} cannot be made of {some} …: {first_line(error)}") from error
    return {name: Converted(tuple(value.shape), conversion, name) for name, value in made.items()}
