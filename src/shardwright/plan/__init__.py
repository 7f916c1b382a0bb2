"""Plans: patterns of module or parameter names → styles, resolved to pinned layouts."""

from shardwright.plan.autodeploy import AutoDeployPlan, autodeploy_plan
from shardwright.plan.borrowed import BorrowedPlan, move_inside
from shardwright.plan.files import read_plan, write_plan
from shardwright.plan.huggingface import hf_plan, plan_of_classes
from shardwright.plan.resolve import Boundary, Pin, Plan, ResolvedPlan, TensorInfo, resolve_names, resolve_plan
from shardwright.plan.styles import STYLE_NAMES

__all__ = [
    "STYLE_NAMES",
    "AutoDeployPlan",
    "BorrowedPlan",
    "Boundary",
    "Pin",
    "Plan",
    "ResolvedPlan",
    "TensorInfo",
    "autodeploy_plan",
    "hf_plan",
    "move_inside",
    "plan_of_classes",
    "read_plan",
    "resolve_names",
    "resolve_plan",
    "write_plan",
]
