"""A package runs under plain torchrun, on several nodes, as the docs show."""

import os
import socket
import subprocess
import sys
from contextlib import ExitStack

import pytest
import torch

import shardwright as sw
from tests.support.models import MEGATRON, Decoder, redraw

pytestmark = pytest.mark.ranks

IDS = torch.randint(0, 96, (2, 8), generator=torch.Generator().manual_seed(0))
SCRIPT = """
import atexit, sys, torch, shardwright as sw
from pathlib import Path

def threads():
    return [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]

# What is registered first runs last.
atexit.register(lambda: torch.save((before, threads()), f"{sys.argv[2]}.threads.{model.rank}"))
model = sw.load(sys.argv[1])
torch.save(model(torch.load(sys.argv[2])), f"{sys.argv[2]}.{model.rank}")
before = threads()
"""


def test_two_nodes_of_one_rank_each(tmp_path):
    exported = torch.export.export(redraw(Decoder()), (IDS,))
    sw.shard(exported, mesh=2, plan=MEGATRON).save(str(tmp_path / "out"))
    torch.save(IDS, tmp_path / "ids")
    (tmp_path / "run.py").write_text(SCRIPT)
    with socket.create_server(("localhost", 0)) as server:
        port = server.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"]
    command += ["--rdzv-backend=c10d", f"--rdzv-endpoint=localhost:{port}", "--rdzv-id=test"]
    command += [str(tmp_path / "run.py"), str(tmp_path / "out"), str(tmp_path / "ids")]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    with ExitStack() as started:
        nodes = [
            started.enter_context(subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True))
            for _ in range(2)
        ]
        for node in nodes:
            started.callback(node.kill)
        said = [node.communicate(timeout=200)[1] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], said
    wanted = exported.module()(IDS)
    for rank in range(2):
        torch.testing.assert_close(torch.load(tmp_path / f"ids.{rank}"), wanted, rtol=1e-4, atol=1e-4)
        before, after = torch.load(tmp_path / f"ids.threads.{rank}")
        assert any("gloo" in name for name in before)
        assert not any("gloo" in name for name in after), "threads of the process group outlive the program"
