"""Run a function on real processes, rendezvous through a file; and what such functions share."""

import contextlib
import multiprocessing
import os
import sys
import tempfile
import traceback
from multiprocessing import forkserver
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.launcher.api import elastic_launch

from shardwright.program.torch_private import carrier_of
from shardwright.run import shared_memory
from shardwright.run.transport import BACKEND

ROOT = Path(__file__).parents[2]

SAID_BY_THE_LAUNCHER = {
    *("LOCAL_RANK", "RANK", "GROUP_RANK", "ROLE_RANK", "LOCAL_WORLD_SIZE", "WORLD_SIZE", "GROUP_WORLD_SIZE"),
    *("ROLE_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RESTART_COUNT", "TORCHELASTIC_MAX_RESTARTS"),
    *("TORCHELASTIC_RUN_ID", "TORCHELASTIC_USE_AGENT_STORE", "TORCH_NCCL_ASYNC_ERROR_HANDLING", "ROLE_NAME"),
    *("TORCHELASTIC_ERROR_FILE", "TORCHELASTIC_SIGNALS_TO_HANDLE"),
}


def on_ranks(num_ranks, function, *args, backend="shardwright"):
    """``function(rank, *args)`` on every rank; the list of results. A failure on any rank is raised with its text."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = (num_ranks, folder, function, args, backend)
        mp.start_processes(_entry, arguments, nprocs=num_ranks, start_method=_start_method())
        results = [torch.load(Path(folder) / f"{rank}.pt", weights_only=False) for rank in range(num_ranks)]
    failures = [f"rank {rank}:\n{text}" for rank, (text, _) in enumerate(results) if text]
    assert not failures, "\n".join(failures)
    return [value for _, value in results]


def launch_warm(config, entrypoint):
    """`elastic_launch`, whose ranks are forked as those of `on_ranks` are, into the environment of this process."""
    config.start_method = _start_method()
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    return elastic_launch(config, _Here(entrypoint, dict(os.environ), cores))


class _Here:
    """A rank's function, run in another process's environment, but for what the launcher has said."""

    def __init__(self, function, environment, cores):
        # What the launcher reads of a function.
        self.__name__ = self.__qualname__ = function.__name__
        self.function, self.environment, self.cores = function, environment, cores

    def __call__(self, *args):
        said = {name: value for name, value in os.environ.items() if name in SAID_BY_THE_LAUNCHER}
        os.environ.clear()
        os.environ.update(self.environment | said)
        if self.cores is not None:
            os.sched_setaffinity(0, self.cores)
        return self.function(*args)


def small_group(slot=64 << 10):
    """On a rank: a group of all ranks through shared memory. In small slots, small tensors take several rounds."""
    shared_memory.SLOT_BYTES = shared_memory._LEAST_SLOT_BYTES = slot
    group = dist.new_group(backend=BACKEND)
    assert carrier_of(group) == carrier_of(dist.group.WORLD) == BACKEND
    return group


def _start_method():
    """Importing torch takes a rank far longer than most tests: on Linux ranks are forked from a process that has
    imported what `preloaded` names, and has done nothing else. They see the environment as it was when the first rank
    started.
    """
    if sys.platform != "linux":
        return "spawn"
    multiprocessing.get_context("forkserver").set_forkserver_preload(["tests.support.preloaded"])
    # The tests are found from here, wherever the test that starts the first rank has gone.
    with contextlib.chdir(ROOT):
        forkserver.ensure_running()
    return "forkserver"


def _entry(rank, num_ranks, folder, function, args, backend):
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    dist.init_process_group(backend, init_method=f"file://{folder}/rendezvous", rank=rank, world_size=num_ranks)
    try:
        result = ("", function(rank, *args))
    except Exception:
        result = (traceback.format_exc(), None)
    torch.save(result, Path(folder) / f"{rank}.pt")
    if not result[0]:
        dist.barrier()
    dist.destroy_process_group()
