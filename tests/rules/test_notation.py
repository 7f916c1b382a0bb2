"""The notation: what it reads, what it refuses, and that equal patterns give equal rules."""

import pytest

from shardwright.errors import RuleError
from shardwright.rules.notation import bind_shapes, parse
from shardwright.rules.rule import Term


def test_products_sums_marks_and_ellipsis():
    pattern = parse("... (h d) [q+k] s!, 1 -> ... h")
    assert pattern.operands[0][1] == Term(("h", "d"))
    assert pattern.operands[0][2] == Term(("q", "k"), is_sum=True)
    assert pattern.fixed == {"s"}
    assert pattern.operands[1] == (Term(),)


def test_sizes_follow_from_shapes():
    bound = bind_shapes(parse("b (h d), h -> b h d"), [(2, 12), (3,)], [(2, 3, 4)])
    assert dict(bound.sizes) == {"b": 2, "h": 3, "d": 4}


def test_broadcast_dims_carry_no_factor():
    bound = bind_shapes(parse("..., ... -> ..."), [(4, 1, 6), (5, 1)], [(4, 5, 6)])
    assert bound.operands[0][1] == Term()
    assert bound.operands[1] == (Term(("_1",)), Term())


def test_absent_operands_drop_out():
    assert len(bind_shapes(parse("i, o i, o -> o"), [(3,), (2, 3), None], [(2,)]).operands) == 2


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a b", "exactly one '->'"),
        ("a -> b -> c", "exactly one '->'"),
        ("a ( b -> a", "cannot read"),
        ("... a ... -> a", "twice"),
    ],
)
def test_malformed_notation(text, says):
    with pytest.raises(RuleError, match=says):
        parse(text)


@pytest.mark.parametrize(
    ("operands", "results", "says"),
    [
        ([(2, 13), (3,)], [(2, 3, 4)], "should have size 12"),
        ([(2, 12)], [(2, 3)], "does not describe"),
        ([(2, 12), (3,), (1,)], [(2, 3, 4)], "describes 2 operands"),
    ],
)
def test_shapes_that_do_not_fit(operands, results, says):
    with pytest.raises(RuleError, match=says):
        bind_shapes(parse("b (h d), h -> b h d"), operands, results)


def test_equivalent_patterns_agree():
    shapes = [(2, 5, 12), (12, 8)], [(2, 5, 8)]
    spelled, short = (
        bind_shapes(parse("a b k, k n -> a b n"), *shapes),
        bind_shapes(parse("... k, k n -> ... n"), *shapes),
    )
    assert [len(d) for d in spelled.operands] == [len(d) for d in short.operands]
    assert sorted(spelled.sizes.values()) == sorted(short.sizes.values())
