"""Sample calls for every operator of `shardwright.rules.operators.dropout`; `test_dropout` judges what they draw."""

from tests.support.harness import aten, unary

SAMPLES = {"aten::native_dropout": unary(aten.native_dropout.default, 0.5, False)}
