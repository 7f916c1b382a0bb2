"""Tied tensors: which of a model's names share one tensor, by what the checkpoint stores.

A configuration says which parameters are one. The checkpoint may know better: a head that is stored beside the
embedding and differs from it is a head of its own. As in transformers, names stored with other values are untied, and
a name that is not stored shares the tensor of one that is.
"""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from shardwright.errors import CheckpointError, CheckpointWarning, Finding, near_misses, raise_findings
from shardwright.layout.box import Holder, Region, read_region
from shardwright.package.slices import BLOCK_BYTES
from shardwright.sources.hugging_face.checkpoint_files import StoredTensor, Unused


def settle_ties(model: Any, holders: dict[str, Holder], unused: Sequence[Unused] = ()) -> list[Unused]:
    """Give every name of a tied parameter the holder of one, and its own tensor where it is stored with other values.

    ``unused``: what is known not to be read; returned: what else is not. Warns of what is untied. Raises
    `CheckpointError` when a parameter has no holder, or a tensor's has another shape.
    """
    named = dict(model.named_parameters(remove_duplicate=False))
    findings = misshapen(model, holders)
    groups = _groups(model, named)
    findings += [_lacking(names[0], model, holders, unused) for names in groups if not set(names) & holders.keys()]
    raise_findings(CheckpointError, findings, summary="the checkpoint does not fit its configuration")
    overruled = [one for names in groups for one in _one_a_place(model, names, holders)]
    apart = [one for names in groups for one in _settle(model, names, named[names[0]], holders)]
    if apart:
        warnings.warn(
            "the configuration ties these tensors, but the checkpoint stores different ones, which are kept apart: "
            + ", ".join(f"{name} and {leader}" for name, leader in apart),
            CheckpointWarning,
            stacklevel=3,
        )
    return overruled


def _one_a_place(model: Any, names: Sequence[str], holders: dict[str, Holder]) -> Iterable[Unused]:
    """Where one module has several names, what is stored under the last of them is its tensor; the others."""
    from transformers.core_model_loading import dot_natural_key

    places: dict[tuple[int, str], list[str]] = {}
    for name in names:
        places.setdefault(_place(model, name), []).append(name)
    for same in places.values():
        stored = sorted((name for name in same if name in holders), key=dot_natural_key)
        for name in stored[:-1]:
            file = getattr(holders[name], "file", None)
            yield Unused(name, file.name if file else "", f"{stored[-1]} is read for the same module")
        holders.update({name: holders[stored[-1]] for name in same if stored})


def _settle(
    model: Any, names: Sequence[str], parameter: torch.Tensor, holders: dict[str, Holder]
) -> Iterable[tuple[str, str]]:
    """Settle the names of one parameter; those that are untied, each with the name they were tied to."""
    leader = next(name for name in names if name in holders)
    places = {_place(model, leader)}
    for name in names:
        if _place(model, name) in places:
            continue
        if name not in holders or _equal(holders[name], holders[leader], parameter):
            holders[name] = holders[leader]
            continue
        places.add(_place(model, name))
        module, _, last = name.rpartition(".")
        own = torch.nn.Parameter(torch.empty_like(parameter), requires_grad=parameter.requires_grad)
        setattr(model.get_submodule(module), last, own)
        yield name, leader


def _groups(model: Any, named: dict[str, torch.Tensor]) -> list[list[str]]:
    """The names of every parameter; of tied ones first the source of the ties, then its targets in their order."""
    ties = getattr(model, "all_tied_weights_keys", None) or {}
    rank = {name: number for number, name in enumerate([*ties.values(), *ties])}
    groups: dict[int, list[str]] = {}
    for name, parameter in named.items():
        groups.setdefault(id(parameter), []).append(name)
    return [sorted(names, key=lambda name: rank.get(name, len(rank))) for names in groups.values()]


def _place(model: Any, name: str) -> tuple[int, str]:
    module, _, last = name.rpartition(".")
    return id(model.get_submodule(module)), last


def misshapen(model: Any, holders: Mapping[str, Holder]) -> list[Finding]:
    """A finding for every tensor that is stored with another shape than the model's."""
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    findings = []
    for name, tensor in model.state_dict().items():
        wanted, held = tuple(tensor.shape), holders.get(name)
        if held is not None and held.region.shape != wanted:
            who = "the configuration says" if name in parameters else "the model makes"
            findings.append(Finding(f"{name!r} has shape {held.region.shape}, {who} {wanted}"))
    return findings


def _equal(one: Holder, other: Holder, parameter: torch.Tensor) -> bool:
    """Whether two holders give a parameter the same values, in its dtype."""
    if one is other:
        return True
    shape, dtype = tuple(parameter.shape), parameter.dtype
    rows = shape[0] if shape else 1
    # Tensors that are made whole are made once; stored ones are read in blocks.
    in_blocks = shape and isinstance(one, StoredTensor) and isinstance(other, StoredTensor)
    step = max(1, BLOCK_BYTES * rows // max(1, parameter.numel() * dtype.itemsize)) if in_blocks else max(1, rows)
    for start in range(0, rows, step):
        spans = Region.whole(shape).spans
        region = Region((((start, min(rows, start + step)),), *spans[1:])) if shape else Region(spans)
        if not torch.equal(read_region(region, [one], dtype), read_region(region, [other], dtype)):
            return False
    return True


def _lacking(name: str, model: Any, holders: dict[str, Holder], unused: Sequence[Unused]) -> Finding:
    """A finding for a parameter that the checkpoint has no tensor for."""
    remedies = [f"{one.file} holds it, but is not read there: {one.why}" for one in unused if one.name == name]
    ties = getattr(model, "_tied_weights_keys", None)
    source = ties.get(name) if isinstance(ties, dict) else None
    if source in holders:
        remedies.append(f"tie_word_embeddings=true in the configuration, if it is meant to be {source!r}")
    remedies += [f"the checkpoint holds {close!r}" for close in near_misses(name, holders)]
    return Finding(f"the checkpoint lacks {name!r}", remedies=tuple(remedies))
