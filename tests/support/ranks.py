"""Run a function on real processes over gloo, rendezvous through a file."""

import os
import tempfile
import traceback
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def on_ranks(num_ranks, function, *args):
    """``function(rank, *args)`` on every rank; the list of results. A failure on any rank is raised with its text."""
    with tempfile.TemporaryDirectory() as folder:
        mp.start_processes(_entry, (num_ranks, folder, function, args), nprocs=num_ranks, start_method="spawn")
        results = [torch.load(Path(folder) / f"{rank}.pt", weights_only=False) for rank in range(num_ranks)]
    failures = [f"rank {rank}:\n{text}" for rank, (text, _) in enumerate(results) if text]
    assert not failures, "\n".join(failures)
    return [value for _, value in results]


def _entry(rank, num_ranks, folder, function, args):
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=num_ranks)
    try:
        result = ("", function(rank, *args))
    except Exception:
        result = (traceback.format_exc(), None)
    torch.save(result, Path(folder) / f"{rank}.pt")
    if not result[0]:
        dist.barrier()
    dist.destroy_process_group()
