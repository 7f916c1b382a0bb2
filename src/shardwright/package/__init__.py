"""Packages: a sharded program on disk. Graphs as ``.pt2``, weights per rank in safetensors, one manifest.

``regions``, ``stream`` and ``folder`` are the ground: index boxes, safetensors written tensor by tensor, and folders
that are complete or absent. ``save`` writes, ``load`` opens a rank, ``gather`` goes back or to other ranks.
"""

from shardwright.package.compile import compile_package
from shardwright.package.gather import gather, reshard
from shardwright.package.load import RankModule, load, load_rank
from shardwright.package.manifest import Manifest, read_manifest
from shardwright.package.save import save

__all__ = [
    "Manifest",
    "RankModule",
    "compile_package",
    "gather",
    "load",
    "load_rank",
    "read_manifest",
    "reshard",
    "save",
]
