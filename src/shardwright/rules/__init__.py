"""Rules: for every operator, how its factors lie in operands and results. One file a family, one registry."""

from shardwright.rules import matmul, pointwise, views
from shardwright.rules.registry import Registry

REGISTRY = Registry()
for _family in (matmul, views):
    REGISTRY.add_table(_family.RULES, getattr(_family, "UNSUPPORTED", None))
REGISTRY.add_table(pointwise.RULES)
REGISTRY.add_fallback(pointwise.find)
