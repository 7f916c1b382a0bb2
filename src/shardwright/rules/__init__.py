"""Rules: for every operator, how its factors lie in operands and results. One file a family, one registry."""

from shardwright.rules.operators import (
    attention,
    block_quantized,
    convolution,
    copies,
    distances,
    embedding,
    experts,
    factories,
    gradients,
    halos,
    indexing,
    joining,
    linalg,
    losses,
    matmul,
    norms,
    own_collectives,
    pointwise,
    powers,
    quantized,
    rearranging,
    recurrent,
    reductions,
    repeating,
    scans,
    slicing,
    transforms,
    views,
)
from shardwright.rules.registry import Registry

FAMILIES = (
    attention,
    block_quantized,
    convolution,
    copies,
    distances,
    embedding,
    experts,
    factories,
    gradients,
    halos,
    indexing,
    joining,
    linalg,
    losses,
    matmul,
    norms,
    own_collectives,
    pointwise,
    powers,
    quantized,
    rearranging,
    recurrent,
    reductions,
    repeating,
    scans,
    slicing,
    transforms,
    views,
)

REGISTRY = Registry()
for _family in FAMILIES:
    REGISTRY.add_table(_family.RULES, getattr(_family, "UNSUPPORTED", None))
REGISTRY.add_fallback(pointwise.find)
