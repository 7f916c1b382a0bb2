"""Passes over the collectives of a rank's program, before they are lowered."""

from shardwright.optimize.merge import merge_collectives

__all__ = ["merge_collectives"]
