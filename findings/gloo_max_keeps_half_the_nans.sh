#!/usr/bin/env bash
# gloo's all_reduce(MAX) propagates a NaN or drops it, by where in the tensor it stands and which rank has it.
#
# torch 2.13.0, backend gloo, 2 ranks, CPU. torch.maximum and amax propagate NaN, and fmax drops it; one expects the
# collective to do one or the other. It does both: the ring works on a tensor in one piece a rank, each piece is reduced
# by another rank, and `a > b ? a : b` keeps whichever operand comes second where one is NaN. So of four elements that
# are NaN on rank 0 and 1.0 on rank 1, the first half come out NaN and the second half 1.0; with the NaN on rank 1 it
# is the other way round. A one-element tensor keeps rank 0's NaN and loses rank 1's. All ranks get the same answer, and
# SUM propagates as expected. An argmax or softmax built on such a maximum may therefore hide a NaN, or not.
#
# Output seen:
#   NaN on rank 0, 1 element:  [nan]
#   NaN on rank 0, 4 elements: [nan, nan, 1.0, 1.0]
#   NaN on rank 1, 1 element:  [1.0]
#   NaN on rank 1, 4 elements: [1.0, 1.0, nan, nan]
#   sum, NaN on rank 1:        [nan, nan, nan, nan]
#
# Exits 0 while that is so, 1 when it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.3.4
cat > "$folder/run.py" <<'PYTHON'
import sys
import tempfile

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def run(rank, rendezvous):
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)

    def reduced(count, holder, op=dist.ReduceOp.MAX):
        x = torch.full((count,), float("nan") if rank == holder else 1.0)
        dist.all_reduce(x, op)
        return str(x.tolist())

    found = {
        "NaN on rank 0, 1 element: ": reduced(1, 0),
        "NaN on rank 0, 4 elements:": reduced(4, 0),
        "NaN on rank 1, 1 element: ": reduced(1, 1),
        "NaN on rank 1, 4 elements:": reduced(4, 1),
        "sum, NaN on rank 1:       ": reduced(4, 1, dist.ReduceOp.SUM),
    }
    dist.barrier()
    dist.destroy_process_group()
    if rank == 0:
        for what, seen in found.items():
            print(what, seen)
    wanted = ["[nan]", "[nan, nan, 1.0, 1.0]", "[1.0]", "[1.0, 1.0, nan, nan]", "[nan, nan, nan, nan]"]
    sys.exit(list(found.values()) != wanted)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(run, (f"{folder}/rendezvous",), nprocs=2)
    print("as described")
PYTHON
GLOO_SOCKET_IFNAME=lo OMP_NUM_THREADS=1 "$folder/venv/bin/python" "$folder/run.py"
