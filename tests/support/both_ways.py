"""A program compiled with one layer for many that are alike, and layer by layer: they must be the same in all but names
that nobody gave.
"""

from unittest import mock

import torch
from torch import fx

import shardwright as sw
from shardwright import api

_OF_NAMES = ("torch_fn", "from_node", "collective")


def both_ways(exported, **options):
    """The sharded program as `shard` gives it, and as it is where no layer stands for others."""
    found = sw.shard(exported, **options)
    with mock.patch.object(api, "_compiled_shallow", return_value=None):
        return found, sw.shard(exported, **options)


def is_deepened(sharded):
    """Whether a program was compiled with one layer for others."""
    return type(sharded.compiled).__name__ == "_Deepened"


def assert_same(found, wanted):
    """Both sharded programs are the same: weights, collectives, assignments, and the code of some ranks."""
    names = {node.name for node in found.program.graph.nodes}
    assert list(found.mesh) == list(wanted.mesh)
    assert found.weights == wanted.weights
    assert [_record(one, names) for one in found.collectives] == [_record(one, names) for one in wanted.collectives]
    assert (found.fallbacks, found.gathered_weights) == (wanted.fallbacks, wanted.gathered_weights)
    assert str(found.prediction) == str(wanted.prediction)
    for axis, one in found.assignments.items():
        _assert_same_assignment(one, wanted.assignments[axis])
    last = found.mesh.num_ranks - 1
    for rank in sorted({0, last // 2, last}):
        place = tuple(found.mesh.coordinate(rank).values())
        mine, theirs = (one.compiled.finished(place) for one in (found, wanted))
        assert mine.inputs == theirs.inputs
        assert _held(mine, names) == _held(theirs, names)
        assert _origins(mine, names) == _origins(theirs, names)
        assert _code(mine) == _code(theirs)
        assert _code(found.rank_program(rank)) == _code(wanted.rank_program(rank))


def _assert_same_assignment(one, other):
    assert list(map(repr, one.strategies)) == list(map(repr, other.strategies))
    assert one.layouts == other.layouts
    assert (one.scarce, one.weights) == (other.scarce, other.weights)
    assert list(one.work_us) == list(other.work_us)
    assert dict(one.fraction_ranges) == dict(other.fraction_ranges)
    assert abs(one.cost_us - other.cost_us) <= 1e-9 * other.cost_us
    assert abs(one.whole_work_us - other.whole_work_us) <= 1e-9 * other.whole_work_us


def _record(one, names):
    node = one.node if one.node in names else ""
    return (*one.place, one.num_bytes, one.shape, node, one.cause, one.plan_key, one.message)


def _held(program, names):
    return [(name, weight.shape, weight.cuts) for name, weight in program.weights.items()]


def _origins(program, names):
    found = [program.origins.get(node.name) for node in program.graph.nodes]
    return [one for one in found if one is not None and one[0] in names]


def _code(program):
    """Every node: what it calls, of which others by number, what it gives, and what is said of it."""
    numbers = {node: number for number, node in enumerate(program.graph.nodes)}
    return [
        (
            node.op,
            node.name if node.op == "placeholder" else str(node.target),
            str(fx.map_arg((node.args, node.kwargs), lambda one: f"%{numbers[one]}")),
            _value(node.meta.get("val")),
            {key: str(value) for key, value in node.meta.items() if key not in (*_OF_NAMES, "val", "tensor_meta")},
        )
        for node in program.graph.nodes
    ]


def _value(value):
    if isinstance(value, torch.Tensor):
        return tuple(map(str, (tuple(value.shape), value.stride(), value.dtype, value.device)))
    if isinstance(value, (list, tuple)):
        return [_value(one) for one in value]
    return str(value)
