"""Whether what is read as plain numbers is plain: quantised numbers without their scale would be wrong, silently."""

import re
from collections.abc import Iterable, Mapping, Sequence

import torch

from shardwright.errors import CheckpointError, Finding, raise_findings
from shardwright.layout.box import Holder
from shardwright.sources.hugging_face.checkpoint_files import StoredTensor
from shardwright.sources.hugging_face.names import Converted

_SCALE = re.compile(r"scale|zero|absmax|SCB$")
"""In the last token of the name of what goes with quantised numbers."""


def scale_names(names: Iterable[str]) -> list[str]:
    """Those of stored names that say they are of scales or zero points."""
    return [name for name in names if _SCALE.search(name.rpartition(".")[2])]


def check_plain(
    model: torch.nn.Module, holders: Mapping[str, Holder], stored: Mapping[str, StoredTensor], method: str | None
) -> None:
    """Raise `CheckpointError` with every floating-point tensor of the model that would be read from quantised numbers.

    Integers are; 8-bit floats are where the configuration names a ``method`` of quantisation or a scale lies beside
    them. What the model holds packed has the dtype that is stored. ``stored``: all of the checkpoint.
    """
    beside: dict[str, list[str]] = {}
    for name in scale_names(stored):
        beside.setdefault(name.rpartition(".")[0], []).append(name)
    findings = []
    for name, tensor in model.state_dict().items():
        if name not in holders or not tensor.dtype.is_floating_point:
            continue
        for source in _sources(holders[name]):
            scales = [*beside.get(source.name.rpartition(".")[0], ()), *beside.get(source.name, ())]
            if _is_quantized(source.dtype, tensor.dtype, may_be_float=bool(method or scales)):
                findings.append(_finding(name, source, scales, method))
                break
    raise_findings(CheckpointError, findings, summary="weights are stored quantised, in a way that is not read")


def _sources(holder: Holder) -> Sequence[StoredTensor]:
    """The stored tensors that a tensor is read from."""
    if isinstance(holder, Converted):
        return [tensor for tensors in holder.conversion.sources.values() for tensor in tensors]
    return [holder] if isinstance(holder, StoredTensor) else []


def _is_quantized(stored: torch.dtype, wanted: torch.dtype, *, may_be_float: bool) -> bool:
    if stored == wanted or stored.is_complex:
        return False
    return not stored.is_floating_point or (may_be_float and stored.itemsize == 1)


def _finding(name: str, source: StoredTensor, scales: Sequence[str], method: str | None) -> Finding:
    own = "" if source.name == name else f" ({source.name!r})"
    more = f" and {len(scales) - 4} more" if len(scales) > 4 else ""
    found = f"beside it are {', '.join(map(repr, scales[:4]))}{more}" if scales else "there is no scale beside it"
    known = f"a checkpoint laid out as {method!r} is (docs/quantised.md)" if method else "its quantization_config back"
    return Finding(
        f"{name!r}{own} is stored as {source.dtype}, and no scale is read for it: {found}",
        remedies=(f"{known}, or the unquantised checkpoint",),
    )
