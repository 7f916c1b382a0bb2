"""One call at a time on the process groups of this process.

Ranks meet in the order in which they call. Two threads take turns differently on every rank, so one's collectives
would pair with the other's elsewhere, and where shapes agree nothing would notice. A lock would not help: it does not
order the ranks. So a second thread is refused. A call within a call, in the same thread, comes in the same order on
every rank, and passes.

Which of two threads comes first may differ from rank to rank as well. The thread that loaded the packages calls in one
order everywhere, so its calls stand. Where two other threads meet, neither's numbers can be trusted: the call that
runs fails at its end, and from then on only the loading thread may call.
"""

import threading
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from shardwright.errors import RunError

GROUPS = "the process groups"
"""What all programs that communicate share, whichever groups they use: NCCL's must not run beside each other either."""

_REMEDY = "  try: call from one thread, in the same order on every rank (a queue that one thread works off)"


@dataclass
class _Call:
    """The call that runs; ``disturbed``: another thread has called meanwhile."""

    thread: int
    disturbed: bool = False


_LOCK = threading.Lock()
_RUNNING: dict[Hashable, _Call] = {}
_HOME: list[int] = []
"""The thread that loaded the first package."""
_MET: list[str] = []
"""Not empty when two threads that are not at home have met."""


def settle() -> None:
    """Make the calling thread the one whose calls come in the same order on every rank, unless there is one."""
    with _LOCK:
        if not _HOME:
            _HOME.append(threading.get_ident())


@contextmanager
def alone(shared: Hashable) -> Iterator[None]:
    """A call that uses what is ``shared``; raises `RunError` while another thread's does, or once two were in doubt."""
    thread = threading.get_ident()
    unordered = shared == GROUPS and thread not in _HOME
    with _LOCK:
        outermost = shared not in _RUNNING
        if outermost and unordered and _MET:
            raise RunError(f"{_MET[0]}, so only the thread that loaded the package may call\n{_REMEDY}")
        running = _RUNNING.setdefault(shared, _Call(thread))
        if running.thread != thread:
            running.disturbed = True
            if shared == GROUPS and running.thread not in _HOME:
                _MET[:] = ["two threads have called sharded programs at once, perhaps in another order on other ranks"]
            raise RunError(_refusal(shared))
    try:
        yield
    finally:
        if outermost:
            with _LOCK:
                del _RUNNING[shared]
    if outermost and unordered and running.disturbed:
        raise RunError(
            "another thread called a sharded program while this call ran, and may have come first on other ranks, so "
            f"its numbers may be of both\n{_REMEDY}"
        )


def _refusal(shared: Hashable) -> str:
    if shared == GROUPS:
        why = "the collectives of two calls at once would mix with each other on other ranks"
    else:
        why = "both would write to its buffers"
    return f"another thread is in a call of a sharded program, and {why}\n{_REMEDY}"
