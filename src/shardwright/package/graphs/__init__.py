"""Graph files of packages: strict types for all they may hold (`schema`), read and written (`read`)."""

from shardwright.package.graphs.read import graph_bytes, read_graph

__all__ = ["graph_bytes", "read_graph"]
