"""Worker processes for checks that may kill the process they run in; each task's answer as it comes."""

import multiprocessing
import os
import resource
import signal
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

MEMORY = 6 << 30
"""Bytes of address space a worker may take."""
SECONDS = 300.0
"""A task that takes longer is stopped, and says so, unless told otherwise."""

Answer = dict[str, Any]


class _OutOfTimeError(BaseException):
    """Not an ``Exception``: tasks write those down as findings and go on."""


def run(
    names: Sequence[str], task: Callable[[str], Answer], workers: int = 2, seconds: float = SECONDS
) -> Iterator[Answer]:
    """``task(name)`` for every name, in worker processes; a worker that dies costs only the task it was at.

    An answer is a dict with ``name`` and ``problem``: empty, or what kept the task from its end.
    """
    context = multiprocessing.get_context("spawn")
    tasks = context.SimpleQueue()
    for name in [*names, *[None] * workers]:
        tasks.put(name)

    def start() -> tuple[Any, Any, list[str]]:
        answers = context.SimpleQueue()
        process = context.Process(target=_work, args=(tasks, answers, task, seconds), daemon=True)
        process.start()
        return process, answers, []

    crew = [start() for _ in range(workers)]
    while crew:
        for member in list(crew):
            process, answers, current = member
            # Asked before the queue is read: what a worker said before it ended is not lost.
            is_alive = process.is_alive()
            while not answers.empty():
                kind, content = answers.get()
                if kind == "started":
                    current[:] = [content]
                else:
                    current.clear()
                    yield content
            if not is_alive:
                crew.remove(member)
                if current:
                    yield {"name": current[0], "problem": f"the process died (exit code {process.exitcode})"}
                    crew.append(start())
        time.sleep(0.05)


def _work(tasks: Any, answers: Any, task: Callable[[str], Answer], seconds: float) -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    signal.signal(signal.SIGALRM, _out_of_time)
    parent = os.getppid()
    for name in iter(tasks.get, None):
        if os.getppid() != parent:
            # Whoever asked is gone.
            return
        answers.put(("started", name))
        signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            answer = {"problem": "", **task(name), "name": name}
        except _OutOfTimeError:
            answer = {"name": name, "problem": f"stopped after {seconds:g} s"}
        except Exception as error:  # noqa: BLE001 - the check itself failed: written down like everything else
            answer = {"name": name, "problem": f"{type(error).__name__}: {error}"[:500]}
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        answers.put(("done", answer))


def _out_of_time(*_: Any) -> None:
    raise _OutOfTimeError
