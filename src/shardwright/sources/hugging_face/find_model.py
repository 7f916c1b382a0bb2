"""A transformers model of a folder or GGUF file: its configuration, weights, tokenizer, and how it is exported."""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from shardwright.errors import CheckpointError
from shardwright.layout.box import Holder
from shardwright.package.manifest import DecoderEntry
from shardwright.sources.example import ExampleLike, read_example
from shardwright.sources.export_example import export_example
from shardwright.sources.hugging_face import build, recipes
from shardwright.sources.hugging_face.checkpoint_files import (
    MODEL_FILES,
    StoredTensor,
    Unused,
    WeightFiles,
    files_digest,
    index_files,
    stored_tensors,
)
from shardwright.sources.hugging_face.gguf import quantized_tensors
from shardwright.sources.hugging_face.names import match_names
from shardwright.sources.quantized.formats import Quantization, read_quantization
from shardwright.sources.quantized.plain_numbers import check_plain
from shardwright.sources.unloaded import Unloaded


def find_model(
    folder: Path,
    gguf: str | None,
    *,
    dtype: torch.dtype | None,
    dequantize: torch.dtype | None,
    packed: bool,
    cache_length: int | None,
    batch: int,
    example: ExampleLike | None,
    method: str,
    variant: str | None,
    report: Callable[[str, int, int], None],
) -> Unloaded:
    """The model of ``folder``, or of the file ``gguf`` in it, without its weights; raises `CheckpointError`."""
    report("reading the configuration", 0, 0)
    config = build.read_config(folder, gguf)
    values = read_example(example) if example is not None else None
    if values is None:
        build.check_takes_text(config, folder)
        if method != "forward":
            raise CheckpointError(f"the method {method!r} takes inputs of its own\n  try: example= or --example")
    elif cache_length is not None:
        raise CheckpointError("a model is exported with an example, or with a cache\n  try: example or cache_length")
    tokenizer = build.read_tokenizer(folder, gguf)
    quantization = None
    if gguf is None:
        files = _files(config, variant)
        quantization = read_quantization(config, dequantize, lambda: _paths(stored_tensors(folder, files)[0]))
    if packed and gguf is None and quantization is None:
        raise CheckpointError(f"{folder}: the checkpoint is not quantised, so nothing is packed\n  try: without packed")
    report("building the model", 0, 0)
    model, mode = build.build_model(config, folder, dequantize or dtype or _dtype(config, gguf))
    weights = find_weights(model, folder, gguf, quantization, variant, packed=packed)
    extras = tokenizer_files(tokenizer)
    if batch > 1 and (values is not None or cache_length == 0 or not recipes.is_decoder(model)):
        raise CheckpointError(
            f"batch={batch} is of texts in a decoder's key-value cache, and this program has none\n  try: without it"
        )
    if values is not None:
        export = partial(export_example, model, mode, values, method, named=True)
        return Unloaded(model, *weights, export, extras)
    if not recipes.is_decoder(model):
        return Unloaded(model, *weights, partial(recipes.export_encoder, model, mode), extras)
    if cache_length == 0:
        return Unloaded(model, *weights, partial(recipes.export_scores, model, mode), extras)
    length = recipes.default_cache_length(config) if cache_length is None else cache_length
    decoder = DecoderEntry(length, _end_ids(folder, config, tokenizer), batch)
    return Unloaded(model, *weights, partial(recipes.export_decoder, model, mode, length, batch), extras, decoder)


def _dtype(config: Any, gguf: str | None) -> torch.dtype:
    given = getattr(config, "dtype", None)
    return given if isinstance(given, torch.dtype) and gguf is None else torch.float32


def find_weights(
    model: Any,
    folder: Path,
    gguf: str | None,
    quantization: Quantization | None = None,
    variant: str | None = None,
    *,
    packed: bool = False,
) -> tuple[dict[str, Holder], list[Unused], str]:
    """What holds each of a model's tensors, by name; what of the checkpoint nothing reads; a digest of its files."""
    if gguf is not None:
        return *quantized_tensors(folder / gguf, model, packed=packed), files_digest([folder / gguf])
    files = _files(model.config, variant)
    stored, left = stored_tensors(folder, files)
    read = {*_paths(stored), *index_files(folder, files)}
    if quantization is None:
        holders, unused = match_names(model, stored)
        check_plain(model, holders, stored, None)
        return holders, [*unused, *left], files_digest(read)
    placed = quantization.place(model, stored)
    holders, unused = match_names(model, placed.stored)
    check_plain(model, holders, stored, quantization.method)
    return {**holders, **placed.stacks}, [*unused, *placed.unused, *left], files_digest(read)


def _files(config: Any, variant: str | None) -> WeightFiles:
    """The files of weights that are read."""
    if variant is not None:
        return WeightFiles.of("model", variant)
    return replace(MODEL_FILES, chosen=getattr(config, "transformers_weights", None))


def _paths(stored: Mapping[str, StoredTensor]) -> list[Path]:
    return sorted({tensor.file for tensor in stored.values()})


def _end_ids(folder: Path, config: Any, tokenizer: Any) -> list[int]:
    """The ids that end a text: the generation settings', the configuration's and the tokenizer's."""
    from transformers import GenerationConfig

    found: list[Any] = [config.get_text_config().eos_token_id]
    if (folder / "generation_config.json").is_file():
        found.append(GenerationConfig.from_pretrained(folder, local_files_only=True).eos_token_id)
    found.append(getattr(tokenizer, "eos_token_id", None))
    flat = [number for ids in found for number in (ids if isinstance(ids, list) else [ids])]
    return sorted({int(number) for number in flat if number is not None})


def tokenizer_files(tokenizer: Any) -> dict[str, bytes]:
    """The files that a tokenizer writes of itself, by name."""
    if tokenizer is None:
        return {}
    with tempfile.TemporaryDirectory(prefix="shardwright-") as folder:
        tokenizer.save_pretrained(folder)
        return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir()) if path.is_file()}
