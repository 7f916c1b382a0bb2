"""Decoding with a static key-value cache that lives, cut on heads, in the ranks' programs."""

import operator
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, overload

import torch

from shardwright.errors import InputError, RunError, ShardwrightError, collecting, raise_together
from shardwright.generate.rows import LiveRows, Row, count_rows
from shardwright.generate.sampling import Sampling
from shardwright.layout.values import check_count, check_list
from shardwright.package.manifest import DecoderEntry, Manifest
from shardwright.run.load import RankModule

Finish = Literal["", "end", "length", "stop", "interrupted"]
"""Why a text ended: an id that ends texts, as many tokens as were asked for or fit the cache, what its reader
looks for, or its reader's wish."""

_INTERRUPTED = -1
"""What is agreed on in the place of a token."""

_c10d = torch.ops._c10d_functional


@overload
def generate(
    model: RankModule, prompt: Sequence[int], *, max_new_tokens: int = ..., sampling: Sampling | None = ...
) -> Iterator[int]: ...
@overload
def generate(
    model: RankModule, prompt: Sequence[Sequence[int]], *, max_new_tokens: int = ..., sampling: Sampling | None = ...
) -> Iterator[tuple[int, int]]: ...
def generate(
    model: RankModule, prompt: Sequence[Any], *, max_new_tokens: int = 128, sampling: Sampling | None = None
) -> Iterator[Any]:
    """The ids that follow ``prompt``, one by one, until an id that ends a text (which is not given), ``max_new_tokens``
    or the end of the cache.

    ``prompt``: ids; or a list of such lists, of any lengths, which gives pairs of a prompt's place in the list and the
    next id that follows it. As many are written at a time as the package takes (`DecoderEntry.batch`), and the next
    begins when one ends. What follows a prompt does not depend on the others, but for rounding where two tokens are
    about equally likely (in bfloat16 not rare). With sampling, every place in the list has draws of its own.

    Every rank calls it with the same arguments, and gets the same ids. One call writes at a time, as there is one
    cache. Raises `InputError` when the package holds no decoder with a cache, or a prompt is not a list of ids, is
    empty or does not fit the cache, and `RunError` when the model was called while the text was written, or another
    thread calls.
    """
    if not isinstance(model, RankModule):
        raise InputError(f"generate takes what `load` gives of a package, got {type(model).__name__}")
    check_decoder(model.manifest)
    check_count(max_new_tokens, "max_new_tokens", error=InputError)
    given = check_list(prompt, "the prompt", "[1, 2, 3]", error=InputError)
    several = bool(given) and all(isinstance(one, Sequence) and not isinstance(one, (str, bytes)) for one in given)
    prompts = check_prompts(model.manifest, given if several else [given])
    found = write_rows(model, prompts, max_new_tokens, sampling or Sampling())
    if several:
        return ((step.row, step.token) for step in found if step.token is not None)
    return (step.token for step in found if step.token is not None)


@dataclass(frozen=True, slots=True)
class TextStep:
    """What one step has made of a text: a token, None where it has none; and, where it ended there, why.

    ``row``: the place of its prompt. ``seconds``: since that was begun.
    """

    row: int
    token: int | None
    finish: Finish
    seconds: float


IsOver = Callable[[int, int], bool]
"""Told the row and the token of each step: whether the text ends with it. All ranks have to say the same."""


def write_rows(
    model: RankModule,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    sampling: Sampling,
    is_over: IsOver = lambda row, token: False,
) -> Iterator[TextStep]:
    """What follows every prompt, step by step; the steps of several texts take turns.

    ``prompts``: as `check_prompts` gives them.
    """
    decoder = check_decoder(model.manifest)
    rows, most_rows = LiveRows(model), count_rows(model)
    waiting: deque[tuple[int, Sequence[int]]] = deque(enumerate(prompts))
    calls: int | None = None
    while waiting or rows.live:
        if rows.live and calls != model.num_calls:
            raise RunError(
                "the model was called while this text was being written, so its cache holds something else now\n"
                "  try: write one text to its end before the next, or load the package once for each"
            )
        new: list[Row] = []
        while waiting and len(rows.live) + len(new) < most_rows and (not new or len(waiting[0][1]) == len(new[0].ids)):
            number, prompt = waiting.popleft()
            most_new = min(max_new_tokens, decoder.cache_length - len(prompt) + 1)
            if most_new == 0:
                yield TextStep(number, None, "length", 0.0)
                continue
            new.append(Row(number, list(prompt), most_new, sampling.generator(number)))
        if not new and not rows.live:
            continue
        with model.alone(), torch.inference_mode():
            steps = advance(rows, new, sampling, set(decoder.end_ids), is_over)
        calls = model.num_calls
        yield from steps


