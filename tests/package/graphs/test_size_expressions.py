"""The grammar of symbolic sizes: what torch prints is read, all else is refused."""

import contextlib

import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st

from shardwright.package.graphs.size_expressions import reformat_size

S = "Symbol('s77', positive=True, integer=True)"
HONEST = [
    S,
    "Symbol('u0', integer=True)",
    "Integer(-4)",
    f"Add(Mul(Integer(2), {S}), Integer(1))",
    f"FloorDiv({S}, Integer(2))",
    f"Max(Integer(3), Add({S}, Integer(-1)))",
    f"Pow({S}, Rational(1, 2))",
    f"Pow(Integer(2), {S})",
    f"Mul(Float('0.5', precision=53), ToFloat({S}))",
    f"OpaqueUnaryFn_sqrt(ToFloat({S}))",
    f"Piecewise(ExprCondPair(Integer(1), Equality({S}, Integer(1))), ExprCondPair(Integer(0), true))",
    f"And(StrictLessThan({S}, Integer(4)), Not(Equality({S}, Integer(2))))",
    "oo",
]


@pytest.mark.parametrize("text", HONEST)
def test_honest_sizes_are_spelled_alike(text):
    assert reformat_size(text) == text
    assert reformat_size(" " + text.replace(", ", " ,  ")) == text


@pytest.mark.parametrize(
    "expression",
    [
        sympy.Symbol("s0", integer=True, positive=True) ** 2 + 3,
        sympy.Max(1, sympy.Symbol("s1", integer=True) - 5) * sympy.Rational(3, 2),
        sympy.Eq(sympy.Symbol("s0", integer=True), 4),
        sympy.Float("0.1"),
    ],
)
def test_what_sympy_prints_means_the_same(expression):
    assert sympy.sympify(reformat_size(sympy.srepr(expression))) == expression


ODD = {
    "": "ends too early",
    "Invented(Integer(1))": "it uses 'Invented'",
    "s0": "ends too early",
    "Integer(1).part": "not part of one",
    "Integer(1)[0]": "not part of one",
    "Integer(1) Integer(2)": "follows its end",
    "Add(Integer(1)": "ends too early",
    "Symbol('other')": "not the name of a size",
    "Symbol('s0', invented=True)": "is not invented",
    "Symbol('u999999999')": "not the name of a size",
    "Float('ten', precision=53)": "is not a number",
    f"Integer({'9' * 30})": "stands where|no part",
    "Pow(Integer(2), Integer(100000))": "too large",
    f"Pow(Pow({S}, Integer(60)), Integer(60))": "nested too deeply",
    "LShift(Integer(1), Integer(100000))": "too large",
    "Add(" * 80 + "Integer(1)" + ")" * 80: "nested too deeply",
    "Add(" + ", ".join(["Integer(1)"] * 2000) + ")": "characters",
}


@pytest.mark.parametrize(("text", "says"), ODD.items())
def test_what_is_no_size_is_refused(text, says):
    with pytest.raises(ValueError, match=says):
        reformat_size(text)


@given(st.text(alphabet="sIntegrAdMulSymbo0123456789xyz_.()[]'\"+-*/,=<> \\", max_size=60))
@settings(max_examples=500, deadline=None)
def test_any_text_is_a_size_or_refused(text):
    with contextlib.suppress(ValueError):
        assert reformat_size(reformat_size(text)) == reformat_size(text)
