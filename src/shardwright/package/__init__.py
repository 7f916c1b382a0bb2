"""Packages: a sharded program on disk. Graphs as ``.pt2``, weights per rank in safetensors, one manifest."""

from shardwright.package.load import RankModule, load, load_rank
from shardwright.package.manifest import Manifest, read_manifest
from shardwright.package.save import save

__all__ = ["Manifest", "RankModule", "load", "load_rank", "read_manifest", "save"]
