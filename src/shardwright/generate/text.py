"""What a launched rank does to write text: open its piece and the tokenizer, decode, and on rank 0 print."""

import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from shardwright.errors import PackageError
from shardwright.generate.decoding import check_decoder, generate
from shardwright.generate.sampling import Sampling
from shardwright.package.manifest import Manifest, read_file
from shardwright.run.load import RankModule, load


@dataclass(frozen=True)
class TextRequest:
    """What to write. ``chat``: through the tokenizer's chat template where it has one. ``stream``: print on rank 0."""

    prompt: str
    max_new_tokens: int = 128
    sampling: Sampling = field(default_factory=Sampling)
    chat: bool = True
    stream: bool = True


@dataclass(frozen=True)
class Text:
    """What was written: token ids of prompt and answer, and the seconds that prefill and decode took."""

    prompt_ids: list[int]
    ids: list[int]
    text: str
    prefill_s: float
    decode_s: float


def write_text(package: str, requests: list[TextRequest], how: Mapping[str, Any] | None = None) -> list[Text]:
    """Answer every request in turn; each rank returns the same texts. ``how``: further arguments of `load`."""
    model = load(package, **(how or {}))
    if not isinstance(model, RankModule):
        raise PackageError(f"the package {package} is for training, and gives a loss instead of text")
    tokenizer = load_tokenizer(Path(package), model.manifest)
    found = []
    for request in requests:
        prompt = encode_prompt(tokenizer, request)
        printer = _printer(tokenizer) if request.stream and model.rank == 0 else None
        ids: list[int] = []
        started = first = time.perf_counter()
        for number in generate(model, prompt, max_new_tokens=request.max_new_tokens, sampling=request.sampling):
            first = first if ids else time.perf_counter()
            ids.append(number)
            if printer is not None:
                printer.put(torch.tensor([number]))
        ended = time.perf_counter()
        if printer is not None:
            printer.end()
        found.append(Text(prompt, ids, tokenizer.decode(ids, skip_special_tokens=True), first - started, ended - first))
    return found


def check_generates(manifest: Manifest, folder: Path) -> None:
    """Raise when a package cannot write text: `InputError` without a decoder, `PackageError` without a tokenizer."""
    check_decoder(manifest)
    if not manifest.extras:
        raise PackageError(
            f"the package {folder} holds no tokenizer, so text cannot be turned into tokens\n"
            "  try: shard a checkpoint folder that has its tokenizer, or call shardwright.generate with token ids"
        )


def load_tokenizer(folder: Path, manifest: Manifest) -> Any:
    """The package's tokenizer, its files checked; raises `PackageError` when it has none. Runs no code from it."""
    from transformers import AutoTokenizer

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


def encode_prompt(tokenizer: Any, request: TextRequest) -> list[int]:
    """The prompt's token ids."""
    if request.chat and getattr(tokenizer, "chat_template", None):
        messages = [{"role": "user", "content": request.prompt}]
        found = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
        return [int(number) for number in found]
    return [int(number) for number in tokenizer(request.prompt)["input_ids"]]


def _printer(tokenizer: Any) -> Any:
    """Prints whole words and characters as tokens come."""
    from transformers import TextStreamer

    class Printer(TextStreamer):
        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            sys.stdout.write(text + ("\n" if stream_end else ""))
            sys.stdout.flush()

    return Printer(tokenizer, skip_special_tokens=True)
