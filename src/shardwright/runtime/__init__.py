"""Running a sharded program: process groups, launching ranks."""

from shardwright.runtime.groups import make_groups, rebind

__all__ = ["make_groups", "rebind"]
