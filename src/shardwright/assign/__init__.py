"""Assign a layout to every value: steps, candidate cuts, cost model, exact solution, repeated layers folded."""

from shardwright.assign.assignment import Assignment, assign_layouts

__all__ = ["Assignment", "assign_layouts"]
