"""Partition: from a program and an assignment to one rank's program, and from that to an `ExportedProgram`."""

from shardwright.partition.collectives import Collective
from shardwright.partition.lower import check_lowering, lower
from shardwright.partition.partition import collectives_of, partition

__all__ = ["Collective", "check_lowering", "collectives_of", "lower", "partition"]
