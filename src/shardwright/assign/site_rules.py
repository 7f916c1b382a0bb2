"""The rule of every site: looked up by its operator, read off the graphs it calls, or missing for a reason."""

from collections.abc import Sequence
from dataclasses import dataclass

from shardwright.assign.folding import Site
from shardwright.assign.higher_order import is_subgraph_call, subgraph_rule
from shardwright.assign.rebase import call_of_step
from shardwright.assign.steps import Step, StepKind
from shardwright.errors import RuleError
from shardwright.program.nodes import op_name
from shardwright.rules import REGISTRY
from shardwright.rules.call import tensor_meta
from shardwright.rules.operators.flex import flex_rule, is_flex_attention
from shardwright.rules.rule import Call, Rule, Term


@dataclass(frozen=True, slots=True)
class SiteRules:
    """By site: its call (None where rules know no such step), its rule, and why a call has none."""

    calls: Sequence[Call | None]
    rules: Sequence[Rule | None]
    reasons: dict[int, str]


def read_rules(sites: Sequence[Site]) -> SiteRules:
    """Look up the rule of every site."""
    calls = [call_of_step(site.step) for site in sites]
    found = [_rule_of(site, call) for site, call in zip(sites, calls, strict=True)]
    reasons = {index: reason for index, (_, reason) in enumerate(found) if reason is not None}
    return SiteRules(calls, [rule for rule, _ in found], reasons)


def _rule_of(site: Site, call: Call | None) -> tuple[Rule | None, str | None]:
    """A site's rule, and why it has none where it should."""
    if site.step.kind is StepKind.CONSTRAINT:
        return _identity(site.step), None
    if call is None:
        return _subgraph_rule(site.step)
    entry = REGISTRY.entry(call.op)
    if entry is None:
        return None, REGISTRY.reason(call.op)
    try:
        rule = entry.build(call)
    except RuleError as error:
        return None, str(error)
    if rule is None:
        return None, "its rule does not cover these arguments"
    assert len(rule.operands) == len(site.reads), f"rule of {op_name(call.op)} describes other operands: {rule}"
    return rule, None


def _identity(step: Step) -> Rule:
    dims = tuple(Term((f"d{i}",)) for i in range(step.vals[0].dim()))
    sizes = {f"d{i}": size for i, size in enumerate(tensor_meta(step.vals[0]).shape)}
    return Rule((dims,), (dims,), sizes, moves=True)


def _subgraph_rule(step: Step) -> tuple[Rule | None, str | None]:
    rule = flex_rule(step.node) if is_flex_attention(step.node) else subgraph_rule(step)
    if step.kind is not StepKind.CALL or not step.vals or (rule is not None and rule.groups()):
        return rule, None
    if is_subgraph_call(step.node):
        return rule, "nothing in the graphs it calls can be cut without communication"
    return rule, "it is a higher-order operator or a Python function"