def advance(
    rows: LiveRows,
    new: Sequence[Row],
    sampling: Sampling,
    end_ids: set[int],
    is_over: IsOver,
    *,
    num_cached: int = 0,
    is_interrupted: Callable[[], bool] = lambda: False,
) -> Iterator[TextStep]:
    """One call of the model: of the prompts of new texts, else of the last token of every text.

    ``num_cached``: as `LiveRows.admit` takes it. ``is_interrupted``: asked on the first rank, it ends all texts.
    """
    logits = rows.admit(new, num_cached=num_cached) if new else rows.step()
    written = list(new or rows.live)

    def choose() -> list[int]:
        if is_interrupted():
            return [_INTERRUPTED] * len(written)
        return [sampling.choose(one, row.randomness) for one, row in zip(logits, written, strict=True)]

    chosen = _agree(rows.model, choose, len(written), logits.device)
    steps, ended = [], []
    for row, token in zip(written, chosen, strict=True):
        finish: Finish = "interrupted" if token == _INTERRUPTED else "end" if token in end_ids else ""
        if not finish:
            row.add(token)
            finish = "stop" if is_over(row.number, token) else "length" if row.num_new == row.most_new else ""
        if finish:
            ended.append(row)
        steps.append(TextStep(row.number, None if finish in ("end", "interrupted") else token, finish, row.seconds))
    if ended:
        rows.leave(ended)
    return iter(steps)


def check_decoder(manifest: Manifest) -> DecoderEntry:
    """What a package says about its decoder; raises `InputError` when it holds none."""
    if manifest.decoder is None:
        raise InputError(
            "the package holds no decoder with a key-value cache, so it cannot generate text\n"
            "  try: `shardwright shard CHECKPOINT`, without --cache-length 0"
        )
    return manifest.decoder


def check_prompts(manifest: Manifest, prompts: Sequence[Any]) -> list[list[int]]:
    """The prompts as lists of ids; raises `InputError` with all that is wrong with any of them."""
    found: list[list[int]] = []
    errors: list[ShardwrightError] = []
    for number, prompt in enumerate(prompts, 1):
        with collecting(errors):
            found.append(check_prompt(manifest, prompt, name_prompt(number, len(prompts))))
    raise_together(InputError, errors, summary="texts cannot be written")
    return found


def name_prompt(number: int, count: int) -> str:
    """What messages call a prompt; ``number``: counted from 1."""
    return "the prompt" if count == 1 else f"prompt {number} of {count}"


def check_prompt(manifest: Manifest, prompt: Any, name: str) -> list[int]:
    """A prompt as a list of ids; raises `InputError` where it is none, is empty or does not fit the cache."""
    try:
        ids = [operator.index(one) for one in prompt]
    except TypeError:
        raise InputError(f"{name} must be a list such as [1, 2, 3], got {prompt!r}") from None
    if not ids:
        raise InputError(f"{name} is empty: there is nothing to go on from")
    length = check_decoder(manifest).cache_length
    if len(ids) > length:
        raise InputError(
            f"{name} has {len(ids)} tokens, the cache holds {length}\n"
            "  try: a shorter prompt, or shard the checkpoint with a longer --cache-length"
        )
    size = manifest.outputs[0].shape[-1]
    odd = next((one for one in ids if one < 0 or (isinstance(size, int) and one >= size)), None)
    if odd is not None:
        raise InputError(f"{name} holds the id {odd}, which is none of the {size} of the vocabulary")
    return ids


def _agree(model: RankModule, choose: Callable[[], list[int]], count: int, device: torch.device) -> list[int]:
    """The ``count`` numbers that the first rank chooses: ranks that differ in a last bit must not go different ways.

    They are summed over the model's own groups, which are the fast ones, with the zeros of the others.
    """
    if not model.groups:
        return choose()
    shared = torch.tensor(choose() if model.rank == 0 else [0] * count, device=device)
    for axis in model.manifest.as_mesh().names:
        if axis in model.groups:
            shared = _c10d.wait_tensor(_c10d.all_reduce(shared, "sum", model.groups[axis]))
    return shared.tolist()
