"""Checking rules against their operators: sample makers, the samples of every family, and the check itself.

Every family ``shardwright.rules.operators.<family>`` has a ``tests.rules.operators.samples_<family>`` with a dict
``SAMPLES``: operator name → list of ``(op, args, kwargs)``; and, for operators that cannot be checked by running them,
``UNCHECKED``: name → reason.
A new table entry is done when its line is in ``SAMPLES``; ``test_rules`` runs every sample on 2, 3 and 4 ranks.
"""

import importlib

import torch

from shardwright.rules import FAMILIES, REGISTRY
from shardwright.rules.call import make_call
from shardwright.rules.check import check_strategies
from shardwright.rules.registry import op_names

aten = torch.ops.aten

SHAPES = ((4, 8, 12), (3, 5, 7), (1, 6, 4))
"""Even on 2 and 4 ranks, uneven, and with a size of 1."""

LENGTHS = ([6, 6], [4, 4, 4], [3, 3, 3, 3], [4, 3], [3, 3, 1], [2, 2, 2, 0])
"""On 2, 3 and 4 ranks: equal pieces, unequal ones, and none for the last rank."""

ULPS = {torch.float64: 64, torch.float32: 64, torch.bfloat16: 1}
"""How many steps of its last digit a result may be off: sums come in another order; bfloat16 is rounded to last."""


def t(*shape, seed=0):
    """A float tensor."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def positive(*shape):
    """A float tensor without small values, for divisors and variances."""
    return t(*shape).abs() + 0.5


def ints(high, *shape):
    """Integers from 0 up to ``high``."""
    return torch.randint(0, high, shape, generator=torch.Generator().manual_seed(1))


def int8(*shape):
    """Small integers of either sign, of one byte."""
    return (ints(255, *shape) - 128).to(torch.int8)


def float8(*shape):
    """A tensor of floats of one byte."""
    return t(*shape).to(torch.float8_e4m3fn)


def each(make):
    """``make(*shape)`` for every sample shape."""
    return [make(*shape) for shape in SHAPES]


def unary(op, *args, **kwargs):
    """One float tensor first, of every sample shape."""
    return [(op, (t(*shape), *args), kwargs) for shape in SHAPES]


def along(op, *args, dim=1, **kwargs):
    """One float tensor and a dim first, of every sample shape."""
    return [(op, (t(*shape), dim, *args), kwargs) for shape in SHAPES]


def binary(op, **kwargs):
    """Two float tensors: of equal shapes, broadcast, and one with no dims."""
    found = [(op, (t(*shape), t(*shape, seed=9)), kwargs) for shape in SHAPES]
    return [
        *found,
        (op, (t(4, 8, 12), t(12)), kwargs),
        (op, (t(4, 1, 12), t(8, 1)), kwargs),
        (op, (t(6, 4), t()), kwargs),
    ]


def family_name(family):
    """``views`` for ``shardwright.rules.operators.views``."""
    return family.__name__.rsplit(".", 1)[-1]


def samples_module(family):
    """The sample list of a family; None for the compiler's own collectives, which need ranks to run."""
    name = family_name(family)
    return None if name == "own_collectives" else importlib.import_module(f"tests.rules.operators.samples_{name}")


def sample_cases():
    """``(id, op, args, kwargs)`` of every sample of every family, in a fixed order."""
    for family in FAMILIES:
        module = samples_module(family)
        for name, calls in sorted(module.SAMPLES.items()) if module else ():
            for number, (op, args, kwargs) in enumerate(calls):
                yield f"{name.removeprefix('aten::')}-{number}", op, args, kwargs


REMOVED = {"aten::cholesky", "aten::qr"}
"""Operators with a rule that torch 2.14 has no longer."""


def samples_of_removed(name, make):
    """``make(operator)`` as the samples of an operator in `REMOVED`; nothing where torch does not have it."""
    packet = getattr(aten, name.removeprefix("aten::"), None)
    return {} if packet is None else {name: make(packet.default)}


def unchecked_entries(family):
    """What keeps a family's table and its samples from covering each other: one sentence a fault."""
    module = samples_module(family)
    if module is None:
        return []
    unchecked = getattr(module, "UNCHECKED", {})
    sampled = [*module.SAMPLES, *unchecked]
    asked = [name for name in family.RULES if name not in unchecked and not (name in REMOVED and lacks(name))]
    faults = [f"{name}: no sample" for name in asked if not module.SAMPLES.get(name)]
    faults += [f"{name}: a sample without an entry" for name in sampled if name not in family.RULES]
    for name, calls in module.SAMPLES.items():
        faults += [f"{name}: the sample calls {op}" for op, _, _ in calls if name not in op_names(op)]
    return faults


def rule_for(op, args, kwargs=None):
    """The registered rule of a call; None where its builder says the call cannot be cut."""
    return REGISTRY.entry(op).build(make_call(op, args, kwargs or {}, op(*args, **(kwargs or {}))))


def faults_of(op, args, kwargs=None, *, num_ranks):
    """What `check_strategies` finds wrong with the registered rule on one call; an empty list when it is right."""
    rule = rule_for(op, args, kwargs)
    if rule is None:
        return [f"{op}: the table has an entry, but it does not cover this sample"]
    return check_strategies(rule, op, args, kwargs or {}, num_ranks=num_ranks)


def is_operator(name):
    return name in REMOVED or not lacks(name)


def lacks(name):
    """Whether this torch has no such operator."""
    namespace, _, rest = name.partition("::")
    packet, _, overload = rest.partition(".")
    found = getattr(getattr(torch.ops, namespace), packet, None)
    return found is None or (bool(overload) and overload not in found.overloads())
