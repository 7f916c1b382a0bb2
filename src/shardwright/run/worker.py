"""What a launched rank does: open its piece of a package, run it on inputs from a file, write outputs on rank 0."""

from collections.abc import Mapping
from typing import Any

import torch

from shardwright.program.torch_private import pytree
from shardwright.run.load import load
from shardwright.run.tensor_files import named_inputs, read_inputs, write_outputs


def run_package(
    package: str, inputs: str, output: str, how: Mapping[str, Any] | None = None
) -> list[tuple[str, str, str]]:
    """Run one rank; the name, shape and dtype of every output. ``how``: further arguments of `load`."""
    with torch.no_grad():
        module = load(package, **(how or {}))
        found = read_inputs(inputs, module.manifest.input_names(), module.manifest.constants())
        args, kwargs = named_inputs(module.exported, found)
        result = module(*args, **kwargs)
    flat = pytree.tree_leaves(result)
    named: dict[str, Any] = dict(zip([entry.name for entry in module.manifest.outputs], flat, strict=True))
    tensors = {name: value for name, value in named.items() if isinstance(value, torch.Tensor)}
    if module.rank == 0:
        write_outputs(output, tensors)
    return [(name, str(tuple(t.shape)), str(t.dtype).removeprefix("torch.")) for name, t in tensors.items()]
