"""From a checkpoint to a package: build without weights, export, shard, then stream every rank's slices to its file.

No process holds the whole model: weights stay in the checkpoint's files until a rank's piece of one is written. The
most memory that is needed at a time is the largest tensor of the model and a rank's piece of it.
"""

import os
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.export import ExportedProgram

from shardwright.api import shard
from shardwright.assign.hardware import CostLike
from shardwright.compiler.sharded import ShardedProgram
from shardwright.errors import CheckpointError, CheckpointWarning
from shardwright.layout.box import Holder, Region, read_region
from shardwright.layout.values import check_count, check_path
from shardwright.lean.options import Lean
from shardwright.package.manifest import DecoderEntry
from shardwright.package.save import Progress, save
from shardwright.plan.accept import PlanLike
from shardwright.program.flatten import functional
from shardwright.program.quiet import quiet_imports
from shardwright.program.write import replace_weights
from shardwright.sources.example import ExampleLike
from shardwright.sources.hugging_face.checkpoint_files import Unused
from shardwright.sources.hugging_face.ties import settle_ties


@dataclass(frozen=True)
class CheckpointSource:
    """Reads pieces of a checkpoint's tensors by the model's names; see `package.save.WeightSource`."""

    holders: Mapping[str, Holder]
    fingerprint: str

    def read(self, name: str, region: Region, dtype: torch.dtype) -> torch.Tensor:
        """The piece of one tensor, cast to ``dtype``."""
        return read_region(region, [self.holders[name]], dtype)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint opened for sharding.

    ``exported``: the program, its parameters on the meta device. ``source``: reads them. ``extras``: the tokenizer's
    files. ``unused``: tensors and files of the checkpoint that nothing reads.
    """

    exported: ExportedProgram
    source: CheckpointSource
    decoder: DecoderEntry | None
    extras: Mapping[str, bytes]
    unused: Sequence[Unused]

    def save(self, sharded: ShardedProgram, path: str | os.PathLike[str], *, progress: Progress | None = None) -> None:
        """Write a sharding of ``exported`` as a package, weights streamed; raises `PackageError`."""
        save(sharded, path, source=self.source, extras=self.extras, decoder=self.decoder, progress=progress)


def shard_checkpoint(
    checkpoint: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    mesh: Any,
    plan: PlanLike = "auto",
    dtype: torch.dtype | None = None,
    dequantize: torch.dtype | None = None,
    packed: bool = False,
    cache_length: int | None = None,
    batch: int = 1,
    example: ExampleLike | None = None,
    method: str = "forward",
    variant: str | None = None,
    inputs: Mapping[str, Any] | None = None,
    outputs: Any = None,
    budget: Mapping[str, int] | None = None,
    cost: CostLike | None = None,
    slack: float = 0.1,
    effort: float = 1.0,
    time_limit_s: float | None = None,
    discover: bool = False,
    dump: str | os.PathLike[str] | None = None,
    lean: bool | Lean = True,
    progress: Progress | None = None,
) -> ShardedProgram:
    """Shard a Hugging Face folder (config and safetensors) or a GGUF file into the package folder ``output``.

    The folder is of a model of transformers, or of diffusers: one part of a pipeline, ``"FLUX.1-dev/transformer"``.

    ``dtype``: of the weights; absent: the checkpoint's (float32 for GGUF). Quantised weights stay packed, and are
    unpacked beside the matmul to that dtype; ``dequantize``: they are unpacked to this one as they are read, and plain
    weights are written, all of that dtype. Those of a GGUF file are unpacked as they are read unless ``packed`` is
    True. ``cache_length``: the tokens that a decoder's key-value cache holds; absent: what the model allows, at most
    2,048; 0: no cache, whole sequences.
    ``batch``: how many texts a decoder writes beside each other, each with a cache of that length.

    ``example``: inputs by parameter that the model is exported with, or a YAML file of them: tensors, of which shape
    and dtype count, or their text, ``"float32[batch=2, 4, 64, 64]"``, where a size with a name may change; or plain
    values. A model of diffusers needs one; absent, others take token ids. ``method``: what is exported with it (an
    autoencoder's ``"decode"``). ``variant``: of the weight files, as in ``model.fp16.safetensors``.

    ``inputs`` to ``lean``: as `shard` takes them. An interrupted call that is made again goes on with the ranks not
    yet written.

    Warns of tensors and files of the checkpoint that nothing reads (`CheckpointWarning`). Raises `CheckpointError` when
    the checkpoint cannot be read, else as `shard` and `ShardedProgram.save` do.

    >>> sharded = shard_checkpoint("SmolLM2-135M/", "out/", mesh=3)
    """
    opened = open_checkpoint(
        checkpoint,
        dtype=dtype,
        dequantize=dequantize,
        packed=packed,
        cache_length=cache_length,
        batch=batch,
        example=example,
        method=method,
        variant=variant,
        progress=progress,
    )
    if progress is not None:
        progress("sharding", 0, 0)
    sharded = shard(
        opened.exported,
        mesh=mesh,
        plan=plan,
        inputs=inputs,
        outputs=outputs,
        budget=budget,
        cost=cost,
        slack=slack,
        effort=effort,
        time_limit_s=time_limit_s,
        discover=discover,
        dump=dump,
        lean=lean,
    )
    opened.save(sharded, output, progress=progress)
    return sharded


@quiet_imports()
def open_checkpoint(
    checkpoint: str | os.PathLike[str],
    *,
    dtype: torch.dtype | None = None,
    dequantize: torch.dtype | None = None,
    packed: bool = False,
    cache_length: int | None = None,
    batch: int = 1,
    example: ExampleLike | None = None,
    method: str = "forward",
    variant: str | None = None,
    progress: Progress | None = None,
) -> Checkpoint:
    """A checkpoint's program and where its weights are; none are read. Arguments as `shard_checkpoint` takes them.

    Warns of what the checkpoint holds and nothing reads, unless the model's class expects that.
    """
    try:
        from shardwright.sources.diffusers.find_component import find_component, is_component
        from shardwright.sources.hugging_face import build
        from shardwright.sources.hugging_face.find_model import find_model
        from shardwright.sources.hugging_face.gguf_repeats import parsed_once
        from shardwright.sources.hugging_face.recipes import check_rows
    except ImportError as error:
        raise CheckpointError(
            f"checkpoints need transformers, which is not installed ({error})\n  try: pip install 'shardwright[hf]'"
        ) from error
    report = progress or (lambda doing, done, total: None)
    _check_arguments(dtype, dequantize, packed, cache_length, batch, method, variant)
    folder, gguf = build.find_checkpoint(check_path(checkpoint, "the checkpoint", error=CheckpointError))
    how: dict[str, Any] = {"example": example, "method": method, "variant": variant, "report": report}
    if gguf is None and is_component(folder):
        if cache_length is not None or batch > 1:
            what = "cache_length" if cache_length is not None else "batch"
            raise CheckpointError(f"{folder} holds a model of diffusers, which keeps no tokens\n  try: no {what}")
        if packed:
            raise CheckpointError(f"{folder} holds a model of diffusers, which is read plain\n  try: without packed")
        found = find_component(folder, dtype=dequantize or dtype, **how)
    else:
        cache = {"cache_length": cache_length, "batch": batch}
        with parsed_once(gguf):
            found = find_model(folder, gguf, dtype=dtype, dequantize=dequantize, packed=packed, **cache, **how)
    unused = [*found.unused, *settle_ties(found.model, found.holders, found.unused)]
    _tell_unused(found.model, unused)
    report("exporting", 0, 0)
    exported = found.export()
    report("functionalising", 0, 0)
    exported = functional(exported)
    if found.decoder is not None and found.decoder.batch > 1:
        check_rows(found.model, exported, found.decoder)
    exported = replace_weights(exported, lambda name, tensor: _on_meta(name, tensor, found.holders))
    source = CheckpointSource(found.holders, found.fingerprint)
    return Checkpoint(exported, source, found.decoder, found.extras, unused)


def _check_arguments(
    dtype: Any, dequantize: Any, packed: Any, cache_length: Any, batch: Any, method: Any, variant: Any
) -> None:
    for name, given in {"dtype": dtype, "dequantize": dequantize}.items():
        if given is not None and not isinstance(given, torch.dtype):
            raise CheckpointError(f"{name} must be a dtype of torch such as torch.bfloat16, got {given!r}")
    if dtype is not None and dequantize not in (None, dtype):
        raise CheckpointError(
            f"weights cannot be of the dtype {dtype} and dequantised to {dequantize} both\n"
            "  try: dequantize alone, which is the dtype of all weights"
        )
    if not isinstance(packed, bool):
        raise CheckpointError(f"packed must be True or False, got {packed!r}")
    if packed and dequantize is not None:
        raise CheckpointError("weights cannot stay packed and be dequantised both\n  try: one of packed and dequantize")
    if cache_length is not None:
        check_count(cache_length, "cache_length", error=CheckpointError)
    check_count(batch, "batch", least=1, error=CheckpointError)
    for name, given in {"method": method, "variant": variant}.items():
        if given is not None and not (isinstance(given, str) and re.fullmatch(r"\w+", given)):
            raise CheckpointError(f"{name} must be a name such as {_NAMES[name]!r}, got {given!r}")


_NAMES = {"method": "decode", "variant": "fp16"}


def _tell_unused(model: Any, unused: Sequence[Unused]) -> None:
    """Warn of what is not read, but for names that old checkpoints of the model's class have and it computes now."""
    patterns = [re.compile(pattern) for pattern in getattr(model, "_keys_to_ignore_on_load_unexpected", None) or ()]
    computed = {name.rpartition(".")[2] for name, _ in model.named_buffers()} - {
        name.rpartition(".")[2] for name in model.state_dict()
    }
    odd = [
        str(one)
        for one in unused
        if not one.name or not (one.name.rpartition(".")[2] in computed or any(p.search(one.name) for p in patterns))
    ]
    if odd:
        more = f" and {len(odd) - 5} more" if len(odd) > 5 else ""
        warnings.warn(f"not read from the checkpoint: {', '.join(odd[:5])}{more}", CheckpointWarning, stacklevel=3)


def _on_meta(name: str, tensor: torch.Tensor, holders: Mapping[str, Holder]) -> torch.Tensor:
    """A tensor that the checkpoint holds as a meta tensor; computed buffers stay as they are."""
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta") if name in holders else tensor.detach()
