"""What runs on a launched rank around the function: its process group, where it stands, the error it ends with."""

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from shardwright.errors import RunError
from shardwright.run.cores import bind_cores
from shardwright.run.groups import start_process_group
from shardwright.run.standing import noted, standings
from shardwright.run.transport import TRANSPORT_SWITCH

_SETTLE_S = 2.0


def run_rank(
    function: Callable[..., Any], folder: str, timeout_s: float, threads: int | None, transport: str, *args: Any
) -> Any:
    """``function(*args)`` within a process group whose collectives wait ``timeout_s`` at most.

    ``threads``: absent, this rank is bound to its share of the cores. ``transport``: of every group that is made here.
    Raises `RunError` naming the rank that did not come to a collective.
    """
    # The launcher passes Ctrl-C on; a rank then ends without a traceback of its own.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    rank, num_ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    _take_threads(rank, num_ranks, threads)
    os.environ[TRANSPORT_SWITCH] = transport
    with noted(Path(folder), rank) as waited:
        try:
            if num_ranks > 1:
                start_process_group(timeout_s)
            result = function(*args)
            if dist.is_initialized():
                # A rank that leaves early would break connections that others still use.
                dist.barrier()
                dist.destroy_process_group()
        except RuntimeError as error:
            _explain(error, waited, Path(folder), num_ranks, timeout_s)
            raise
    return result


def _take_threads(rank: int, num_ranks: int, threads: int | None) -> None:
    if threads is not None:
        torch.set_num_threads(threads)
        return
    num_cores = bind_cores(rank, num_ranks)
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(num_cores)


def _explain(error: RuntimeError, waited: threading.Event, folder: Path, num_ranks: int, timeout_s: float) -> None:
    """Turn a collective's failure into the name of the rank that caused it, where it is not this one."""
    text = str(error).lower()
    if "timed out" in text or "timeout" in text:
        waited.set()
        notes = standings(folder, num_ranks)
        absent = [note for note in notes if note.hangs]
        where = "; ".join(map(str, absent or notes))
        raise RunError(
            f"a collective waited {timeout_s:g} s without an answer: {where}"
            + ("" if absent else "\n  every rank waits in a collective, but not in the same one")
        ) from None
    if "connection closed" in text or "connection reset" in text or "waited for it" in text:
        waited.set()
        # The peer died a moment ago. The launcher sees that, and ends this rank, unless the error is faster.
        time.sleep(_SETTLE_S)
