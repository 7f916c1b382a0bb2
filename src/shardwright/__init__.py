"""Shardwright: tensor parallelism for exported PyTorch programs."""

from shardwright.api import shard, tensor_parallel_transformation
from shardwright.assign.assignment import Assignment, Fallback
from shardwright.assign.cost import CostModel
from shardwright.assign.gathered import GatheredWeight
from shardwright.assign.hardware import cost_model
from shardwright.compiler.prediction import Prediction
from shardwright.compiler.sharded import ShardedProgram
from shardwright.compiler.verify import Report, verify
from shardwright.compiler.weights import WeightLayout
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
from shardwright.generate.text import load_tokenizer
from shardwright.generate.writing import Text, generate_text
from shardwright.layout.box import Region
from shardwright.layout.cut import Blocks, Cut
from shardwright.layout.layout import Owned, Partial, Replicate, Shard
from shardwright.layout.mesh import Mesh
from shardwright.lean.options import Lean
from shardwright.package.gather import gather
from shardwright.package.manifest import VERSION, DecoderEntry
from shardwright.package.save import WeightSource
from shardwright.page.facts import Facts, WeightFacts
from shardwright.plan.autodeploy import AutoDeployPlan, autodeploy_plan
from shardwright.plan.borrowed import BorrowedPlan
from shardwright.plan.huggingface import hf_plan
from shardwright.program.collectives import Collective, CollectiveKind
from shardwright.program.joint import export_training
from shardwright.program.program import Program
from shardwright.program.simulate import Simulation
from shardwright.report.written_plan import write_plan
from shardwright.rules.custom import check_rule, discover_rule, register_rule
from shardwright.rules.discover import Discovery
from shardwright.run.aot.compile import compile_package
from shardwright.run.calibrate import calibrate
from shardwright.run.groups import rebind
from shardwright.run.load import RankModule, load
from shardwright.run.training_module import TrainingModule, clip_grad_norm_
from shardwright.sources.checkpoint import shard_checkpoint
from shardwright.sources.package import reshard

__version__ = VERSION

__all__ = [
    "Assignment",
    "AssignmentError",
    "AutoDeployPlan",
    "Blocks",
    "BorrowedPlan",
    "BudgetError",
    "CheckpointError",
    "CheckpointWarning",
    "Collective",
    "CollectiveKind",
    "CostModel",
    "Cut",
    "DecoderEntry",
    "Discovery",
    "Facts",
    "Fallback",
    "GatherWarning",
    "GatheredWeight",
    "InputError",
    "LayoutError",
    "Lean",
    "Mesh",
    "Owned",
    "PackageError",
    "Partial",
    "PlanError",
    "PlanWarning",
    "Prediction",
    "Program",
    "ProgramError",
    "RankModule",
    "Region",
    "Replicate",
    "Report",
    "RuleError",
    "RunError",
    "Sampling",
    "Shard",
    "ShardedProgram",
    "ShardwrightError",
    "Simulation",
    "SolverWarning",
    "Text",
    "TrainingModule",
    "WeightFacts",
    "WeightLayout",
    "WeightSource",
    "autodeploy_plan",
    "calibrate",
    "check_rule",
    "clip_grad_norm_",
    "compile_package",
    "cost_model",
    "discover_rule",
    "export_training",
    "gather",
    "generate",
    "generate_text",
    "hf_plan",
    "load",
    "load_tokenizer",
    "rebind",
    "register_rule",
    "reshard",
    "shard",
    "shard_checkpoint",
    "tensor_parallel_transformation",
    "verify",
    "write_plan",
]
