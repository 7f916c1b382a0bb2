"""Plans that cut quantised values where the operator that reads them does not let them come apart."""

from collections.abc import Iterator

from shardwright.assign.assignment import Assignment
from shardwright.assign.gathered import gathered_weights
from shardwright.assign.steps import StepKind
from shardwright.compiler.axes import Compiled, CompiledAxis
from shardwright.errors import Finding, PlanError, raise_findings
from shardwright.layout.layout import Shard
from shardwright.layout.sizes import product
from shardwright.program.quantized_weights import quantized_weights
from shardwright.rules.rule import Call, Rule

_GROUP_ARGUMENTS = ("qGroupSize", "group_size", "block_size")


def refuse_split_groups(compiled: Compiled) -> None:
    """Raise `PlanError` for every quantised weight that a plan cuts and that is gathered at every call for it.

    A float weight that is gathered costs a warning. A quantised one is gathered because its values lie in blocks or
    groups that the operator cannot do without, so that another cut is meant.
    """
    findings = [
        finding for one in compiled.axes if not one.is_auto for finding in _findings(one, compiled.mesh.size(one.axis))
    ]
    raise_findings(PlanError, findings, summary="the plan does not fit the program")


def _findings(one: CompiledAxis, num_ranks: int) -> Iterator[Finding]:
    assignment = one.assignment
    program, keys = assignment.program, one.request.plan_keys
    state = {item.name: str(item.target) for item in program.inputs if item.is_state}
    values_of = quantized_weights(program.graph, state)
    if not values_of:
        return
    nodes = {target: name for name, target in state.items()}
    told = set()
    for gathered in gathered_weights(assignment, one.axis, keys):
        for name in gathered.weights:
            layout = assignment.layouts.get(nodes[name])
            if name in values_of and nodes[name] in keys and name not in told and isinstance(layout, Shard):
                told.add(name)
                tensor = program.weights[name]
                parts = _how_it_comes_apart(assignment, nodes[name])
                yield Finding(
                    f"plan entry {keys[nodes[name]]!r} cuts {values_of[name]!r} in {num_ranks} along dim {layout.dim}, "
                    f"but {gathered.reader} takes its quantised values ({name!r}, {tensor.tensor.dtype} of shape "
                    f"{tuple(tensor.shape)}) as they are packed: {parts}",
                    where=gathered.module,
                    remedies=(
                        "a style that cuts the other dim",
                        f"{values_of[name]!r}: 'replicate'",
                        "plan='auto', which finds a cut where there is one",
                    ),
                )


def _how_it_comes_apart(assignment: Assignment, placeholder: str) -> str:
    """What the operator that reads quantised values says of their dims, in words."""
    steps = assignment.steps.items
    for step in steps:
        for number, (maker, _) in enumerate(step.reads):
            rule, call = assignment.rules[step.index], assignment.calls[step.index]
            is_read = steps[maker].kind is StepKind.INPUT and steps[maker].node.name == placeholder
            if is_read and rule is not None and call is not None:
                return _dims_of(rule, number) + _group_of(call)
    return "they do not come apart"


def _dims_of(rule: Rule, number: int) -> str:
    found = []
    for dim, term in enumerate(rule.operands[number]):
        parts = product(rule.sizes[name] for name in term.factors if name not in rule.fixed)
        within = product(rule.sizes[name] for name in term.factors if name in rule.fixed)
        if parts != 1:
            found.append(f"dim {dim} comes apart in at most {parts}, at multiples of {within}")
        else:
            found.append(f"dim {dim} does not come apart")
    return ", ".join(found)


def _group_of(call: Call) -> str:
    group = next((call[name] for name in _GROUP_ARGUMENTS if name in call.arguments), None)
    return f"; its scales are for groups of {group}" if group is not None else ""
