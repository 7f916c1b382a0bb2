"""Before the call after one that failed, ranks meet.

A call that fails on one rank alone (too little memory, an interrupt, inputs that only this rank got) leaves the others
in a collective. This rank's next call would come to it with other numbers, and where shapes agree nothing would notice.
So a rank whose last call failed says at its next one where that was, and waits for the others to say the same. If all
failed in the same call and at the same line, no collective is between them, and they go on.
"""

import traceback
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from shardwright.errors import RunError, first_line
from shardwright.run.alone import GROUPS, alone
from shardwright.run.groups import TIMEOUT_S
from shardwright.run.transport import Forum, is_fake, patience_of

_REMEDY = "  try: end all ranks and start them again"


@dataclass
class _Record:
    """What this process did in one default group. ``place``: where the last call failed, '' where none did."""

    world: Any = None
    num_calls: int = 0
    num_meetings: int = 0
    place: str = ""
    words: str = ""


_RECORDS = [_Record()]


@contextmanager
def in_step(timeout: timedelta | None = None) -> Iterator[None]:
    """A call of a program that communicates; raises `RunError` where an earlier one failed and ranks are apart since.

    ``timeout``: how long to wait for what the others say; absent: as long as the default group's collectives wait.
    """
    record = _record()
    # A call that is refused counts: its rank's next one is not the others' next.
    record.num_calls += 1
    if record.place:
        _meet(record, timeout)
    try:
        yield
    except BaseException as error:
        # The innermost call knows best.
        record.place = record.place or _place(error)
        record.words = f"{type(error).__name__}: {first_line(error)}"
        raise


def _record() -> _Record:
    """The record of the default group that is up: another one has other collectives."""
    world = dist.group.WORLD
    if _RECORDS[0].world is None or _RECORDS[0].world() is not world:
        _RECORDS[0] = _Record(None if world is None else weakref.ref(world))
    return _RECORDS[0]


def _meet(record: _Record, timeout: timedelta | None) -> None:
    world = dist.group.WORLD
    assert world is not None, "a call that failed had a process group"
    if is_fake(world):
        record.place = ""
        return
    store = dist.PrefixStore(f"shardwright/failed/{record.num_meetings}", world.get_group_store())
    rank, ranks = dist.get_rank(), range(dist.get_world_size())
    patience = timeout or patience_of(world) or timedelta(seconds=TIMEOUT_S)
    try:
        found = Forum(store, rank, ranks, patience).everybody([record.num_calls, record.place])
    except RuntimeError as error:
        raise RunError(
            f"a call failed on rank {rank} ({record.words}), and did not fail on all ranks: the others may still wait "
            f"in its collectives, which another call would answer\n{_REMEDY}"
        ) from error
    if any(one != found[0] for one in found):
        raise RunError(
            f"a call failed on rank {rank} ({record.words}), and elsewhere on other ranks, so they are not at the same "
            f"collective\n{_REMEDY}"
        )
    record.place, record.num_meetings = "", record.num_meetings + 1


def _place(error: BaseException) -> str:
    """The lines that were being run: equal on ranks that failed alike. Files of generated code have numbers."""
    frames = traceback.walk_tb(error.__traceback__)
    return " ".join([type(error).__name__, *(f"{frame.f_code.co_name}:{line}" for frame, line in frames)])


@contextmanager
def undisturbed(owner: Any, num_ranks: int, patience: timedelta | None, *, writes: bool = True) -> Iterator[None]:
    """Calls of ``owner`` that belong together; raises `RunError` while another thread is in a call they would disturb.

    All programs that communicate disturb each other; one of a single rank itself, where it ``writes`` what it holds.
    """
    if num_ranks > 1:
        with alone(GROUPS), in_step(patience):
            yield
    elif writes:
        with alone(owner):
            yield
    else:
        yield
