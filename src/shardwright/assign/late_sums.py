"""Sums over the ranks are taken behind a product with a number, or a weight that is whole on each of them.

Of ``sum(x @ W) * scale`` and ``sum((x @ W) * scale)`` a solver takes either: both send as much and compute as much. But
a compiler looks for the product beside the matmul (Inductor reads int8 weights as they lie where a matmul is scaled at
once, and writes them to memory as wide as the model otherwise), and a collective between them hides it.
"""

from dataclasses import replace

import torch

from shardwright.assign.assignment import Assignment
from shardwright.assign.steps import Step, StepKind, Value, consumers
from shardwright.layout.layout import REPLICATE, Partial
from shardwright.rules.call import num_bytes
from shardwright.rules.rule import Rule, Strategy, partial_strategies

aten = torch.ops.aten

_PRODUCTS = (aten.mul.Tensor, aten.div.Tensor)
_SUM = Partial()


def with_late_sums(found: Assignment) -> Assignment:
    """The assignment with every sum that may be one behind the product that alone reads it.

    What is summed is of the same shape and dtype, so that as much is sent; and the other factor is made of weights, so
    that no collective waits for it.
    """
    late = _LateSums(found)
    of_weights: set[int] = set()
    for step in found.steps.items:
        is_weight = step.kind is StepKind.INPUT and step.node.name in found.weights
        is_call = step.kind is StepKind.CALL
        if is_weight or (is_call and all(source in of_weights for source, _ in step.reads)):
            of_weights.add(step.index)
        elif is_call and step.node.target in _PRODUCTS:
            late.put_behind(step, of_weights)
    return replace(found, strategies=late.strategies)


class _LateSums:
    """The strategies of an assignment, changed product by product."""

    def __init__(self, found: Assignment) -> None:
        self.steps, self.rules, self.mode = found.steps.items, found.rules, found.program.fake_mode
        self.strategies = list(found.strategies)
        self.consumers = consumers(found.steps)
        self.passing: dict[tuple[int, int], Strategy | None] = {}

    def put_behind(self, product: Step, of_weights: set[int]) -> None:
        """Let the sum that a product reads pass through it, and through the views before it, where that is one."""
        summed = [number for number, (source, _) in enumerate(product.reads) if source not in of_weights]
        if len(summed) != 1:
            return
        chain = {product.index: summed[0]}
        value = product.reads[summed[0]]
        while self._is_read_here_alone(value) and not self._is_sum(value):
            view = self.steps[value[0]]
            rule = self.rules[view.index]
            if rule is None or not rule.moves or len(view.reads) != 1 or len(view.vals) != 1:
                return
            chain[view.index] = 0
            value = view.reads[0]
        if self._is_read_here_alone(value) and self._sends_as_much(value, product):
            passing = {index: self._passing(index, operand) for index, operand in chain.items()}
            if None not in passing.values():
                for index, strategy in passing.items():
                    self.strategies[index] = strategy

    def _sends_as_much(self, value: Value, product: Step) -> bool:
        """Whether a product is of as many bytes and of the dtype of a value, and read whole wherever it is read."""
        before, after = self.steps[value[0]].vals[value[1]], product.vals[0]
        is_alike = before.dtype == after.dtype and num_bytes(before, self.mode) == num_bytes(after, self.mode)
        return is_alike and all(self._wants_whole(*reader) for reader in self._readers((product.index, 0)))

    def _wants_whole(self, step: int, operand: int) -> bool:
        strategy = self.strategies[step]
        return strategy is None or strategy.operands[operand] == REPLICATE

    def _is_sum(self, value: Value) -> bool:
        maker = self.strategies[value[0]]
        return maker is not None and maker.results[value[1]] == _SUM

    def _is_read_here_alone(self, value: Value) -> bool:
        return len(self._readers(value)) == 1

    def _readers(self, value: Value) -> list[tuple[int, int]]:
        """The (step, operand number) pairs that read a value, and not only its sizes or its dtype."""
        found = self.consumers.get(value, ())
        return [(reader, operand) for reader, operand in found if self.steps[reader].reads_values(operand)]

    def _passing(self, index: int, operand: int) -> Strategy | None:
        """The strategy of a step that runs whole that lets a sum through; one for all steps of a rule."""
        chosen, rule = self.strategies[index], self.rules[index]
        if rule is None or chosen is None or any(one != REPLICATE for one in (*chosen.operands, *chosen.results)):
            return None
        key = (id(rule), operand)
        if key not in self.passing:
            self.passing[key] = _lets_through(rule, operand)
        return self.passing[key]


def _lets_through(rule: Rule, operand: int) -> Strategy | None:
    wanted = tuple(_SUM if number == operand else REPLICATE for number in range(len(rule.operands)))
    return next((one for one in partial_strategies(rule) if one.operands == wanted), None)
