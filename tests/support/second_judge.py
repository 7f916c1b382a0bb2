"""A second judge: the independent `spmd_types` package infers the layouts of a rank's program, call by call.

What enters is typed as our assignment says; from there on every call is run under its checker (its own rules for
partial values, DTensor's propagation for shards), and the type that it infers for a result is compared with ours. Calls
that only this compiler writes (slices of its own, masked lookups) and operators that it has no rule for are typed as
ours and counted as unknown.
"""

import logging
import warnings
from collections import Counter
from dataclasses import dataclass, field

import spmd_types as spmd
import spmd_types.checker
import torch
import torch.distributed as dist
from spmd_types._checker import _OP_REGISTRY  # the one table of what it knows; there is no public one
from spmd_types.types import DTensorPropagationError, SpmdTypeError

from shardwright.layout.layout import Partial, Replicate, Shard
from shardwright.partition.partition import partition
from shardwright.program.collectives import COLLECTIVES, all_gather, all_reduce, all_to_all, reduce_scatter
from shardwright.program.nodes import op_name
from shardwright.rules.call import leaves

RANK = 1
"""Not the first, on which a whole value that is handed on as a summand is one node in two layouts."""


@dataclass
class Verdict:
    """Calls by operator: those whose results got our layouts, those it does not know, and disagreements in words."""

    agreed: Counter = field(default_factory=Counter)
    unknown: Counter = field(default_factory=Counter)
    disagreed: list = field(default_factory=list)


def rank_program(sharded, axis="tp"):
    """Rank 1's program on a mesh of one axis, its collectives not lowered yet."""
    assignment = sharded.assignments[axis]
    return partition(assignment.program, assignment, axis, RANK)


def judge(program, layouts, num_ranks, axis="tp"):
    """What the checker says of rank 1's program. ``layouts``: of its inputs, which are random, as only types matter."""
    verdict = Verdict()
    dist.init_process_group("fake", rank=RANK, world_size=num_ranks)
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    level = logger.level
    # It prints a traceback for every size argument that the checker does not scale to the whole tensor.
    logger.setLevel(logging.CRITICAL + 1)
    try:
        mesh = dist.device_mesh.init_device_mesh("cpu", (num_ranks,), mesh_dim_names=(axis,))
        group = mesh.get_group(axis)
        with (
            warnings.catch_warnings(),
            torch.no_grad(),
            spmd.set_current_mesh(mesh),
            spmd.checker.typecheck(local=False),
        ):
            warnings.simplefilter("ignore", FutureWarning)
            _Judge(program, layouts, group, verdict).run()
    finally:
        dist.destroy_process_group()
        logger.setLevel(level)
    return verdict


