"""GGUF files: quantised tensors by the model's names, dequantised one at a time.

Names, the few re-orderings that llama.cpp does, and the experts that it stores apart are transformers' own tables and
processors; only its loop, which holds the whole model, is not used. What a processor makes of a tensor, and of which
shape, is asked before any data is read, on zeros that take no memory.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from shardwright.errors import CheckpointError, Finding, first_line, raise_findings
from shardwright.layout.box import Holder, WholeTensor
from shardwright.sources.hugging_face.checkpoint_files import Unused
from shardwright.sources.hugging_face.ties import misshapen
from shardwright.sources.quantized.gguf_blocks import KEPT_KINDS
from shardwright.sources.quantized.gguf_packed import keep_blocks, lies_in_blocks
from shardwright.sources.quantized.weight import hold_packed


@dataclass(frozen=True)
class Tables:
    """transformers' tables for one model: GGUF name → the model's, and what rearranges tensors."""

    names: Mapping[str, str]
    processor: Any

    def make(self, stored: Iterable[tuple[str, np.ndarray]]) -> dict[str, np.ndarray | torch.Tensor]:
        """The model's tensors, by name, that stored ones make together, as transformers' loop makes them."""
        parsed: dict[str, dict[str, Any]] = {"tensors": {}}
        for name, weights in stored:
            made = self.processor.process(
                weights=weights, name=name, tensor_key_mapping=self.names, parsed_parameters=parsed
            )
            if made.name in self.names:
                parsed["tensors"][self.names[made.name]] = made.weights
        return parsed["tensors"]

    def parts_of(self, name: str) -> list[str]:
        """The GGUF names of what one of the model's tensors is put together from."""
        return [stored for stored, made in self.names.items() if made == name]

    def shapes(self, tensor: Any) -> dict[str, tuple[int, ...]]:
        """The names and shapes of what a stored tensor makes, alone; raises `CheckpointError` where it cannot."""
        try:
            made = self.make([(tensor.name, np.broadcast_to(np.zeros((), np.float32), _shape(tensor)))])
        except Exception as error:
            # Sizes that a processor does not expect surface as whatever numpy makes of them.
            what = f"{tensor.name!r} of shape {_shape(tensor)}"
            raise CheckpointError(f"{what} cannot be arranged as the model needs it: {first_line(error)}") from error
        return {name: tuple(tensor.shape) for name, tensor in made.items()}


@dataclass(frozen=True)
class QuantizedTensor(WholeTensor):
    """One of the model's tensors, made of one or several of a GGUF file."""

    name: str
    tensors: tuple[Any, ...]
    tables: Tables

    def copy(self, box: tuple[slice, ...], out: torch.Tensor) -> None:
        """Copy a box of the tensor into ``out``; the whole of it is dequantised for that, in float32."""
        from gguf import dequantize

        made = self.tables.make((t.name, dequantize(t.data, t.tensor_type)) for t in self.tensors)[self.name]
        if isinstance(made, np.ndarray):
            # Tensors that are not quantised come as they lie in the file, which may not be written to.
            made = torch.from_numpy(made if made.flags.writeable else made.copy())
        out.copy_(made[box])


def quantized_tensors(path: Path, model: Any, *, packed: bool = False) -> tuple[dict[str, Holder], list[Unused]]:
    """What holds each of the model's tensors, by name, and the file's tensors that the model has no use for.

    ``packed``: the model's modules hold blocks as they lie in the file, where their tensors are made row by row.

    Raises `CheckpointError` when the file is damaged, with every tensor that cannot be read or rearranged.
    """
    from gguf import GGUFReader
    from transformers.modeling_gguf_pytorch_utils import (
        TENSOR_PROCESSORS,
        TensorProcessor,
        get_gguf_hf_weights_map,
        read_field,
    )

    try:
        # By its name, as transformers asks for it: it is parsed once for all (`gguf_repeats`).
        reader = GGUFReader(str(path))
        architecture = read_field(reader, "general.architecture")[0]
    except Exception as error:
        # The reader checks nothing: a short file surfaces as whatever numpy makes of it.
        raise CheckpointError(f"{path} is not a GGUF file, or it is truncated: {error}") from error
    processor = TENSOR_PROCESSORS.get(architecture, TensorProcessor)(config=model.config.to_dict())
    tables = Tables(get_gguf_hf_weights_map(model, processor), processor)
    wanted = {name: tuple(held.shape) for name, held in model.state_dict().items()}
    sources: dict[str, list[Any]] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    unused, findings = [], []
    for tensor in reader.tensors:
        try:
            made = _made_of(tensor, tables, wanted)
        except CheckpointError as error:
            findings.append(Finding(str(error)))
            continue
        for name, shape in made.items():
            sources.setdefault(name, []).append(tensor)
            # Each of several makes the whole with its own place filled; one that makes another whole is what is wrong.
            shapes[name] = shape if shapes.get(name, wanted[name]) == wanted[name] else shapes[name]
        if not made:
            unused.append(Unused(tensor.name, path.name, "the model has no such tensor"))
    holders: dict[str, Holder] = {
        name: QuantizedTensor(shapes[name], name, tuple(tensors), tables) for name, tensors in sources.items()
    }
    findings += [
        Finding(f"{path} lacks {part!r}, a part of {name!r}")
        for name, tensors in sources.items()
        for part in tables.parts_of(name)
        if not any(tensor.name in (part, f"{part}.weight") for tensor in tensors)
    ]
    if packed:
        findings += _not_kept(sources)
    if findings:
        raise_findings(CheckpointError, [*findings, *misshapen(model, holders)], summary=f"{path} cannot be read")
    if packed:
        _keep_packed(model, path, holders, tables)
    return holders, unused


