"""Other names of operators: each is the operator it stands for, and gets its rule."""

import pytest
import torch
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.testing._internal.common_methods_invocations import op_db

import shardwright as sw
from shardwright.rules import FAMILIES, REGISTRY
from shardwright.rules.aliases import ALIASES, own_name, resolve_alias
from shardwright.rules.call import bind_arguments, bind_call, leaves, unbind_arguments
from tests.support.harness import aten, faults_of, ints, positive, t

COLUMNS, STOCHASTIC = torch.linalg.qr(t(3, 5, 4))[0], positive(3, 4, 4) + 4 * torch.eye(4)

ARGUMENTS = {
    "aten::__and__.Scalar": (ints(9, 4, 6), 3),
    "aten::__and__.Tensor": (ints(9, 4, 6), ints(5, 6)),
    "aten::__or__.Scalar": (ints(9, 4, 6), 3),
    "aten::__or__.Tensor": (ints(9, 4, 6), ints(5, 6)),
    "aten::__xor__.Scalar": (ints(9, 4, 6), 3),
    "aten::__xor__.Tensor": (ints(9, 4, 6), ints(5, 6)),
    "aten::arccosh.default": (positive(4, 6) + 1,),
    "aten::broadcast_to.default": (t(4, 1), [3, 4, 6]),
    "aten::clip.Tensor": (t(4, 6), -positive(6), positive(4, 1)),
    "aten::clip.default": (t(4, 6), -0.5, 0.5),
    "aten::concat.default": ([t(4, 6), t(4, 3)], 1),
    "aten::concatenate.default": ([t(4, 6), t(2, 6)], 0),
    "aten::det.default": (STOCHASTIC,),
    "aten::divide.Scalar_mode": (t(4, 6), 0.3),
    "aten::divide.Tensor_mode": (t(4, 6), positive(6)),
    "aten::frobenius_norm.dim": (t(4, 6, 3), [1, 2]),
    "aten::ger.default": (t(4), t(6)),
    "aten::inverse.default": (STOCHASTIC,),
    "aten::linalg_diagonal.default": (t(4, 6, 3, 5),),
    "aten::linalg_matmul.default": (t(3, 4, 6), t(6, 5)),
    "aten::matrix_exp.default": (STOCHASTIC,),
    "aten::matrix_power.default": (STOCHASTIC, 3),
    "aten::moveaxis.int": (t(4, 6, 3), 0, -1),
    "aten::moveaxis.intlist": (t(4, 6, 3), [0, 1], [2, 0]),
    "aten::nuclear_norm.dim": (t(4, 6, 3), [2, 0]),
    "aten::orgqr.default": (COLUMNS, positive(3, 4)),
    "aten::pinverse.default": (t(3, 6, 4),),
    "aten::row_stack.default": ([t(4, 6), t(2, 6)],),
    "aten::slogdet.default": (STOCHASTIC,),
    "aten::special_log_softmax.default": (t(4, 6), -1),
    "aten::special_logit.default": (positive(4, 6) / 9, 0.1),
    "aten::special_logsumexp.default": (t(4, 6), [1]),
    "aten::special_multigammaln.default": (positive(4, 6) + 2, 2),
    "aten::special_polygamma.default": (2, positive(4, 6)),
    "aten::special_softmax.default": (t(4, 6), 0),
    "aten::special_xlogy.other_scalar": (positive(4, 6), 2.0),
    "aten::special_xlogy.self_scalar": (2.0, positive(4, 6)),
    "aten::split.sizes": (t(4, 6), [1, 2, 1]),
    "aten::swapaxes.default": (t(4, 6, 3), 0, -1),
    "aten::swapdims.default": (t(4, 6, 3), 2, 1),
    "aten::trapz.dx": (t(4, 6),),
    "aten::trapz.x": (t(4, 6), positive(6).cumsum(0)),
}
"""Where tensors of one shape, or a tensor and a number, are not arguments."""

KEYWORDS = {
    "aten::divide.Scalar_mode": {"rounding_mode": "floor"},
    "aten::divide.Tensor_mode": {"rounding_mode": "trunc"},
    "aten::linalg_diagonal.default": {"offset": 1, "dim1": 0, "dim2": 2},
    "aten::special_log_softmax.default": {"dtype": torch.float64},
    "aten::special_round.default": {"decimals": 1},
    "aten::subtract.Tensor": {"alpha": 2},
    "aten::trapz.dx": {"dx": 0.5},
}


def alias_ops():
    """Every overload of every alias of the table that takes tensors and changes none."""
    for name in ALIASES:
        packet, _, overload = name.removeprefix("aten::").partition(".")
        found = getattr(aten, packet)
        for one in [overload] if overload else found.overloads():
            op = getattr(found, one)
            named = "Dimname" in str(op._schema) or "str" in {str(a.type) for a in op._schema.arguments[1:2]}
            if not op._schema.is_mutable and not named and "Tensor" in str(op._schema):
                yield op


