"""Packages that many models need and that take seconds to import: imported once, before a process is forked a model."""

import contextlib
import importlib

from evals.wild.torchvision_parts import declare

SLOW = (
    "transformers",
    "diffusers.models.modeling_utils",
    "diffusers.models.autoencoders",
    "diffusers.models.transformers",
    "diffusers.models.unets",
    "timm",
    "torch_geometric.nn",
    "monai.networks.nets",
)

declare()
for name in SLOW:
    with contextlib.suppress(Exception):  # raised again, and reported, where a model of it is built
        importlib.import_module(name)
