"""Run on a small disk of its own (see test_full_disk.py): write packages onto it until it is full, and say what came.

``python -m tests.support.fill_disk DISK CHECKPOINT``. Prints one JSON object: case → message and what is left there.
"""

import json
import sys
from pathlib import Path

import torch

import shardwright as sw


def linears(width, count=6):
    """A program with ``count`` weights of ``width``² numbers."""
    layers = [torch.nn.Linear(width, width, bias=False) for _ in range(count)]
    return torch.export.export(torch.nn.Sequential(*layers).eval(), (torch.zeros(4, width),))


def fill(disk, *, leave):
    """Take up the disk's free bytes but for ``leave``."""
    filler = disk / "filler"
    with filler.open("ab", buffering=0) as file:
        for size in (2**16, 2**10, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue
    with filler.open("rb+") as file:
        file.truncate(max(filler.stat().st_size - leave, 0))


def main():
    disk, checkpoint = Path(sys.argv[1]), Path(sys.argv[2])
    small, large = (sw.shard(linears(width), mesh=2) for width in (128, 512))
    filled = []

    def fill_when_writing(doing, done, total):
        if done and not filled:
            filled.append(done)
            fill(disk, leave=2**12)

    cases = {
        "a disk smaller than the weights": lambda: large.save(disk / "p"),
        "filled while weights are written": lambda: small.save(disk / "p", progress=fill_when_writing),
        "no room for the graph": lambda: (fill(disk, leave=2**12), small.save(disk / "p")),
        "a checkpoint": lambda: sw.shard_checkpoint(checkpoint, disk / "p", mesh=2, progress=fill_when_writing),
    }
    found = {}
    for name, act in cases.items():
        filled.clear()
        try:
            act()
            message = ""
        except sw.ShardwrightError as error:
            message = f"{type(error).__name__}: {error}"
        (disk / "filler").unlink(missing_ok=True)
        found[name] = [message, sorted(path.name for path in disk.iterdir()), bool(filled)]
    print(json.dumps(found))


if __name__ == "__main__":
    main()