class _Judge:
    def __init__(self, program, layouts, group, verdict):
        self.program, self.layouts, self.group, self.verdict = program, layouts, group, verdict
        self.env = {}

    def run(self):
        for node in self.program.graph.nodes:
            if node.op == "placeholder":
                self.env[node] = self._input(node)
            elif node.op == "call_function":
                self.env[node] = self._call(node)

    def _input(self, node):
        val = node.meta["val"]
        if not isinstance(val, torch.Tensor):
            return val
        with spmd.no_typecheck():
            value = _random(val)
        layout = self.layouts.get(node.name)
        return value if layout is None else self._typed(value, layout)

    def _call(self, node):
        args, kwargs = torch.fx.map_arg((node.args, node.kwargs), lambda n: self.env[n])
        origin = self.program.origins.get(node.name)
        ours = origin[1][-1] if origin else None
        name = op_name(node.target)
        if node.target in COLLECTIVES and ours is not None:
            return self._compare(node, name, lambda: self._collective(node.target, args), ours)
        tensors = [t for t in leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        knows = origin is not None and origin[0] == node.name and all(map(spmd.has_local_type, tensors)) and tensors
        if knows:
            function, given = _as_function(node.target, args)
            partial = any(spmd.get_axis_local_type(t, self.group) is spmd.P for t in tensors)
            # To the checker, whatever is not in its table is not linear.
            if function in _OP_REGISTRY or function is _linear or not partial:
                return self._compare(node, name, lambda: function(*given, **kwargs), ours)
        return self._assumed(node, args, kwargs, ours, name)

    def _compare(self, node, name, run, ours):
        try:
            value = run()
        except (DTensorPropagationError, NotImplementedError, AssertionError):
            # The last is how the checker says that its two halves, partial values and shards, are at odds.
            return self._unknown(node, ours, name)
        except SpmdTypeError as error:
            if isinstance(error.__cause__, RuntimeError) and "No valid sharding strategy" in str(error):
                return self._unknown(node, ours, name)
            self.verdict.disagreed.append(f"{node.name}: {str(error).splitlines()[0]}; ours is {ours}")
            return self._unknown(node, ours, name)
        if not isinstance(value, torch.Tensor):
            return self._unknown(node, ours, name)
        theirs = self._layout(value)
        if _same(theirs, ours):
            self.verdict.agreed[name] += 1
        else:
            self.verdict.disagreed.append(f"{node.name} ({name}): theirs is {theirs}, ours is {ours}")
        return value

    def _unknown(self, node, ours, name):
        args, kwargs = torch.fx.map_arg((node.args, node.kwargs), lambda n: self.env[n])
        return self._assumed(node, args, kwargs, ours, name)

    def _assumed(self, node, args, kwargs, ours, name):
        """The value of a call that the checker does not see, typed as ours where we say what it is."""
        with spmd.no_typecheck():
            if node.target in COLLECTIVES:
                value = _random(node.meta["val"])
            else:
                value = _bare(node.target(*_bare(args), **_bare(kwargs)))
        if isinstance(value, torch.Tensor) and ours is not None:
            self.verdict.unknown[name] += 1
            return self._typed(value, ours)
        return value

    def _typed(self, value, layout):
        kind = spmd.S(layout.dim) if isinstance(layout, Shard) else spmd.R if isinstance(layout, Replicate) else spmd.P
        return spmd.assert_type(value, {self.group: kind})

    def _layout(self, value):
        kind = spmd.get_axis_local_type(value, self.group)
        if kind is spmd.R:
            return "Replicate"
        if kind is spmd.P:
            return "Partial"
        spec = spmd.get_partition_spec(value)
        return f"Shard({next((dim for dim, entry in enumerate(spec or ()) if entry), None)})"

    def _collective(self, op, args):
        x = args[0]
        if op is all_reduce:
            if args[1] != "sum":
                raise NotImplementedError
            return spmd.all_reduce(x, self.group, src=spmd.P, dst=spmd.R)
        if op is all_gather:
            return spmd.all_gather(x, self.group, src=spmd.S(args[1]), dst=spmd.R)
        if op is reduce_scatter:
            return spmd.reduce_scatter(x, self.group, src=spmd.P, dst=spmd.S(args[2]))
        assert op is all_to_all
        return spmd.all_to_all(x, self.group, src=spmd.S(args[1]), dst=spmd.S(args[3]))


def _linear(x, weight, bias):
    """Product and bias one after the other: the checker has no rule for adding a partial bias within one call."""
    return torch.add(torch.nn.functional.linear(x, weight), bias)


def _same(theirs, ours):
    spelled = (
        f"Shard({ours.dim})" if isinstance(ours, Shard) else "Partial" if isinstance(ours, Partial) else "Replicate"
    )
    return theirs == spelled


def _random(val):
    shape = tuple(int(size) for size in val.shape)
    if val.dtype.is_floating_point:
        return torch.rand(shape, dtype=val.dtype)
    return torch.zeros(shape, dtype=val.dtype)


def _bare(value):
    """Untyped copies, so that the checker's types do not travel where it does not look."""
    return torch.utils._pytree.tree_map(lambda v: v.clone() if isinstance(v, torch.Tensor) else v, value)


def _as_function(op, args):
    """The Python function the checker's table knows an operator by, and its arguments; else the operator itself."""
    name = op._schema.name.split("::")[1] if hasattr(op, "_schema") else op.__name__
    if name == "linear" and len(args) == 3 and args[2] is not None:
        return _linear, args
    if name == "addmm" and len(args) == 3:
        return _linear, (args[1], args[2].t(), args[0])
    if name in ("view", "reshape", "expand"):
        return getattr(torch.Tensor, name), (args[0], tuple(args[1]))
    homes = (torch.nn.functional, torch, torch.Tensor)
    known = (getattr(home, name) for home in homes if getattr(home, name, None) in _OP_REGISTRY)
    return next(known, op), args
