"""Run a function on real processes, rendezvous through a file; and what such functions share."""

import multiprocessing
import os
import sys
import tempfile
import traceback
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from shardwright.program.torch_private import carrier_of
from shardwright.run import shared_memory
from shardwright.run.transport import BACKEND

# Importing torch takes a rank far longer than most tests: ranks are forked from a process that has imported it and
# done nothing else. They see the environment as it was when the first rank started.
START_METHOD = "forkserver" if sys.platform == "linux" else "spawn"
if START_METHOD == "forkserver":
    multiprocessing.get_context(START_METHOD).set_forkserver_preload(["shardwright"])


def on_ranks(num_ranks, function, *args, backend="shardwright"):
    """``function(rank, *args)`` on every rank; the list of results. A failure on any rank is raised with its text."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = (num_ranks, folder, function, args, backend)
        mp.start_processes(_entry, arguments, nprocs=num_ranks, start_method=START_METHOD)
        results = [torch.load(Path(folder) / f"{rank}.pt", weights_only=False) for rank in range(num_ranks)]
    failures = [f"rank {rank}:\n{text}" for rank, (text, _) in enumerate(results) if text]
    assert not failures, "\n".join(failures)
    return [value for _, value in results]


def small_group(slot=64 << 10):
    """On a rank: a group of all ranks through shared memory. In small slots, small tensors take several rounds."""
    shared_memory.SLOT_BYTES = shared_memory._LEAST_SLOT_BYTES = slot
    group = dist.new_group(backend=BACKEND)
    assert carrier_of(group) == carrier_of(dist.group.WORLD) == BACKEND
    return group


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