def _not_kept(sources: Mapping[str, Iterable[Any]]) -> list[Finding]:
    """A finding for every tensor whose blocks cannot be kept, and where there are no blocks at all."""
    held = [tensor for tensors in sources.values() for tensor in tensors]
    if not any(map(lies_in_blocks, held)):
        return [Finding("none of its tensors lies in blocks", remedies=("without packed (--packed)",))]
    return [
        Finding(
            f"{tensor.name!r} is of the kind {tensor.tensor_type.name}, whose blocks are not kept",
            remedies=(f"without packed (--packed), or a file of {', '.join(KEPT_KINDS)}",),
        )
        for tensor in held
        if lies_in_blocks(tensor) and tensor.tensor_type.name not in KEPT_KINDS
    ]


def _keep_packed(model: Any, path: Path, holders: dict[str, Holder], tables: Tables) -> None:
    """Have the model's modules hold as blocks what can be held so, and ``holders`` hold these."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    stored = Counter(id(parameters[name]) for name in holders if name in parameters)
    for name, held in list(holders.items()):
        assert isinstance(held, QuantizedTensor)
        parameter, shape = parameters.get(name), held.shape
        if parameter is None or shape != tuple(parameter.shape) or not all(map(lies_in_blocks, held.tensors)):
            continue
        if stored[id(parameter)] > 1:
            # What is tied and stored under several names is compared, and may be untied.
            continue

        def make(arrays: Sequence[np.ndarray], held: QuantizedTensor = held) -> np.ndarray | torch.Tensor:
            return tables.make((t.name, one) for t, one in zip(held.tensors, arrays, strict=True))[held.name]

        kept = keep_blocks(name, shape, held.tensors, make, path)
        if kept is not None:
            hold_packed(model, name, kept)
            del holders[name]
            prefix = name.rpartition(".")[0]
            holders |= {f"{prefix}.{part}" if prefix else part: blocks for part, blocks in kept.parts.items()}


def _made_of(tensor: Any, tables: Tables, wanted: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """The names and shapes of what one stored tensor makes, alone or with others, of the model's tensors ``wanted``.

    Raises `CheckpointError` when it cannot be dequantised, or not be rearranged though its shape is right.
    """
    try:
        made = tables.shapes(tensor)
    except CheckpointError:
        name = tables.names.get(tensor.name, "")
        if wanted.get(name) in (None, _shape(tensor)):
            raise
        made = {name: _shape(tensor)}
    made = {name: shape for name, shape in made.items() if name in wanted}
    if made:
        _check_kind(tensor)
    return made


def _check_kind(tensor: Any) -> None:
    """Raise `CheckpointError` for a quantisation that the gguf library cannot undo, before all of it is read."""
    from gguf import dequantize

    try:
        dequantize(tensor.data[:1], tensor.tensor_type)
    except Exception as error:
        # The library says what it lacks in several kinds.
        raise CheckpointError(f"{tensor.name!r} cannot be dequantised: {first_line(error)}") from error


def _shape(tensor: Any) -> tuple[int, ...]:
    """The shape of a stored tensor once it is dequantised: a file has the innermost dim first."""
    return tuple(int(size) for size in reversed(tensor.shape))
