"""Assign a layout to every value: steps, candidate cuts, cost model, exact solution, repeated layers folded."""

from shardwright.assign.assignment import assign_layouts
from shardwright.assign.result import Assignment

__all__ = ["Assignment", "assign_layouts"]
