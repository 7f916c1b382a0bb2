"""Training of one model type: which operators of its joint program have no rule, and is every gradient right on ranks?

The loss is the mean square of everything that the model returns as floating-point numbers, so that whatever it computes
has a gradient. Under the plan ``rules`` nothing is assigned: the rules of all calls are looked up, of the forward pass
and of the backward pass. Under any other plan the joint program is sharded and every gradient compared, as
`measure.one_run` compares outputs.
"""

import contextlib
from collections import Counter
from typing import NamedTuple

import torch

import shardwright as sw
from evals.zoo.exporting import holding_constants
from evals.zoo.measure import one_run, try_build, try_export
from shardwright.assign.agreed import Agreed
from shardwright.assign.site_rules import read_rules
from shardwright.assign.steps import StepKind
from shardwright.assign.task import make_task
from shardwright.plan.pins import Pins
from shardwright.program.nodes import BACKWARD_STACK, op_name
from shardwright.program.read import read


class Joint(NamedTuple):
    """As `exporting.Exported`; ``way``: one of `WAYS`."""

    program: torch.export.ExportedProgram
    inputs: dict
    given: dict
    way: str = ""


def gradients(kind, runs, emit):
    """Emit one record for each run; has the signature of `measure.measure`."""
    built = try_build(kind, emit)
    if built is None:
        return
    model, inputs, facts = built
    exported, facts = try_export(joint, model, inputs, facts, emit)
    if exported is None:
        return
    facts["mode"] = exported.way
    for run in runs:
        name = (run.plan, run.num_ranks)
        emit({"stage": "shard", "run": name, **facts})
        found = (
            without_rules(exported.program)
            if run.plan == "rules"
            else one_run(model, exported, run.plan, run.num_ranks, joint)
        )
        emit({**found, "run": name, **facts})


def joint(model, inputs):
    """The first joint program there is of a model called with keywords: in training mode, else in the mode for
    inference; as it is, else with what describes sizes held constant. Raises what the first one raised where none does.
    """
    first = None
    for way, (mode, held) in WAYS.items():
        model.train(mode)
        try:
            with held(model, dict(inputs)) as left:
                return _joint(model, left, inputs, way)
        except Exception as error:  # noqa: BLE001 - whatever export raises is the finding
            first = first or error
    raise first


@contextlib.contextmanager
def _as_it_is(model, inputs):
    yield inputs


WAYS = {
    "train": (True, _as_it_is),
    "eval": (False, _as_it_is),
    "train with sizes held": (True, holding_constants),
    "eval with sizes held": (False, holding_constants),
}
"""What is tried, in this order: the mode of the model, and what is held meanwhile."""


def _joint(model, taken, given, way):
    floats = [value.dtype for value in taken.values() if isinstance(value, torch.Tensor) and value.is_floating_point()]
    target = torch.zeros((), dtype=floats[0] if floats else next(model.parameters()).dtype)
    program = sw.export_training(model, (target,), dict(taken), loss=mean_square)
    return Joint(program, {"target": target, **taken}, given, way)


def mean_square(outputs, target):
    """Of all floating-point numbers in what a model returns, less a target of one number."""
    leaves = [leaf for leaf in torch.utils._pytree.tree_leaves(outputs) if isinstance(leaf, torch.Tensor)]
    floats = [leaf for leaf in leaves if leaf.is_floating_point() and leaf.requires_grad]
    return sum((leaf - target).square().mean() for leaf in floats)


def without_rules(program):
    """The operators of a program by their calls, apart for the backward pass: all, those that have no rule, and those
    whose rule cuts nothing.
    """
    task = make_task(read(program), Pins(), 2, auto=True, cost=None, agreed=Agreed())
    read_off = read_rules(task.folded.sites)
    called, lacking, uncut = ({"forward": Counter(), "backward": Counter()} for _ in range(3))
    for index, site in enumerate(task.folded.sites):
        rule, reason = read_off.rules[index], read_off.reasons.get(index)
        for step in site.steps:
            if step.kind is not StepKind.CALL:
                continue
            where, name = "backward" if BACKWARD_STACK in step.node.meta else "forward", op_name(step.node.target)
            called[where][name] += 1
            if reason is not None:
                lacking[where][f"{name}: {reason}"] += 1
            elif rule is not None and not rule.groups() and any(size != 1 for size in rule.sizes.values()):
                uncut[where][name] += 1
    found = {"called": called, "without_rule": lacking, "uncut": uncut}
    return {
        "verdict": "no rule" if lacking["backward"] else "ok",
        **{what: {where: dict(sorted(ops.items())) for where, ops in by.items()} for what, by in found.items()},
    }
