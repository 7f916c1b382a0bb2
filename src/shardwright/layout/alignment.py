"""Where tensors begin in memory and in files."""

ALIGNMENT = 64
"""Bytes that kernels read at a time: where files are mapped, a tensor lies in memory as it lies in its file."""
