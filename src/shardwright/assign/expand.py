"""Writing composite operators out where the dim they work along would otherwise be gathered.

`gathered_composites` reads off an assignment which operators of `EXPANSIONS` stand behind a gather; `expand` gives the
program with those written out. `assign_layouts` then solves again and keeps the cheaper of the two.
"""

import operator
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
from torch import fx
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.traceback import preserve_node_meta

from shardwright.assign.steps import StepKind, Steps, Value
from shardwright.layout.cut import Cut
from shardwright.layout.layout import REPLICATE, Shard, cut_of
from shardwright.program.nodes import BACKWARD_STACK, copy_node
from shardwright.program.program import Program
from shardwright.program.torch_private import has_schema
from shardwright.rules.call import bind_call, leaves, map_values
from shardwright.rules.operators.expansions import EXPANSIONS, Expansion
from shardwright.rules.operators.place_expansions import CUT
from shardwright.rules.operators.range_expansions import RANGES, maxima
from shardwright.rules.operators.scan_expansions import EXPANDED_SCANS
from shardwright.rules.operators.unrolled import RECURRENT, ROUND
from shardwright.rules.registry import op_names
from shardwright.rules.rule import Strategy

_TABLE: dict[str, Expansion] = {**EXPANSIONS, **RECURRENT}

_PLACES = ("nn_module_stack", BACKWARD_STACK, "stack_trace", "source_fn_stack")
"""What a node knows of where it comes from."""

_MAXIMUM, _MINIMUM = torch.ops.aten.amax.default, torch.ops.aten.amin.default
_OTHER: dict[Any, Any] = {_MAXIMUM: _MINIMUM, _MINIMUM: _MAXIMUM}

_REACH = 4
"""How many steps behind a gather a composite operator is looked for: a cast or a mask may stand between."""
_REACH_OF_SCANS = 10
"""The same for scans, of which there are few: a layer that makes what is summed may stand between."""


@lru_cache(maxsize=4096)
def expansion_of(op: Any) -> Expansion | None:
    """What an operator is made of, if it is in the table."""
    return next((_TABLE[name] for name in op_names(op) if name in _TABLE), None)


def gathered_composites(steps: Steps, strategies: Sequence[Strategy | None]) -> dict[str, Cut]:
    """The nodes that could be written out and stand behind a gather that nobody asked for, in order of the program, and
    what it gathers.
    """
    near: dict[Value, tuple[int, Cut]] = {}
    found = {}
    cuts = _ways_that_cut(strategies)
    for step in steps.items:
        strategy = strategies[step.index]
        if strategy is None or step.kind not in (StepKind.CALL, StepKind.CONSTRAINT):
            continue
        if not any(value in near or id(strategies[value[0]]) in cuts for value in step.reads):
            continue
        reach: tuple[int, Cut] | None = None
        for number, (value, wanted) in enumerate(zip(step.reads, strategy.operands, strict=False)):
            maker = strategies[value[0]]
            made = maker.results[value[1]] if maker is not None else REPLICATE
            # All steps that read a gathered value count, whoever had it gathered; but what the plan has gathered at a
            # boundary of a module is whole however it is read.
            is_gathered = isinstance(made, Shard) and step.kind is StepKind.CALL and made != wanted
            one = (_REACH_OF_SCANS, cut_of(made)) if is_gathered else near.get(value)
            if one is not None and (reach is None or one[0] > reach[0]) and step.reads_values(number):
                reach = one
        if reach is None:
            continue
        left, cut = reach
        if left > 1:
            near.update({(step.index, i): (left - 1, cut) for i in range(len(step.vals))})
        if step.kind is StepKind.CALL and has_schema(step.node.target) and _is_sought(step.node, left):
            found[step.node.name] = cut
    return found


def _ways_that_cut(strategies: Sequence[Strategy | None]) -> set[int]:
    """Which strategies, of which many steps have one, give a result that is cut."""
    kinds = {id(one): one for one in strategies}
    return {
        key
        for key, one in kinds.items()
        if one is not None and any(isinstance(layout, Shard) for layout in one.results)
    }


def _is_sought(node: fx.Node, left: int) -> bool:
    """Whether an operator is in the table, and near enough behind a gather: ``left`` steps before none is sought."""
    is_known = expansion_of(node.target) is not None or _other_extreme(node) is not None
    return is_known and (left > _REACH_OF_SCANS - _REACH or any(n in EXPANDED_SCANS for n in op_names(node.target)))


def _other_extreme(node: fx.Node) -> fx.Node | None:
    """The maximum that stands beside a minimum, of the same values over the same dims, or the other way round."""
    wanted, source = _OTHER.get(node.target), node.args[0] if node.args else None
    if wanted is None or not isinstance(source, fx.Node) or not source.meta["val"].is_floating_point():
        return None
    return next((n for n in source.users if (n.target, n.args, n.kwargs) == (wanted, node.args, node.kwargs)), None)


