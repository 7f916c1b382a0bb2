"""What a launched rank does to write text: open its piece and the tokenizer, decode, and on rank 0 print."""

import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shardwright.errors import PackageError
from shardwright.generate.continuation import check_stop
from shardwright.generate.decoding import check_decoder
from shardwright.generate.printing import Printer, Show
from shardwright.generate.writing import Text, TextRequest, encode_prompts, write_texts
from shardwright.layout.values import check_path
from shardwright.package.manifest import DecoderEntry, Manifest, read_file, read_manifest
from shardwright.run.load import RankModule, load


@dataclass(frozen=True)
class Written:
    """The texts of a request, and the seconds that all of them took."""

    texts: list[Text]
    seconds: float


def write_text(package: str, request: TextRequest, how: Mapping[str, Any] | None = None, show: Show = "") -> Written:
    """Write what a request asks for; all ranks return the same. ``how``: given to `load`. ``show``: on rank 0."""
    manifest = read_manifest(package)
    tokenizer = load_tokenizer(package)
    check_stop(tokenizer, request.stop)
    # What is wrong with prompts is said before weights are read.
    prompts = encode_prompts(manifest, tokenizer, request)
    model = open_model(package, how)
    printer = Printer(show if model.rank == 0 else "", len(prompts))
    started = time.perf_counter()
    texts = write_texts(model, tokenizer, request, prompts, printer.more, printer.done)
    return Written(texts, time.perf_counter() - started)


def open_model(package: str, how: Mapping[str, Any] | None = None) -> RankModule:
    """This rank's piece of a package that writes text; raises as `load` does, and for a package for training."""
    model = load(package, **(how or {}))
    if not isinstance(model, RankModule):
        raise PackageError(f"the package {package} is for training, and gives a loss instead of text")
    return model


def check_generates(manifest: Manifest, folder: Path) -> DecoderEntry:
    """What a package that writes text says of its decoder.

    Raises `InputError` where it has none, `PackageError` where it has no tokenizer.
    """
    decoder = check_decoder(manifest)
    if not manifest.extras:
        raise PackageError(
            f"the package {folder} holds no tokenizer, so text cannot be turned into tokens\n"
            "  try: shard a checkpoint folder that has its tokenizer, or call shardwright.generate with token ids"
        )
    return decoder


def load_tokenizer(package: str | Path) -> Any:
    """The tokenizer that a package took from its checkpoint, its files checked; runs no code from it.

    Raises `InputError` when the package holds no decoder, and `PackageError` when it has no tokenizer or a damaged one.
    """
    from transformers import AutoTokenizer

    folder = check_path(package, "the package", error=PackageError)
    manifest = read_manifest(folder)
    check_generates(manifest, folder)
    entries = {entry.name: entry for entry in manifest.files}
    try:
        with tempfile.TemporaryDirectory(prefix="shardwright-") as checked:
            # What the manifest does not list is not read.
            for name in manifest.extras:
                (Path(checked) / name).write_bytes(read_file(folder, entries[name]))
            return AutoTokenizer.from_pretrained(checked, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise PackageError(f"the tokenizer of {folder} cannot be read: {error}") from error
