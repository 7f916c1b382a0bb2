"""Decoding with a static key-value cache that lives, cut on heads, in the ranks' programs."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch

from shardwright.errors import InputError, RunError
from shardwright.generate.sampling import Sampling
from shardwright.layout.values import check_count, check_list
from shardwright.package.manifest import DecoderEntry, Manifest
from shardwright.run.load import RankModule

_c10d = torch.ops._c10d_functional


def generate(
    model: RankModule, prompt: Sequence[int], *, max_new_tokens: int = 128, sampling: Sampling | None = None
) -> Iterator[int]:
    """The ids that follow ``prompt``, one by one, until an id that ends a text (which is not given), ``max_new_tokens``
    or the end of the cache.

    Every rank calls it with the same arguments, and gets the same ids. One text is written at a time, as the cache
    holds one. Raises `InputError` when the package holds no decoder with a cache, the prompt is not a list of ids, is
    empty or does not fit the cache, and `RunError` when the model was called while the text was written, or another
    thread calls.
    """
    if not isinstance(model, RankModule):
        raise InputError(f"generate takes what `load` gives of a package, got {type(model).__name__}")
    decoder = check_decoder(model.manifest)
    check_count(max_new_tokens, "max_new_tokens", error=InputError)
    _check_prompt(decoder, check_list(prompt, "the prompt", "[1, 2, 3]", error=InputError))
    how = sampling or Sampling()
    randomness = how.generator()
    end_ids = set(decoder.end_ids)
    given, start = list(prompt), 0
    calls: int | None = None
    # What an earlier text left in the cache lies behind what was written of this one, and is not read.
    for _ in range(min(max_new_tokens, decoder.cache_length - len(prompt) + 1)):
        seen = torch.ones(1, start + len(given), dtype=torch.long)
        if calls not in (None, model.num_calls):
            raise RunError(
                "the model was called while this text was being written, so its cache holds something else now\n"
                "  try: write one text to its end before the next, or load the package once for each"
            )
        with model.alone(), torch.no_grad():
            logits = model(input_ids=torch.tensor([given]), attention_mask=seen)
            chosen = _agree(model, partial(how.choose, logits[0, -1], randomness), logits.device)
        start, calls = start + len(given), model.num_calls
        if chosen in end_ids:
            return
        yield chosen
        given = [chosen]


def check_decoder(manifest: Manifest) -> DecoderEntry:
    """What a package says about its decoder; raises `InputError` when it holds none."""
    if manifest.decoder is None:
        raise InputError(
            "the package holds no decoder with a key-value cache, so it cannot generate text\n"
            "  try: `shardwright shard CHECKPOINT`, without --cache-length 0"
        )
    return manifest.decoder


def _check_prompt(decoder: DecoderEntry, prompt: Sequence[int]) -> None:
    if not prompt:
        raise InputError("the prompt is empty: there is nothing to go on from")
    if len(prompt) > decoder.cache_length:
        raise InputError(
            f"the prompt has {len(prompt)} tokens, the cache holds {decoder.cache_length}\n"
            "  try: a shorter prompt, or shard the checkpoint with a longer --cache-length"
        )


def _agree(model: RankModule, choose: Callable[[], int], device: torch.device) -> int:
    """What the first rank chooses: ranks that differ in a last bit must not go different ways.

    It is summed over the model's own groups, which are the fast ones, with the zeros of the others.
    """
    if not model.groups:
        return choose()
    shared = torch.tensor([choose() if model.rank == 0 else 0], device=device)
    for axis in model.manifest.as_mesh().names:
        if axis in model.groups:
            shared = _c10d.wait_tensor(_c10d.all_reduce(shared, "sum", model.groups[axis]))
    return int(shared)
