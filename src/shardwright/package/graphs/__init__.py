"""Graph files of packages: strict types for all they may hold (`schema`), read and written (`graph_files`)."""

from shardwright.package.graphs.graph_files import graph_bytes, read_graph

__all__ = ["graph_bytes", "read_graph"]