def expand(program: Program, names: Mapping[str, Cut | None]) -> Program:
    """The program with the named nodes written out, each for the cut of what it reads; others are left as they are."""
    graph = fx.Graph(program.owner)  # type: ignore[arg-type]
    env: dict[fx.Node, Any] = {}
    copied: list[fx.Node] = []
    for node in program.graph.nodes:
        if node in env:
            # The other extreme came first, and both were written.
            continue
        other = _other_extreme(node) if node.name in names else None
        if other is not None and other.name in names:
            _write_extremes(graph, node, other, env, program.fake_mode)
        elif node.op == "output":
            output = graph.output(fx.map_arg(node.args[0], lambda n: env[n]))
            output.meta = dict(node.meta)
        elif node.name in names and expansion_of(node.target) is not None:
            env[node] = _write_out(graph, node, env, program.fake_mode, names[node.name])
        elif node.target is operator.getitem and isinstance(env[node.args[0]], list):
            env[node] = env[node.args[0]][int(node.args[1])]
        else:
            env[node] = copy_node(graph, node, env)
            copied.append(node)
    _drop_unread(graph, {env[node] for node in copied})
    return replace(program, graph=graph)


def is_worth_bytes(program: Program, names: Collection[str]) -> bool:
    """Whether some of the named nodes read nothing but extremes: written out they cost no more, and send far less."""
    return any(_reads_extremes(node) for node in program.graph.nodes if node.name in names)


def _reads_extremes(node: fx.Node) -> bool:
    return node.target in _OTHER or (has_schema(node.target) and any(name in RANGES for name in op_names(node.target)))


def has_same_calls(one: Program, other: Program) -> bool:
    """Whether two programs call the same operators in the same order: nothing was written out."""
    return [node.target for node in one.graph.nodes] == [node.target for node in other.graph.nodes]


def _drop_unread(graph: fx.Graph, copied: Collection[fx.Node]) -> None:
    """Erase, in place, what was written out for a result that nothing reads (the places of a maximum)."""
    for node in reversed(graph.nodes):
        if node.op == "call_function" and not node.users and node not in copied:
            graph.erase_node(node)


def _write_out(graph: fx.Graph, node: fx.Node, env: dict[fx.Node, Any], fake_mode: Any, cut: Cut | None) -> Any:
    _, bound = bind_call(node.target, node.args, node.kwargs)
    operands = [leaf for leaf in leaves(list(bound.values())) if isinstance(leaf, fx.Node)]
    function = expansion_of(node.target)
    assert function is not None, "only operators of the table are written out"

    def run(*values: Any) -> Any:
        given = iter(values)
        return function({**map_values(bound, lambda v: next(given) if isinstance(v, fx.Node) else v), CUT: cut})

    traced = _traced(run, operands, fake_mode)
    if not _is_the_same(traced.graph.output_node().args[0], node.meta["val"]):
        return copy_node(graph, node, env)
    result = _copy_in(graph, node, traced, [env[operand] for operand in operands])
    if isinstance(result, (list, tuple)):
        return list(result)
    # Outputs and reports name the value as the original program does.
    result.name = node.name
    return result


def _write_extremes(graph: fx.Graph, node: fx.Node, other: fx.Node, env: dict[fx.Node, Any], fake_mode: Any) -> None:
    """Write a maximum and a minimum of the same values as one, which one collective reduces."""
    _, bound = bind_call(node.target, node.args, node.kwargs)
    source = bound["self"]

    def run(x: Any) -> Any:
        dims = [dim % x.dim() for dim in bound["dim"]] or list(range(x.dim()))
        largest, negated = maxima(x, dims, keepdim=bool(bound["keepdim"]))
        return largest, -negated

    pair = _copy_in(graph, node, _traced(run, [source], fake_mode), [env[source]])
    for one in (node, other):
        env[one] = pair[0] if one.target is _MAXIMUM else pair[1]
        env[one].name = one.name


def _traced(run: Any, operands: Sequence[fx.Node], fake_mode: Any) -> fx.GraphModule:
    """The calls that a function makes on what these nodes compute."""
    with fake_mode, torch.no_grad(), preserve_node_meta():
        return make_fx(run)(*(operand.meta["val"] for operand in operands))


def _copy_in(graph: fx.Graph, node: fx.Node, traced: fx.GraphModule, operands: Sequence[Any]) -> Any:
    """Write traced calls in place of ``node``; what they give."""
    inner: dict[fx.Node, Any] = dict(
        zip((n for n in traced.graph.nodes if n.op == "placeholder"), operands, strict=True)
    )
    kept = {key: node.meta[key] for key in _PLACES if key in node.meta}
    result: Any = None
    for one in traced.graph.nodes:
        if one.op == "output":
            result = fx.map_arg(one.args[0], lambda n: inner[n])
        elif one.op != "placeholder":
            args, kwargs = fx.map_arg((one.args, one.kwargs), lambda n: inner[n])
            name = f"{node.name}__{one.name}"
            written = graph.create_node(one.op, one.target, args, kwargs, name=name)
            written.meta = {**kept, "val": one.meta["val"], "torch_fn": (name, str(one.target))}
            if ROUND in (noted := one.meta.get("custom") or {}):
                label, number = noted[ROUND]
                written.meta["custom"] = {ROUND: [f"{node.name}.{label}", number]}
            inner[one] = written
    return result


def _is_the_same(written: Any, val: Any) -> bool:
    """Whether what was written out gives the dtypes and the numbers of dims that the operator gives."""
    found = [one.meta["val"] if isinstance(one, fx.Node) else None for one in leaves(written)]
    wanted = leaves(val)
    return len(found) == len(wanted) and all(
        isinstance(one, torch.Tensor) and (one.dtype, one.dim()) == (other.dtype, other.dim())
        for one, other in zip(found, wanted, strict=True)
    )
