"""Shardwright: tensor parallelism for exported PyTorch programs."""

from shardwright.api import shard, tensor_parallel_transformation
from shardwright.compiler.sharded import ShardedProgram
from shardwright.compiler.verify import verify
from shardwright.errors import (
    AssignmentError,
    BudgetError,
    CheckpointError,
    CheckpointWarning,
    GatherWarning,
    InputError,
    LayoutError,
    PackageError,
    PlanError,
    PlanWarning,
    ProgramError,
    RuleError,
    RunError,
    ShardwrightError,
    SolverWarning,
)
from shardwright.generate.decoding import generate
from shardwright.generate.sampling import Sampling
from shardwright.layout.cut import Blocks
from shardwright.layout.layout import Partial, Replicate, Shard
from shardwright.layout.mesh import Mesh
from shardwright.package.gather import gather
from shardwright.package.manifest import VERSION
from shardwright.plan.autodeploy import autodeploy_plan
from shardwright.plan.huggingface import hf_plan
from shardwright.rules.custom import check_rule, discover_rule, register_rule
from shardwright.run.aot.compile import compile_package
from shardwright.run.groups import rebind
from shardwright.run.load import load
from shardwright.sources.checkpoint import shard_checkpoint
from shardwright.sources.package import reshard

__version__ = VERSION

__all__ = [
    "AssignmentError",
    "Blocks",
    "BudgetError",
    "CheckpointError",
    "CheckpointWarning",
    "GatherWarning",
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
    "Sampling",
    "Shard",
    "ShardedProgram",
    "ShardwrightError",
    "SolverWarning",
    "autodeploy_plan",
    "check_rule",
    "compile_package",
    "discover_rule",
    "gather",
    "generate",
    "hf_plan",
    "load",
    "rebind",
    "register_rule",
    "reshard",
    "shard",
    "shard_checkpoint",
    "tensor_parallel_transformation",
    "verify",
]
