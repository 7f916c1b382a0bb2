"""A conversation: its history, and what of it the cache holds already."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

import torch

from shardwright.errors import InputError
from shardwright.generate.continuation import Continuation, check_stop
from shardwright.generate.decoding import Finish, advance, check_decoder, check_prompt
from shardwright.generate.prompts import check_words
from shardwright.generate.rows import LiveRows, Row
from shardwright.generate.sampling import Sampling
from shardwright.generate.writing import encode_messages
from shardwright.run.load import RankModule


@dataclass(frozen=True)
class Manner:
    """How replies are written. ``system``: what the conversation begins with, absent: nothing."""

    max_new_tokens: int = 512
    sampling: Sampling = field(default_factory=Sampling)
    stop: Sequence[str] = ()
    system: str | None = None


class Conversation:
    """Messages and replies. Every rank has one, and calls `reply` with the same ids; the first alone keeps messages."""

    def __init__(self, model: RankModule, tokenizer: Any, manner: Manner) -> None:
        check_chats(tokenizer)
        check_stop(tokenizer, manner.stop)
        self._model, self._tokenizer, self._manner = model, tokenizer, manner
        self._held: list[int] = []
        self._num_calls = model.num_calls
        self._num_replies = 0
        self.messages: list[dict[str, str]] = []
        self.reset()

    def reset(self) -> None:
        """Forget all messages."""
        system = self._manner.system
        self.messages = [] if system is None else [{"role": "system", "content": system}]

    def ask(self, words: str) -> list[int]:
        """Add a message; the ids of the whole conversation. Raises `InputError`, and leaves it as it was, where the
        message is none, or all of it does not fit the cache.
        """
        messages = [*self.messages, {"role": "user", "content": check_words(words, "the message")}]
        ids = encode_messages(self._tokenizer, messages)
        room = check_decoder(self._model.manifest).cache_length
        if len(ids) > room:
            raise InputError(
                f"the conversation has {len(ids)} tokens with this message, the cache holds {room}\n"
                "  try: /reset, or shard the checkpoint with a longer --cache-length"
            )
        check_prompt(self._model.manifest, ids, "the conversation")
        self.messages = messages
        return ids

    def heard(self, answer: Continuation) -> None:
        """Add a reply to the messages."""
        self.messages.append({"role": "assistant", "content": answer.text})

    def reply(
        self,
        ids: Sequence[int],
        more: Callable[[Continuation], None] = lambda answer: None,
        is_interrupted: Callable[[], bool] = lambda: False,
    ) -> tuple[Continuation, Finish]:
        """What follows a conversation, and why it ends. What the cache holds of it is not read again.

        ``more`` is told of every token; ``is_interrupted``, asked on the first rank alone, ends the reply.
        """
        model, manner = self._model, self._manner
        decoder = check_decoder(model.manifest)
        most_new = min(manner.max_new_tokens, decoder.cache_length - len(ids) + 1)
        row = Row(0, list(ids), most_new, manner.sampling.generator(self._num_replies))
        rows, answer = LiveRows(model), Continuation(self._tokenizer, manner.stop)
        num_cached, finish = self._num_cached(ids), ""
        self._num_replies, self._held = self._num_replies + 1, []
        while not finish:
            new, num_read = [] if rows.live else [row], len(row.ids)
            with model.alone(), torch.inference_mode():
                [step] = advance(
                    rows,
                    new,
                    manner.sampling,
                    set(decoder.end_ids),
                    lambda _, token: answer.add(token),
                    num_cached=num_cached,
                    is_interrupted=is_interrupted,
                )
            self._num_calls, finish = model.num_calls, step.finish
            self._held = row.ids[:num_read]
            if step.token is not None:
                more(answer)
        return answer, finish

    def _num_cached(self, ids: Sequence[int]) -> int:
        """How many of the first ids lie in the cache; one at least has to be read."""
        if self._num_calls != self._model.num_calls:
            return 0
        pairs = zip(self._held, ids[:-1], strict=False)
        return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def check_chats(tokenizer: Any) -> None:
    """Raise `InputError` for a tokenizer that does not know how messages are written."""
    if not getattr(tokenizer, "chat_template", None):
        raise InputError(
            "the tokenizer has no chat template, so it is not known how the model is told of messages\n"
            "  try: a checkpoint that is made for chats, or `shardwright generate`"
        )
