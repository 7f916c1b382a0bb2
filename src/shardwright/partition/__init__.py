"""Partition: from a program and an assignment to one rank's program, and from that to an `ExportedProgram`."""

from shardwright.partition.collectives import Collective
from shardwright.partition.lower import lower
from shardwright.partition.partition import partition

__all__ = ["Collective", "lower", "partition"]
