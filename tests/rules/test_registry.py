"""The registry: one rule a name, the most specific name first."""

import pytest

from shardwright.errors import RuleError
from shardwright.rules import FAMILIES
from shardwright.rules.registry import Registry, einsum

ROWS, COLUMNS = einsum("a b! -> a b!"), einsum("a! b -> a! b")


def test_no_two_families_name_one_operator():
    registry = Registry()
    for family in FAMILIES:
        registry.add_table(family.RULES, getattr(family, "UNSUPPORTED", None))
    assert len(registry.names()) == sum(len(family.RULES) for family in FAMILIES)


def test_a_second_rule_of_a_name_is_refused():
    registry = Registry()
    registry.add_table({"lib::op": ROWS})
    with pytest.raises(RuleError, match="'lib::op' has a rule already"):
        registry.add_table({"lib::op": COLUMNS})
    assert registry.entry_named("lib::op") is ROWS


def test_a_rule_is_replaced_on_request():
    registry = Registry()
    registry.add("lib::op", ROWS)
    registry.add("lib::op", COLUMNS, replace=True)
    assert registry.entry_named("lib::op") is COLUMNS


@pytest.mark.parametrize("table", [{"lib::op": ROWS}, {}], ids=["an entry", "a reason"])
def test_a_name_with_a_rule_or_a_reason_gets_no_second_reason(table):
    registry = Registry()
    registry.add_table(table, None if table else {"lib::op": "why"})
    with pytest.raises(RuleError, match="said to have no rule"):
        registry.add_table({}, {"lib::op": "why not"})


def test_a_name_without_a_namespace_is_refused():
    with pytest.raises(RuleError, match="not an operator name"):
        Registry().add("op", ROWS)
