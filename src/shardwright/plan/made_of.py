"""Weights that are made of other tensors at every call, and the names of these."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from shardwright.layout.sizes import Size


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """A parameter or buffer, as plans see it: global shape, and ``"parameter"`` or ``"buffer"``.

    ``values_of``: the weight whose quantised values it holds; '' for any other tensor.
    """

    shape: tuple[Size, ...]
    kind: str = "parameter"
    values_of: str = ""


_ORIGINAL = re.compile(r"((?:.*\.)?)(?:parametrizations\.([^.]+)\.(original)\d*|([^.]+)_(orig|mask|g|v))")


def made_of_others(tensors: Mapping[str, TensorInfo]) -> dict[str, list[str]]:
    """The names of weights that are no tensors themselves → the tensors that are cut where such a weight is cut.

    Of a quantised weight those are its values: scales and zero points follow, each along what it scales. Of what a
    parametrization makes, see `made_by_parametrization`.
    """
    made = made_by_parametrization(tensors)
    made.update({info.values_of: [name] for name, info in tensors.items() if info.values_of})
    return made


def made_by_parametrization(tensors: Mapping[str, TensorInfo]) -> dict[str, list[str]]:
    """The names of tensors that a parametrization makes at every call → the tensors it makes them of.

    ``torch.nn.utils.parametrize`` keeps them as ``parametrizations.weight.original`` (or ``original0``,
    ``original1``), the hooks before it and pruning as ``weight_g`` and ``weight_v``, or ``weight_orig`` (and its mask).
    """
    found: dict[str, dict[str, str]] = {}
    for name in tensors:
        if match := _ORIGINAL.fullmatch(name):
            prefix, new, original, old, suffix = match.groups()
            found.setdefault(prefix + (new or old), {})[name] = original or suffix
    made = {}
    for name, parts in found.items():
        if name not in tensors and ({"original", "orig"} & set(parts.values()) or {"g", "v"} <= set(parts.values())):
            # A spectral norm keeps a vector of the name that a weight norm gives its matrix.
            most = max(len(tensors[part].shape) for part in parts)
            made[name] = [part for part in parts if len(tensors[part].shape) == most]
    return made
