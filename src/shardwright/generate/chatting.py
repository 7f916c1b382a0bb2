"""A conversation at the terminal: the first rank reads and prints, and tells the others what to read.

While somebody types, the other ranks wait at the store of the process group, not in a collective, which would end after
its timeout. In a reply the first rank chooses every token, and also whether it is interrupted, so that all ranks end it
at the same step.
"""

import itertools
import json
import os
import re
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from multiprocessing import reduction
from types import FrameType
from typing import Any

import torch.distributed as dist

from shardwright.errors import InputError
from shardwright.generate.conversation import Conversation, Manner, check_chats
from shardwright.generate.printing import Stream
from shardwright.generate.text import load_tokenizer, open_model

_POLL_S = 0.02
_TALKS = itertools.count()
_COMMANDS = "/reset forgets the conversation; the end of input (Ctrl-D) leaves it"
_LEAVE = "(Ctrl-D leaves the conversation)"


class SharedInput:
    """Standard input, to be read by a process that is started: processes of `multiprocessing` have none."""

    def __init__(self, number: int) -> None:
        self._number = number

    def __reduce__(self) -> Any:
        return _received, (reduction.DupFd(self._number),)

    def take(self) -> None:
        """Make it this process's standard input."""
        os.dup2(self._number, 0)
        sys.stdin = open(0, encoding="utf-8", errors="surrogateescape", closefd=False)  # noqa: SIM115


def _received(passed: Any) -> SharedInput:
    return SharedInput(passed.detach())


def chat(package: str, manner: Manner, how: Mapping[str, Any] | None = None, given: SharedInput | None = None) -> None:
    """Talk until the input ends, on every rank. ``how``: further arguments of `load`. ``given``: what rank 0 reads;
    absent: its own standard input. Raises `InputError` where the tokenizer has no chat template.
    """
    tokenizer = load_tokenizer(package)
    check_chats(tokenizer)
    model = open_model(package, how)
    conversation = Conversation(model, tokenizer, manner)
    others = _Others(model.manifest.num_ranks)
    if model.rank > 0:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for ids in others.heard():
            conversation.reply(ids)
        return
    if given is not None:
        given.take()
    with _Interrupts() as interrupts:
        for words in _messages(conversation, interrupts):
            try:
                ids = conversation.ask(words)
            except InputError as error:
                _note(str(error))
                continue
            others.tell(ids)
            _print_reply(conversation, ids, interrupts)
    others.tell(None)


def _print_reply(conversation: Conversation, ids: list[int], interrupts: "_Interrupts") -> None:
    stream = Stream()
    answer, finish = conversation.reply(ids, lambda one: stream.show(one.certain), lambda: interrupts.asked)
    stream.show(answer.text)
    sys.stdout.write("\n")
    sys.stdout.flush()
    conversation.heard(answer)
    if finish == "length":
        _note(f"(the reply ends here, after {len(answer.ids)} tokens)")
    elif finish == "interrupted":
        _note("(interrupted)")


def _messages(conversation: Conversation, interrupts: "_Interrupts") -> Iterator[str]:
    """What is typed, or read from a file, line by line; commands are done here.

    Ctrl-C drops what is being typed. It does not leave the conversation, as one that was meant for the reply may come
    when that has just ended. Where nothing is typed it does.
    """
    typed = sys.stdin.isatty()
    if typed:
        import readline  # noqa: F401  # With it, lines can be edited, and earlier ones called back.

        _note(_COMMANDS)
    while True:
        try:
            with interrupts.raised():
                words = input("> " if typed else "").strip()
        except EOFError:
            if typed:
                sys.stdout.write("\n")
            return
        except KeyboardInterrupt:
            if not typed:
                return
            _note("\n" + _LEAVE)
            continue
        if words == "/reset":
            conversation.reset()
        elif re.fullmatch(r"/\w+", words):
            _note(f"there is no command {words}: {_COMMANDS}")
        elif words:
            yield words


def _note(words: str) -> None:
    sys.stderr.write(words + "\n")
    sys.stderr.flush()


class _Others:
    """The other ranks: told by the first one, through the process group's store, what to read next."""

    def __init__(self, num_ranks: int) -> None:
        self._talk, self._turns, self._store = next(_TALKS), itertools.count(), None
        if num_ranks > 1:
            world = dist.group.WORLD
            assert world is not None, "a package of several ranks is loaded in a process group"
            self._store = world.get_group_store()

    def tell(self, ids: list[int] | None) -> None:
        """The ids of the conversation; None: it is over."""
        if self._store is not None:
            self._store.set(self._key(), json.dumps(ids))

    def heard(self) -> Iterator[list[int]]:
        """What the first rank tells, until the conversation is over."""
        store: Any = self._store
        while True:
            key = self._key()
            while not store.check([key]):
                time.sleep(_POLL_S)
            ids = json.loads(store.get(key))
            if ids is None:
                return
            yield ids

    def _key(self) -> str:
        return f"shardwright/talk/{self._talk}/{next(self._turns)}"


class _Interrupts:
    """Ctrl-C: a `KeyboardInterrupt` while a message is read, and else noted until the next one is."""

    def __init__(self) -> None:
        self.asked = False
        self._before: Any = signal.SIG_DFL

    def __enter__(self) -> "_Interrupts":
        self._before = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        signal.signal(signal.SIGINT, self._before)

    @contextmanager
    def raised(self) -> Iterator[None]:
        """Within, Ctrl-C is raised; behind it, it sets ``asked``."""
        try:
            # `input` runs handlers while an exception is set already, that of a Ctrl-C just before: a handler in
            # Python is then a SystemError, this one is not.
            signal.signal(signal.SIGINT, signal.default_int_handler)
            self.asked = False
            yield
        finally:
            try:
                signal.signal(signal.SIGINT, self._note)
            except KeyboardInterrupt:
                # It raises what came before it, and changes nothing.
                signal.signal(signal.SIGINT, self._note)
                raise

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
