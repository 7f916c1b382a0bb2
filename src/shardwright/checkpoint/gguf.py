"""GGUF files: quantised tensors by the model's names, dequantised one at a time.

Names and the few re-orderings that llama.cpp does are transformers' own tables; only its loop, which holds the whole
model, is not used.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from shardwright.checkpoint.files import Unused
from shardwright.errors import CheckpointError
from shardwright.package.regions import Holder, WholeTensor


@dataclass(frozen=True)
class QuantizedTensor(WholeTensor):
    """One tensor of a GGUF file."""

    tensor: Any
    processor: Any

    def copy(self, box: tuple[slice, ...], out: torch.Tensor) -> None:
        """Copy a box of the tensor into ``out``; the whole of it is dequantised for that, in float32."""
        from gguf import dequantize

        whole = dequantize(self.tensor.data, self.tensor.tensor_type)
        # The tables rearrange within one tensor; those that merge several need what is not given here.
        weights = self.processor.process(
            weights=whole, name=self.tensor.name, tensor_key_mapping={}, parsed_parameters={}
        ).weights
        # Tensors that are not quantised come as they lie in the file, which may not be written to.
        out.copy_(torch.from_numpy(weights if weights.flags.writeable else weights.copy())[box])


def quantized_tensors(path: Path, model: Any) -> tuple[dict[str, Holder], list[Unused]]:
    """What holds each of the model's tensors, by name, and the file's tensors that the model has no use for.

    Raises `CheckpointError` when the file is damaged or its architecture stores tensors that must be merged.
    """
    from gguf import GGUFReader
    from transformers.modeling_gguf_pytorch_utils import (
        TENSOR_PROCESSORS,
        TensorProcessor,
        get_gguf_hf_weights_map,
        read_field,
    )

    try:
        reader = GGUFReader(path)
        architecture = read_field(reader, "general.architecture")[0]
    except Exception as error:
        # The reader checks nothing: a short file surfaces as whatever numpy makes of it.
        raise CheckpointError(f"{path} is no GGUF file, or it is truncated: {error}") from error
    processor = TENSOR_PROCESSORS.get(architecture, TensorProcessor)(config=model.config.to_dict())
    names = get_gguf_hf_weights_map(model, processor)
    wanted = model.state_dict()
    holders: dict[str, Holder] = {}
    unused: list[Unused] = []
    for tensor in reader.tensors:
        name = names.get(tensor.name)
        if name is None or name not in wanted:
            unused.append(Unused(tensor.name, path.name, "the model has no such tensor"))
            continue
        holders[name] = QuantizedTensor(tuple(wanted[name].shape), tensor, processor)
    return holders, unused
