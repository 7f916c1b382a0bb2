"""A diffusers model of a folder: its configuration, its weights, and how it is exported."""

from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from shardwright.errors import CheckpointError
from shardwright.layout.box import Holder
from shardwright.sources.diffusers.build_component import build_component, find_class
from shardwright.sources.example import ExampleLike, read_example
from shardwright.sources.export_example import check_example, export_example, find_method, parameters_of
from shardwright.sources.hugging_face.checkpoint_files import (
    StoredTensor,
    Unused,
    WeightFiles,
    files_digest,
    index_files,
    stored_tensors,
)
from shardwright.sources.pipeline import CONFIG_NAME, read_json
from shardwright.sources.quantized.plain_numbers import check_plain
from shardwright.sources.unloaded import Unloaded

_STEM = "diffusion_pytorch_model"
_FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def is_component(folder: Path) -> bool:
    """Whether a folder holds a model of diffusers: its configuration names one of its classes."""
    return "_class_name" in read_json(folder / CONFIG_NAME)


def find_component(
    folder: Path,
    *,
    dtype: torch.dtype | None,
    example: ExampleLike | None,
    method: str,
    variant: str | None,
    report: Callable[[str, int, int], None],
) -> Unloaded:
    """The model of ``folder`` without its weights; raises `CheckpointError`."""
    report("reading the configuration", 0, 0)
    config = read_json(folder / CONFIG_NAME)
    _refuse_quantized(config, folder)
    kind = find_class(config, folder)
    called = find_method(kind, method)
    if example is None:
        raise _needs_example(kind, method, called)
    values = read_example(example)
    check_example(values, parameters_of(called), f"{kind.__name__}.{method}")
    named = WeightFiles.of(_STEM, variant, index_first=True)
    stored, left = stored_tensors(folder, named)
    indices = index_files(folder, named)
    report("building the model", 0, 0)
    model, mode = build_component(kind, config, folder, dtype or _most_common_dtype(stored, folder))
    holders, unused = _match_names(model, stored, has_index=bool(indices))
    check_plain(model, holders, stored, None)
    digest = files_digest({*(tensor.file for tensor in stored.values()), *indices})
    export = partial(export_example, model, mode, values, method)
    # A pipeline asks its parts for their configuration.
    return Unloaded(
        model, holders, [*unused, *left], digest, export, {CONFIG_NAME: (folder / CONFIG_NAME).read_bytes()}
    )


def _refuse_quantized(config: Mapping[str, Any], folder: Path) -> None:
    said = config.get("quantization_config")
    if said is not None:
        method = said.get("quant_method") if isinstance(said, Mapping) else said
        raise CheckpointError(
            f"{folder} is quantised by {method!r}, which is not read for models of diffusers\n"
            "  try: the folder that it was quantised from"
        )


def _needs_example(kind: type, method: str, called: Callable[..., Any]) -> CheckpointError:
    parameters = parameters_of(called)
    needed = [name for name, one in parameters.items() if one.default is one.empty]
    return CheckpointError(
        f"{kind.__name__} takes inputs of its own, and their sizes are nowhere in its folder\n"
        f"  {method} takes: {', '.join(parameters)}\n"
        f"  try: example={{{', '.join(f'{name!r}: {_SHOWN!r}' for name in needed[:1])}, …}}, or --example with a YAML "
        "file of these; a size that may change has a name, 'float32[batch=2, 4, 64, 64]'"
    )


_SHOWN = "float32[2, 4, 64, 64]"


def _most_common_dtype(stored: Mapping[str, StoredTensor], folder: Path) -> torch.dtype:
    """The dtype that most bytes are stored in."""
    counts: Counter[torch.dtype] = Counter()
    for tensor in stored.values():
        if tensor.dtype.is_floating_point:
            counts[tensor.dtype] += tensor.dtype.itemsize * torch.Size(tensor.shape).numel()
    found = counts.most_common(1)[0][0] if counts else torch.float32
    if found not in _FLOATS:
        raise CheckpointError(f"{folder} stores most weights as {found}\n  try: dtype=torch.bfloat16")
    return found


def _match_names(
    model: Any, stored: Mapping[str, StoredTensor], *, has_index: bool
) -> tuple[dict[str, Holder], list[Unused]]:
    """What holds each of the model's tensors, by name, and what the model has no use for.

    Old files name some attention weights otherwise. The class renames them, in files without an index.
    """
    named = OrderedDict(stored)
    if not has_index and hasattr(model, "_fix_state_dict_keys_on_load"):
        model._fix_state_dict_keys_on_load(named)
    wanted = model.state_dict()
    unused = [
        Unused(tensor.name, tensor.file.name, "the model has no such tensor")
        for name, tensor in named.items()
        if name not in wanted
    ]
    return {name: tensor for name, tensor in named.items() if name in wanted}, unused
