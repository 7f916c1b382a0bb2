"""Layouts: meshes, cuts of a dim, where a tensor lives on an axis, and a rank's piece of it. Knows no graph."""