def arguments(op):
    name = f"{op._schema.name}.{op._overloadname}"
    plain = [positive(4, 6) / 2 if "Tensor" in str(a.type) else 1 for a in op._schema.arguments]
    required = [not a.has_default_value() and not a.kwarg_only for a in op._schema.arguments]
    given = tuple(value for value, needed in zip(plain, required, strict=True) if needed)
    return ARGUMENTS.get(name, given), KEYWORDS.get(name, {})


OPS = list(dict.fromkeys(alias_ops()))


def test_the_table_is_alphabetical_and_names_no_operator_that_has_a_rule():
    assert list(ALIASES) == sorted(ALIASES)
    assert [name for family in FAMILIES for name in family.RULES if own_name(name) != name] == []


def same(a, b):
    # No kernel compares complex32.
    wide = [x.to(torch.complex64) if x.is_complex() else x for x in (a, b)]
    return a.dtype == b.dtype and torch.allclose(*wide, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("op", OPS, ids=str)
def test_an_alias_is_the_operator_it_stands_for(op):
    args, kwargs = arguments(op)
    target, bound = bind_call(op, args, kwargs)
    assert target is resolve_alias(op).op is not op
    theirs, keywords = unbind_arguments(target, bound)
    whole, other = (leaves(result) for result in (op(*args, **kwargs), target(*theirs, **keywords)))
    assert all(same(a, b) for a, b in zip(whole, other, strict=True))
    # Tensors are numbered in the order of either schema.
    given = (bound, bind_arguments(op, args, kwargs))
    tensors = [[x for x in leaves(list(names.values())) if isinstance(x, torch.Tensor)] for names in given]
    assert all(a is b for a, b in zip(*tensors, strict=True))


@pytest.mark.parametrize("num_ranks", [2, 3])
@pytest.mark.parametrize("op", [op for op in OPS if op is not aten.argwhere.default], ids=str)
def test_an_alias_has_a_rule(op, num_ranks):
    args, kwargs = arguments(op)
    if op is aten.chalf.default:
        assert REGISTRY.entry(op) is not None
    else:
        assert faults_of(op, args, kwargs, num_ranks=num_ranks) == []


def called(function, sample):
    """The operators that a call is exported as."""
    graph = make_fx(lambda x: function(x, *sample.args, **sample.kwargs), pre_dispatch=True)(sample.input).graph
    return [node.target for node in graph.nodes if hasattr(node.target, "_schema")]


NAMED = {alias.name: (entry, alias) for entry in op_db for alias in entry.aliases if alias.op is not None}
FLOATS = {name: pair for name, pair in NAMED.items() if torch.float32 in pair[0].supported_dtypes("cpu") and pair[0].op}


@pytest.mark.parametrize(("entry", "alias"), [pytest.param(*pair, id=name) for name, pair in FLOATS.items()])
def test_every_alias_of_the_operator_database_is_cut_as_its_operator(entry, alias):
    sample, *_ = entry.sample_inputs("cpu", torch.float32, requires_grad=False)
    own, other = called(entry.op, sample), called(alias.op, sample)
    without = [str(op) for op in other if REGISTRY.entry(op) is None]
    assert without == [str(op) for op in own if REGISTRY.entry(op) is None] == []


def test_a_reason_is_found_under_every_name():
    assert REGISTRY.reason(aten.argwhere.default) == REGISTRY.reason(aten.nonzero.default)


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("aten::less", "aten::lt"),
        ("aten::less.Tensor", "aten::lt.Tensor"),
        ("aten::max.other", "aten::maximum"),
        ("aten::special_softmax", "aten::softmax.int"),
        ("aten::max", "aten::max"),
        ("aten::lt.Tensor", "aten::lt.Tensor"),
    ],
)
def test_names(alias, name):
    assert own_name(alias) == name


ACTIVATIONS = {
    "absolute": torch.absolute,
    "arctan": torch.arctan,
    "arctan2": lambda x: torch.arctan2(x, x + 1),
    "fix": torch.fix,
    "greater": lambda x: torch.greater(x, 0.5) * x,
    "less": lambda x: torch.less(x, 0.5) * x,
    "not_equal": lambda x: torch.not_equal(x, 0) * x,
    "special.erf": torch.special.erf,
    "special.expit": torch.special.expit,
    "special.softmax": lambda x: torch.special.softmax(x, -2),
    "special.xlogy": lambda x: torch.special.xlogy(2.0, x * x + 1),
    "swapaxes": lambda x: torch.swapaxes(torch.swapaxes(x, 0, 1).relu(), 0, 1),
}


class MLP(nn.Module):
    def __init__(self, act):
        super().__init__()
        self.up, self.act, self.down = nn.Linear(16, 64), act, nn.Linear(64, 16)

    def forward(self, x):
        return self.down(self.act(self.up(x)))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_mlp_is_cut_through_an_alias(name):
    x = t(3, 8, 16)
    exported = torch.export.export(MLP(ACTIVATIONS[name]), (x,))
    sharded = sw.shard(exported, mesh=4, plan={"up": "colwise", "down": "rowwise"})
    assert not sharded.fallbacks
    assert [c.kind for c in sharded.collectives] == ["all_reduce"]
    assert sw.verify(sharded, exported, (x,)).ok
