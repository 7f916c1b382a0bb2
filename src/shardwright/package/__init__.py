"""Packages: a sharded program on disk. Graphs as ``.pt2``, weights per rank in safetensors, one manifest.

``regions``, ``stream`` and ``folder`` are the ground: index boxes, safetensors written tensor by tensor, and folders
that are complete or absent. ``save`` writes, ``load`` opens a rank, ``gather`` goes back or to other ranks.
"""
