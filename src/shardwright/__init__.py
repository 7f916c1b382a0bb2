"""Shardwright: tensor parallelism for exported PyTorch programs."""

from shardwright.api import shard, tensor_parallel_transformation
from shardwright.checkpoint import shard_checkpoint
from shardwright.custom import check_rule, register_rule
from shardwright.errors import (
    AssignmentError,
    BudgetError,
    CheckpointError,
    InputError,
    LayoutError,
    PackageError,
    PlanError,
    ProgramError,
    RuleError,
    RunError,
    ShardwrightError,
)
from shardwright.generate import Sampling, generate
from shardwright.layout import Blocks, Partial, Replicate, Shard
from shardwright.mesh import Mesh
from shardwright.package import gather, load, reshard
from shardwright.runtime.groups import rebind
from shardwright.sharded import ShardedProgram
from shardwright.verify import verify
from shardwright.version import VERSION

__version__ = VERSION

__all__ = [
    "AssignmentError",
    "Blocks",
    "BudgetError",
    "CheckpointError",
    "InputError",
    "LayoutError",
    "Mesh",
    "PackageError",
    "Partial",
    "PlanError",
    "ProgramError",
    "Replicate",
    "RuleError",
    "RunError",
    "Sampling",
    "Shard",
    "ShardedProgram",
    "ShardwrightError",
    "check_rule",
    "gather",
    "generate",
    "load",
    "rebind",
    "register_rule",
    "reshard",
    "shard",
    "shard_checkpoint",
    "tensor_parallel_transformation",
    "verify",
]
