"""Launch local ranks with torchrun's own elastic launcher, and stop all of them when one fails."""

import logging
import pickle
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.distributed.elastic.multiprocessing import Std
from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from shardwright.errors import RunError, first_line
from shardwright.layout.values import check_count, check_number
from shardwright.run.groups import TIMEOUT_S
from shardwright.run.rank import run_rank
from shardwright.run.shared_memory import prepare
from shardwright.run.standing import has_begun, waking
from shardwright.run.transport import chosen_transport

_BLAMES = "RunError: "
_START = (
    "  try: a file whose own calls stand below `if __name__ == '__main__':`, as every process reads that file first"
)
_SIGNALS = ("SIGTERM", "SIGHUP", "SIGQUIT")
_LAUNCHER_LOGGERS = ("torch.distributed.elastic", "torch.multiprocessing")


def launch(
    num_ranks: int,
    function: Callable[..., Any],
    *args: Any,
    timeout_s: float = TIMEOUT_S,
    threads: int | None = None,
    transport: str | None = None,
    ranks_take_interrupts: bool = False,
) -> dict[int, Any]:
    """``function(*args)`` on ``num_ranks`` processes of this machine, in one process group; each rank's result.

    A rank that dies or raises ends the job at once; one that hangs ends it when a collective has waited ``timeout_s``
    for it. The other ranks are then stopped: they get SIGTERM, and SIGKILL after 30 s. ``threads``: of each rank,
    which then runs on any core; absent: every rank is bound to its share of the cores (see `cores`) and has as many
    threads as those, or as the environment variable ``OMP_NUM_THREADS`` says. ``transport``: what collectives of CPU
    tensors go through, as in `load`. ``ranks_take_interrupts``: Ctrl-C is the ranks' affair; until ``function`` has a
    handler of its own there, it ends them. Raises `RunError` naming the rank and its cause, or why no rank could be
    started, and else `KeyboardInterrupt` on Ctrl-C, with every rank stopped.
    """
    check_count(num_ranks, "the number of ranks", least=1, error=RunError)
    check_number(timeout_s, "the timeout in seconds", above=0, error=RunError)
    if threads is not None:
        check_count(threads, "the number of threads", least=1, error=RunError)
    transport = chosen_transport(transport)
    if num_ranks > 1 and transport != "gloo" and not torch.cuda.is_available():
        # Before any rank waits for another. Where it cannot be done, the ranks say so.
        prepare()
    with tempfile.TemporaryDirectory(prefix="shardwright-") as folder, _restored_signals():
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=num_ranks,
            run_id="shardwright",
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            max_restarts=0,
            monitor_interval=0.2,
            signals_to_handle=",".join(_SIGNALS if ranks_take_interrupts else ("SIGINT", *_SIGNALS)),
            logs_specs=DefaultLogsSpecs(log_dir=folder, redirects=Std.NONE, tee=Std.NONE),
        )
        if ranks_take_interrupts and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            with _quiet_launcher(), waking(Path(folder), num_ranks):
                return elastic_launch(config, run_rank)(function, folder, timeout_s, threads, transport, *args)
        except ChildFailedError as error:
            rank, failure = _first(error.failures)
            cause = _cause(failure)
            if not has_begun(folder, rank):
                seen = cause if failure.exitcode < 0 else f"exit code {failure.exitcode}, its own error is above"
                raise RunError(f"the process of rank {rank} could not be started: {seen}\n{_START}") from None
            # A rank that timed out has named the one to blame.
            blames = cause.startswith(_BLAMES)
            raise RunError(cause.removeprefix(_BLAMES) if blames else f"rank {rank} failed: {cause}") from None
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            # What fails on a rank is a ChildFailedError; these are about what is sent to it.
            name = getattr(function, "__qualname__", repr(function))
            raise RunError(
                f"the ranks could not be started: {name} and its arguments go to other processes, and cannot be "
                f"pickled ({first_line(error)})\n"
                "  try: a function of a module, and arguments without open files or locks"
            ) from error
        except SignalException as error:
            if error.sigval == signal.SIGINT:
                raise KeyboardInterrupt from None
            raise RunError(f"stopped by {error.sigval.name}; all ranks were stopped") from None


def _first(failures: dict[int, Any]) -> tuple[int, Any]:
    """The failure that came first; of those within a second, which is all that is noted, one that blames a rank."""
    order = {rank: (one.timestamp, not _cause(one).startswith(_BLAMES)) for rank, one in failures.items()}
    rank = min(order, key=lambda one: order[one])
    return rank, failures[rank]


@contextmanager
def _restored_signals() -> Iterator[None]:
    """The launcher takes over signals and does not give them back."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    kept = {
        number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
    }
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


@contextmanager
def _quiet_launcher() -> Iterator[None]:
    """The launcher logs every rank's traceback and every signal; the first failure is raised instead."""
    names = [name for name in logging.root.manager.loggerDict if name.startswith(_LAUNCHER_LOGGERS)]
    kept = {logging.getLogger(name): logging.getLogger(name).level for name in (*_LAUNCHER_LOGGERS, *names)}
    for logger in kept:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for logger, level in kept.items():
            logger.setLevel(level)


def _cause(failure: Any) -> str:
    message = failure.message
    if isinstance(message, dict):
        message = message.get("message", message)
    text = str(message).strip()
    if failure.exitcode < 0 and "Signal" in text:
        killed = failure.exitcode == -signal.SIGKILL
        return text + ("; a machine that runs out of memory kills processes so" if killed else "")
    return text.removeprefix("RuntimeError: ") or f"exit code {failure.exitcode}"
