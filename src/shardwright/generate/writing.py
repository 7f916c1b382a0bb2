"""Prompts in, texts out: tokens are written by a sharded decoder, and read with its tokenizer."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, overload

from shardwright.errors import InputError, ShardwrightError, collecting, first_line, raise_together
from shardwright.generate.continuation import Continuation, check_stop
from shardwright.generate.decoding import Finish, check_prompt, name_prompt, write_rows
from shardwright.generate.prompts import check_words
from shardwright.generate.sampling import Sampling
from shardwright.layout.values import check_count, check_flag, check_list
from shardwright.package.manifest import Manifest
from shardwright.run.load import RankModule


@dataclass(frozen=True)
class TextRequest:
    """What to write. ``chat``: through the tokenizer's chat template where it has one. ``stop``: strings that end a
    text, which is cut before them.
    """

    prompts: Sequence[str]
    max_new_tokens: int = 128
    sampling: Sampling = field(default_factory=Sampling)
    chat: bool = True
    stop: Sequence[str] = ()


@dataclass(frozen=True)
class Text:
    """What follows one prompt.

    ``prompt_ids`` and ``ids``: the tokens of the prompt, and all that were written, those of a stop string too.
    ``finish``: why it ended: ``"end"``, a token that ends texts; ``"stop"``, a stop string; ``"length"``, as many
    tokens as were asked for or fit the cache. ``prefill_s``: the seconds to the first token; ``decode_s``: from there
    to the end, in which other texts were written too.
    """

    prompt: str
    text: str
    finish: Finish
    prompt_ids: list[int]
    ids: list[int]
    prefill_s: float
    decode_s: float

    @property
    def tokens_per_s(self) -> float | None:
        """Tokens a second after the first; None where there is one at most."""
        return (len(self.ids) - 1) / self.decode_s if len(self.ids) > 1 and self.decode_s > 0 else None

    def record(self) -> dict[str, Any]:
        """All of it, as JSON has it."""
        return {**asdict(self), "num_tokens": len(self.ids), "tokens_per_s": self.tokens_per_s}


@overload
def generate_text(
    model: RankModule,
    tokenizer: Any,
    prompts: str,
    *,
    max_new_tokens: int = ...,
    sampling: Sampling | None = ...,
    stop: str | Sequence[str] = ...,
    chat: bool = ...,
) -> Text: ...
@overload
def generate_text(
    model: RankModule,
    tokenizer: Any,
    prompts: Sequence[str],
    *,
    max_new_tokens: int = ...,
    sampling: Sampling | None = ...,
    stop: str | Sequence[str] = ...,
    chat: bool = ...,
) -> list[Text]: ...
def generate_text(
    model: RankModule,
    tokenizer: Any,
    prompts: str | Sequence[str],
    *,
    max_new_tokens: int = 128,
    sampling: Sampling | None = None,
    stop: str | Sequence[str] = (),
    chat: bool = True,
) -> Any:
    """What a decoder answers to a prompt, as a `Text`; of a list of prompts, a list of these.

    ``tokenizer``: as `load_tokenizer` gives it. ``stop``: strings that end a text, which is cut before them; one that
    is a special token of the tokenizer ends it as well. ``chat``: prompts go through the tokenizer's chat template,
    where it has one. As many texts are written at a time as the package takes (`DecoderEntry.batch`).

    Every rank calls it with the same arguments, and gets the same texts. Raises as `generate` does.
    """
    if not isinstance(model, RankModule):
        raise InputError(f"generate_text takes what `load` gives of a package, got {type(model).__name__}")
    given = [prompts] if isinstance(prompts, str) else check_list(prompts, "prompts", '["Hello"]', error=InputError)
    check_count(max_new_tokens, "max_new_tokens", error=InputError)
    check_flag(chat, "chat", error=InputError)
    request = TextRequest(given, max_new_tokens, sampling or Sampling(), chat, check_stop(tokenizer, stop))
    texts = write_texts(model, tokenizer, request, encode_prompts(model.manifest, tokenizer, request))
    return texts[0] if isinstance(prompts, str) else texts


def write_texts(
    model: RankModule,
    tokenizer: Any,
    request: TextRequest,
    prompts: Sequence[list[int]],
    more: Callable[[Continuation], None] = lambda answer: None,
    done: Callable[[int, Text], None] = lambda row, text: None,
) -> list[Text]:
    """Every prompt's text. ``prompts``: the request's, as `encode_prompts` gives them.

    ``more`` is told when a text has grown, ``done`` when it has ended.
    """
    answers = [Continuation(tokenizer, request.stop) for _ in prompts]
    first_s: dict[int, float] = {}
    found: dict[int, Text] = {}
    steps = write_rows(
        model, prompts, request.max_new_tokens, request.sampling, lambda row, token: answers[row].add(token)
    )
    for step in steps:
        row, answer = step.row, answers[step.row]
        began = first_s.setdefault(row, step.seconds)
        if step.token is not None:
            more(answer)
        if step.finish:
            prompt, ids = request.prompts[row], list(prompts[row])
            found[row] = Text(prompt, answer.text, step.finish, ids, answer.ids, began, step.seconds - began)
            done(row, found[row])
    return [found[row] for row in range(len(prompts))]


def encode_prompts(manifest: Manifest, tokenizer: Any, request: TextRequest) -> list[list[int]]:
    """The token ids of every prompt; raises `InputError` with all that is wrong with any of them."""
    found: list[list[int]] = []
    errors: list[ShardwrightError] = []
    for number, prompt in enumerate(request.prompts, 1):
        name = name_prompt(number, len(request.prompts))
        with collecting(errors):
            ids = _encode(tokenizer, check_words(prompt, name), chat=request.chat)
            found.append(check_prompt(manifest, ids, name))
    raise_together(InputError, errors, summary="texts cannot be written")
    return found


def _encode(tokenizer: Any, prompt: str, *, chat: bool) -> list[int]:
    if chat and getattr(tokenizer, "chat_template", None):
        return encode_messages(tokenizer, [{"role": "user", "content": prompt}])
    return [int(number) for number in tokenizer(prompt)["input_ids"]]


def encode_messages(tokenizer: Any, messages: Sequence[dict[str, str]]) -> list[int]:
    """The token ids of a conversation, up to where the answer begins; raises `InputError` for what the chat template
    does not take.
    """
    try:
        found = tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, return_dict=True)
    except Exception as error:
        # Templates raise what they like, and Jinja what it finds wrong with them.
        raise InputError(f"the tokenizer's chat template does not take this: {first_line(error)}") from error
    return [int(number) for number in found["input_ids"]]
