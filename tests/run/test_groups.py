"""A process group that was joined for a program is left with it."""

import subprocess
import sys

import pytest

HEAD = """
import atexit, os, torch.distributed as dist

# What is registered first runs last.
atexit.register(lambda: print("up" if dist.is_initialized() else "left"))
os.environ.update(RANK="0", WORLD_SIZE="1", MASTER_ADDR="localhost", MASTER_PORT="0")
from shardwright.run.groups import start_process_group

start_process_group(60.0)
assert dist.is_initialized()
"""
DESTROYED = """
import weakref

group = weakref.ref(dist.group.WORLD)
dist.destroy_process_group()
print("gone" if group() is None else "kept")
"""


@pytest.mark.parametrize(
    ("rest", "said"),
    [("", "left"), ("raise ValueError", "up"), (DESTROYED, "gone left")],
    ids=["ends", "fails", "destroyed by the program"],
)
def test_the_group_at_the_end_of_a_program(rest, said):
    ran = subprocess.run([sys.executable, "-c", HEAD + rest], capture_output=True, text=True, timeout=100, check=False)
    assert ran.stdout.split() == said.split(), ran.stderr
