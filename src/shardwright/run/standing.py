"""Where every rank stands, so that a rank that hangs can be named.

When a collective times out, the ranks that waited notice; the rank to blame is the one that did not come. So every
launched rank notes twice a second, in a file beside the others', which line its main thread is at and whether it waits
in a collective. A rank whose note is old does not run at all (it is stopped, or holds the interpreter in native code).
"""

import json
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from shardwright.program.atomic import written_whole
from shardwright.program.torch_private import OpOverload, OpOverloadPacket, packet_name
from shardwright.run.aot.machine import NAMESPACE
from shardwright.run.transport import Forum

_INTERVAL_S = 0.5
_OLD_S = 3.0
# Compiled code shows nothing of where it is; where it takes long, it waits.
_WAITING = ("_c10d_functional", NAMESPACE)


@dataclass(frozen=True, slots=True)
class Standing:
    """One rank's last note. ``waits``: it is in a collective. ``age_s``: how long ago it wrote."""

    rank: int
    at: str
    waits: bool
    age_s: float

    def __str__(self) -> str:
        if not self.at:
            return f"rank {self.rank} stopped before it said where it is"
        if self.age_s > _OLD_S:
            return f"rank {self.rank} has not run for {self.age_s:.0f} s; it was last seen at {self.at}"
        return f"rank {self.rank} is at {self.at}"

    @property
    def hangs(self) -> bool:
        """Whether others wait for what it will not do."""
        return not self.waits or self.age_s > _OLD_S


@contextmanager
def noted(folder: Path, rank: int) -> Iterator[threading.Event]:
    """Note where the calling thread stands until the block ends; leave the process when its launcher is gone.

    The event is set by who has waited in a collective in vain: what it does after that keeps nobody waiting.
    """
    with written_whole(folder / f"begun-{rank}") as begun:
        begun.write_text(str(os.getpid()))
    stop, thread, parent = threading.Event(), threading.get_ident(), os.getppid()
    waited = threading.Event()

    def note() -> None:
        while not stop.wait(_INTERVAL_S):
            if os.getppid() != parent:
                # Nobody would end this process: its launcher was killed without a chance to.
                os._exit(1)
            if (frame := sys._current_frames().get(thread)) is not None:
                # In this order: a frame of after the wait is then never taken for one that keeps others waiting.
                _write(folder, rank, _place(frame), waits=_waits(frame) or waited.is_set())

    watcher = threading.Thread(target=note, name="shardwright-standing", daemon=True)
    watcher.start()
    try:
        yield waited
    except BaseException:
        (folder / f"failed-{rank}").touch()
        raise
    finally:
        stop.set()
        watcher.join()


def has_begun(folder: str, rank: int) -> bool:
    """Whether a rank's process came as far as to run."""
    return (Path(folder) / f"begun-{rank}").exists()


@contextmanager
def waking(folder: Path, num_ranks: int) -> Iterator[None]:
    """In the launcher: once a rank has failed and is gone, let ranks that are stopped go on.

    The launcher asks all ranks to end then, which a process that is stopped does not heed.
    """
    over = threading.Event()

    def wake() -> None:
        gone_for = 0
        while not over.wait(_INTERVAL_S):
            gone_for += any(_has_failed(folder, rank) for rank in range(num_ranks))
            # By the third look, the launcher has seen it too.
            for rank in range(num_ranks) if gone_for > 2 else ():
                with suppress(OSError):
                    os.kill(_process(folder, rank), signal.SIGCONT)

    watcher = threading.Thread(target=wake, name="shardwright-waking", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def _has_failed(folder: Path, rank: int) -> bool:
    """Whether a rank has noted that it failed, and its process has ended."""
    return (folder / f"failed-{rank}").exists() and not Path(f"/proc/{_process(folder, rank)}/exe").exists()


def _process(folder: Path, rank: int) -> int:
    return int((folder / f"begun-{rank}").read_text())


def standings(folder: Path, num_ranks: int) -> list[Standing]:
    """The last note of every rank; of one that has written none, that it has not."""
    found = []
    for rank in range(num_ranks):
        path = folder / f"standing-{rank}.json"
        if path.exists():
            note = json.loads(path.read_text())
            found.append(Standing(rank, note["at"], note["waits"], time.time() - path.stat().st_mtime))
        else:
            found.append(Standing(rank, "", waits=False, age_s=math.inf))
    return found


def _write(folder: Path, rank: int, at: str, *, waits: bool) -> None:
    with written_whole(folder / f"standing-{rank}.json") as draft:
        draft.write_text(json.dumps({"at": at, "waits": waits}))


def _place(frame: FrameType) -> str:
    """File, line and function of the innermost frame that is not torch's own."""
    own: Any = frame
    while own is not None and "/torch/" in own.f_code.co_filename:
        own = own.f_back
    shown = own or frame
    return f"{shown.f_code.co_filename}:{shown.f_lineno} ({shown.f_code.co_name})"


def _waits(frame: FrameType) -> bool:
    if frame.f_code.co_filename.endswith("distributed_c10d.py") or frame.f_code is Forum.everybody.__code__:
        return True
    called = frame.f_locals.get("self")
    # Of nothing else is the name read: another thread's objects may be half made.
    if isinstance(called, OpOverload):
        return called.namespace in _WAITING
    return isinstance(called, OpOverloadPacket) and packet_name(called).startswith(
        tuple(f"{name}::" for name in _WAITING)
    )
