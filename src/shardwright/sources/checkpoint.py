"""From a checkpoint to a package: build without weights, export, shard, then stream every rank's slices to its file.

No process holds the whole model: weights stay in the checkpoint's files until a rank's piece of one is written. The
most memory that is needed at a time is the largest tensor of the model and a rank's piece of it.
"""

import os
import re
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
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
from shardwright.program.write import replace_weights
from shardwright.sources.hugging_face.checkpoint_files import Unused
from shardwright.sources.hugging_face.ties import settle_ties
from shardwright.sources.quantized.formats import Quantization, read_quantization
from shardwright.sources.quantized.plain_numbers import check_plain


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
    cache_length: int | None = None,
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

    ``dtype``: of the weights; absent: the checkpoint's (float32 for GGUF). Quantised weights stay packed, and are
    unpacked beside the matmul to that dtype; ``dequantize``: they are unpacked to this one as they are read, and plain
    weights are written, all of that dtype. ``cache_length``: the tokens that a
    decoder's key-value cache holds; absent: what the model allows, at most 2,048; 0: no cache, whole sequences.
    ``inputs`` to ``lean``: as `shard` takes them. An interrupted call that is made again goes on with the ranks not
    yet written.

    Warns of tensors and files of the checkpoint that nothing reads (`CheckpointWarning`). Raises `CheckpointError` when
    the checkpoint cannot be read, else as `shard` and `ShardedProgram.save` do.

    >>> sharded = shard_checkpoint("SmolLM2-135M/", "out/", mesh=3)
    """
    opened = open_checkpoint(
        checkpoint, dtype=dtype, dequantize=dequantize, cache_length=cache_length, progress=progress
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


def open_checkpoint(
    checkpoint: str | os.PathLike[str],
    *,
    dtype: torch.dtype | None = None,
    dequantize: torch.dtype | None = None,
    cache_length: int | None = None,
    progress: Progress | None = None,
) -> Checkpoint:
    """A checkpoint's program and where its weights are; none are read. Arguments as `shard_checkpoint` takes them.

    Warns of what the checkpoint holds and nothing reads, unless the model's class expects that.
    """
    try:
        from shardwright.sources.hugging_face import build, recipes
    except ImportError as error:
        raise CheckpointError(
            f"checkpoints need transformers, which is not installed ({error})\n  try: pip install 'shardwright[hf]'"
        ) from error
    report = progress or (lambda doing, done, total: None)
    report("reading the configuration", 0, 0)
    for name, given in {"dtype": dtype, "dequantize": dequantize}.items():
        if given is not None and not isinstance(given, torch.dtype):
            raise CheckpointError(f"{name} must be a dtype of torch such as torch.bfloat16, got {given!r}")
    if dtype is not None and dequantize not in (None, dtype):
        raise CheckpointError(
            f"weights cannot be of the dtype {dtype} and dequantised to {dequantize} both\n"
            "  try: dequantize alone, which is the dtype of all weights"
        )
    if cache_length is not None:
        check_count(cache_length, "cache_length", error=CheckpointError)
    folder, gguf = build.find_checkpoint(check_path(checkpoint, "the checkpoint", error=CheckpointError))
    config = build.read_config(folder, gguf)
    tokenizer = build.read_tokenizer(folder, gguf)
    quantization = read_quantization(config, dequantize) if gguf is None else None
    report("building the model", 0, 0)
    model, mode = build.build_model(config, folder, dequantize or dtype or _dtype(config, gguf))
    holders, unused, fingerprint = _find_weights(model, folder, gguf, quantization)
    unused = [*unused, *settle_ties(model, holders, unused)]
    _tell_unused(model, unused)
    report("exporting", 0, 0)
    decoder = None
    if not recipes.is_decoder(model):
        exported = recipes.export_encoder(model, mode)
    elif cache_length == 0:
        exported = recipes.export_scores(model, mode)
    else:
        length = recipes.default_cache_length(config) if cache_length is None else cache_length
        exported = recipes.export_decoder(model, mode, length)
        decoder = DecoderEntry(length, _end_ids(folder, config, tokenizer))
    report("functionalising", 0, 0)
    exported = replace_weights(functional(exported), lambda name, tensor: _on_meta(name, tensor, holders))
    source = CheckpointSource(holders, fingerprint)
    return Checkpoint(exported, source, decoder, _tokenizer_files(tokenizer), unused)


def _dtype(config: Any, gguf: str | None) -> torch.dtype:
    given = getattr(config, "dtype", None)
    return given if isinstance(given, torch.dtype) and gguf is None else torch.float32


def _find_weights(
    model: Any, folder: Path, gguf: str | None, quantization: Quantization | None = None
) -> tuple[dict[str, Holder], list[Unused], str]:
    from shardwright.sources.hugging_face.checkpoint_files import files_digest, index_files, stored_tensors
    from shardwright.sources.hugging_face.gguf import quantized_tensors
    from shardwright.sources.hugging_face.names import match_names

    if gguf is not None:
        return *quantized_tensors(folder / gguf, model), files_digest([folder / gguf])
    chosen = getattr(model.config, "transformers_weights", None)
    stored, left = stored_tensors(folder, chosen)
    read = {*(tensor.file for tensor in stored.values()), *index_files(folder, chosen)}
    if quantization is None:
        holders, unused = match_names(model, stored)
        check_plain(model, holders, stored, None)
        return holders, [*unused, *left], files_digest(read)
    placed = quantization.place(model, stored)
    holders, unused = match_names(model, placed.stored)
    check_plain(model, holders, stored, quantization.method)
    return {**holders, **placed.stacks}, [*unused, *placed.unused, *left], files_digest(read)


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


def _end_ids(folder: Path, config: Any, tokenizer: Any) -> list[int]:
    """The ids that end a text: the generation settings', the configuration's and the tokenizer's."""
    from transformers import GenerationConfig

    found: list[Any] = [config.get_text_config().eos_token_id]
    if (folder / "generation_config.json").is_file():
        found.append(GenerationConfig.from_pretrained(folder, local_files_only=True).eos_token_id)
    found.append(getattr(tokenizer, "eos_token_id", None))
    flat = [number for ids in found for number in (ids if isinstance(ids, list) else [ids])]
    return sorted({int(number) for number in flat if number is not None})


def _tokenizer_files(tokenizer: Any) -> dict[str, bytes]:
    if tokenizer is None:
        return {}
    with tempfile.TemporaryDirectory(prefix="shardwright-") as folder:
        tokenizer.save_pretrained(folder)
        return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir()) if path.is_file()}
