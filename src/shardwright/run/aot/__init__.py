"""Ranks compiled ahead of time with AOTInductor, for Python and for C++."""
