"""Assign a layout to every value: steps, candidate cuts, cost model, exact solution, repeated layers folded."""
