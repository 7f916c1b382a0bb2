"""Launch local ranks with torchrun's own elastic launcher, and stop all of them when one fails."""

import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch.distributed.elastic.multiprocessing import Std
from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from shardwright.errors import RunError


def launch(num_ranks: int, function: Callable[..., Any], *args: Any) -> dict[int, Any]:
    """``function(*args)`` on ``num_ranks`` processes of this machine; each rank's result.

    Raises `RunError` naming the first rank that failed and its cause; the others are stopped.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory(prefix="shardwright-") as folder:
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=num_ranks,
            run_id="shardwright",
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            max_restarts=0,
            monitor_interval=0.2,
            logs_specs=DefaultLogsSpecs(log_dir=folder, redirects=Std.NONE, tee=Std.NONE),
        )
        try:
            with _quiet_launcher():
                return elastic_launch(config, function)(*args)
        except ChildFailedError as error:
            rank, failure = error.get_first_failure()
            raise RunError(f"rank {rank} failed: {_cause(failure)}") from None
        except SignalException as error:
            raise RunError(f"stopped by {error.sigval.name}; all ranks were stopped") from None


@contextmanager
def _quiet_launcher() -> Iterator[None]:
    """The launcher logs every rank's traceback; the first failure is raised instead."""
    logger = logging.getLogger("torch.distributed.elastic")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(level)


def _cause(failure: Any) -> str:
    message = failure.message
    if isinstance(message, dict):
        message = message.get("message", message)
    text = str(message).strip()
    if failure.exitcode < 0 and "Signal" in text:
        return text
    return text.removeprefix("RuntimeError: ") or f"exit code {failure.exitcode}"
