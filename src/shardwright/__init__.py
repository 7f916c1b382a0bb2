"""Shardwright: tensor parallelism for exported PyTorch programs."""

from shardwright.api import shard, tensor_parallel_transformation
from shardwright.custom import check_rule, discover_rule, register_rule
from shardwright.errors import (
    AssignmentError,
    BudgetError,
    InputError,
    LayoutError,
    PackageError,
    PlanError,
    PlanWarning,
    ProgramError,
    RuleError,
    RunError,
    ShardwrightError,
)
from shardwright.layout import Blocks, Partial, Replicate, Shard
from shardwright.mesh import Mesh
from shardwright.package import load
from shardwright.plan import autodeploy_plan, hf_plan
from shardwright.runtime.groups import rebind
from shardwright.sharded import ShardedProgram
from shardwright.verify import verify
from shardwright.version import VERSION

__version__ = VERSION

__all__ = [
    "AssignmentError",
    "Blocks",
    "BudgetError",
    "InputError",
    "LayoutError",
    "Mesh",
    "PackageError",
    "Partial",
    "PlanError",
    "PlanWarning",
    "ProgramError",
    "Replicate",
    "RuleError",
    "RunError",
    "Shard",
    "ShardedProgram",
    "ShardwrightError",
    "autodeploy_plan",
    "check_rule",
    "discover_rule",
    "hf_plan",
    "load",
    "rebind",
    "register_rule",
    "shard",
    "tensor_parallel_transformation",
    "verify",
]
