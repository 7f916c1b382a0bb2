"""Every registered rule against its own operator, on simulated ranks; and the notation every rule reads as."""

import math

import pytest
import torch

from shardwright.program.collectives import COLLECTIVES
from shardwright.rules import FAMILIES
from tests.support.harness import (
    aten,
    family_name,
    faults_of,
    is_operator,
    rule_for,
    sample_cases,
    t,
    unchecked_entries,
)


@pytest.mark.parametrize(("op", "args", "kwargs"), [pytest.param(*call, id=name) for name, *call in sample_cases()])
def test_rule_gives_what_the_operator_gives(op, args, kwargs):
    # One test for all numbers of ranks: pytest takes longer for a test than a rule for its strategies.
    faults = {num_ranks: faults_of(op, args, kwargs, num_ranks=num_ranks) for num_ranks in (2, 3, 4)}
    assert faults == {2: [], 3: [], 4: []}


@pytest.mark.parametrize("family", FAMILIES, ids=family_name)
def test_every_entry_has_a_sample(family):
    assert unchecked_entries(family) == []


@pytest.mark.parametrize("family", FAMILIES, ids=family_name)
def test_every_entry_names_an_operator(family):
    own = {f"shardwright::{function.__name__}" for function in COLLECTIVES}
    assert [name for name in family.RULES if name not in own and not is_operator(name)] == []


@pytest.mark.parametrize("family", FAMILIES, ids=family_name)
def test_tables_are_alphabetical(family):
    assert list(family.RULES) == sorted(family.RULES)


GOLDEN = {
    "linear": (aten.linear.default, (t(2, 5, 8), t(12, 8), t(12)), "_0 _1 i, o i, o -> _0 _1 o"),
    "heads": (aten.view.default, (t(2, 5, 12), [2, 5, 3, 4]), "f0 f1 (f2 f3) -> f0 f1 f2 f3"),
    "merge": (aten.reshape.default, (t(2, 5, 3, 4), [10, 12]), "f0 f1 f2 f3 -> (f0 f1) (f2 f3)"),
    "no refinement": (aten.reshape.default, (t(6, 4), [4, 6]), "(f0 f2!) (f3! f1) -> (f0 f4!) (f5! f1)"),
    "attention": (
        aten.scaled_dot_product_attention.default,
        (t(2, 6, 5, 4), t(2, 2, 5, 4), t(2, 2, 5, 4), None, 0.0, False),
        "b0 (g r) s d!, b0 g t! d!, b0 g t! v! -> b0 (g r) s v!",
    ),
    "split": (aten.split_with_sizes.default, (t(3, 8), [4, 2, 2], 1), "d0 [p0+p1+p2] -> d0 p0, d0 p1, d0 p2"),
    "slice": (aten.slice.Tensor, (t(3, 8), 1, 2, 6), "d0 [before+kept+after] -> d0 kept"),
    "layer norm": (aten.layer_norm.default, (t(3, 8), [8], t(8), t(8)), "d0 d1!, d1!, d1! -> d0 d1!"),
    "softmax": (aten.softmax.int, (t(3, 8), -1), "d0 d1! -> d0 d1!"),
    "group norm": (
        aten.group_norm.default,
        (t(2, 8, 5), 4, t(8), t(8)),
        "n (g c!) s0!, (g c!), (g c!) -> n (g c!) s0!",
    ),
    "embedding": (aten.embedding.default, (t(9, 4), torch.tensor([1, 2])), "v d, _0 -> _0 d"),
    "expand": (aten.expand.default, (t(4, 1), [4, 6]), "d0 1 -> d0 d1"),
    "other bits, as wide": (aten.view.dtype, (t(4, 6), torch.int32), "d0 d1 -> d0 d1"),
    "other bits, narrower": (aten.view.dtype, (t(4, 6), torch.int16), "d0 d1! -> d0 bytes!"),
}


@pytest.mark.parametrize(("op", "args", "wanted"), GOLDEN.values(), ids=GOLDEN)
def test_notation(op, args, wanted):
    kwargs = {"enable_gqa": True} if op is aten.scaled_dot_product_attention.default else {}
    assert str(rule_for(op, args, kwargs)) == wanted


MULTIPLIED = {
    "linear": (aten.linear.default, (t(2, 5, 8), t(12, 8), t(12)), 2 * 5 * 8 * 12),
    "rows that are looked up": (aten.embedding.default, (t(9, 4), torch.tensor([1, 2])), 0),
    "rows by index": (aten.index.Tensor, (t(9, 4), [torch.tensor([1, 2, 1])]), 0),
    "each row meets one expert": (
        aten._grouped_mm.default,
        (t(6, 8).bfloat16(), t(3, 8, 16).bfloat16(), torch.tensor([2, 4, 6], dtype=torch.int32)),
        6 * 8 * 16,
    ),
    "a kernel meets every place of the result": (
        aten.conv1d.default,
        (t(2, 3, 10), t(5, 3, 4), None),
        2 * 5 * 7 * 3 * 4,
    ),
    "scores and values": (
        aten.scaled_dot_product_attention.default,
        (t(2, 3, 5, 4), t(2, 3, 7, 4), t(2, 3, 7, 6), None, 0.0, False),
        2 * 3 * 5 * 7 * (4 + 6),
    ),
}


@pytest.mark.parametrize(("op", "args", "wanted"), MULTIPLIED.values(), ids=MULTIPLIED)
def test_multiply_adds(op, args, wanted):
    rule = rule_for(op, args, {})
    assert sum(math.prod(rule.sizes[name] for name in names) for names in rule.multiplied) == wanted
