"""Plans: patterns of module or parameter names → styles, resolved to pinned layouts."""

from shardwright.plan.files import read_plan, write_plan
from shardwright.plan.resolve import Boundary, Pin, Plan, ResolvedPlan, TensorInfo, resolve_plan
from shardwright.plan.styles import STYLE_NAMES

__all__ = [
    "STYLE_NAMES",
    "Boundary",
    "Pin",
    "Plan",
    "ResolvedPlan",
    "TensorInfo",
    "read_plan",
    "resolve_plan",
    "write_plan",
]
