"""Checkpoints that the packages of quantisation write themselves, sharded: `make quantised`.

Each package writes small checkpoints in a process of its own (`write.py`, one module `by_PACKAGE.py` each), and works
out what they stand for by its own functions. `judge.py` shards them, packed, and holds ranks against that.
"""
