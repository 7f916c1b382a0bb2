"""Worker processes for checks that may kill the process they run in; each task's answer as it comes."""

import multiprocessing
import os
import resource
import signal
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

import torch

MEMORY = 6 << 30
"""Bytes of address space a worker may take."""
SECONDS = 300.0
"""A task that takes longer is stopped, and says so, unless told otherwise."""
GRACE = 20.0
"""Seconds after which a worker that does not heed its alarm (it is in native code) is killed."""

Answer = dict[str, Any]


class _OutOfTimeError(BaseException):
    """Not an ``Exception``: tasks write those down as findings and go on."""


@dataclass
class _Member:
    """One worker, what it is at, and when it is killed."""

    process: Any
    pipe: Connection
    current: str
    killed_at: float


def run(
    names: Sequence[str],
    task: Callable[[str], Answer],
    workers: int = 2,
    seconds: float = SECONDS,
    memory: int = MEMORY,
) -> Iterator[Answer]:
    """``task(name)`` for every name, in worker processes; a worker that dies costs only the task it was at.

    An answer is a dict with ``name`` and ``problem``: empty, or what kept the task from its end.
    """
    context = multiprocessing.get_context("spawn")
    waiting = deque(names)

    def start() -> _Member:
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs, task, seconds, memory), daemon=True)
        process.start()
        theirs.close()
        return next_task(_Member(process, ours, "", 0.0))

    def next_task(member: _Member) -> _Member:
        member.current = waiting.popleft()
        member.killed_at = time.monotonic() + seconds + GRACE
        member.pipe.send(member.current)
        return member

    crew = [start() for _ in range(min(workers, len(waiting)))]
    while crew:
        spoken = wait([member.pipe for member in crew], timeout=1.0)
        for member in list(crew):
            if member.pipe not in spoken and time.monotonic() < member.killed_at:
                continue
            answer = _answer(member, member.pipe in spoken)
            if member.process.exitcode is not None:
                crew.remove(member)
                crew += [start()] if waiting else []
            elif waiting:
                next_task(member)
            else:
                member.pipe.close()
                crew.remove(member)
            yield answer


def _answer(member: _Member, has_spoken: bool) -> Answer:
    """What a worker says, or what became of it: then it has ended."""
    problem = "the process died"
    try:
        if has_spoken:
            return member.pipe.recv()
        member.process.kill()
        problem = "did not stop in time and was killed"
    except EOFError:
        pass
    member.process.join()
    return {"name": member.current, "problem": f"{problem} (exit code {member.process.exitcode})"}


def _work(pipe: Connection, task: Callable[[str], Answer], seconds: float, memory: int) -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    signal.signal(signal.SIGALRM, _out_of_time)
    parent = os.getppid()
    while os.getppid() == parent:
        try:
            name = pipe.recv()
        except EOFError:
            return
        signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            answer = {"problem": "", **task(name), "name": name}
        except _OutOfTimeError:
            answer = {"name": name, "problem": f"stopped after {seconds:g} s"}
        except Exception as error:  # noqa: BLE001 - the check itself failed: written down like everything else
            answer = {"name": name, "problem": f"{type(error).__name__}: {error}"[:500]}
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        pipe.send(answer)


def _out_of_time(*_: Any) -> None:
    raise _OutOfTimeError
