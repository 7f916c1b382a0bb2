"""Other names of operators: `aten::less` is `aten::lt`, `aten::special_expit` is `aten::sigmoid`.

An alias has the rule of the operator it names, under whose name it is called on every rank that runs a piece of it. The
table holds every operator of torch whose kernel only calls another one with the same tensors (torch's own lists of
aliases, in ``native_functions.yaml`` and ``normalize_ops.cpp``, leave many out).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch

from shardwright.program.torch_private import schema_of


@dataclass(frozen=True, slots=True)
class Alias:
    """The operator behind another name, as ``"namespace::name"`` (the overload of that name) or with an overload.

    ``given``: what the alias passes for arguments that it does not take. Its own arguments are those of the same name,
    or, where there is none, of the same position.
    """

    target: str
    given: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Resolved:
    """The operator behind an alias, and what its arguments are called there: alias argument → argument."""

    op: Any
    names: Mapping[str, str]
    given: Mapping[str, Any]


def _cast(dtype: torch.dtype) -> Alias:
    return Alias("aten::to.dtype", {"dtype": dtype})


ALIASES: dict[str, str | Alias] = {
    "aten::__and__": "aten::bitwise_and",
    "aten::__or__": "aten::bitwise_or",
    "aten::__xor__": "aten::bitwise_xor",
    "aten::_cast_Byte": _cast(torch.uint8),
    "aten::_cast_Char": _cast(torch.int8),
    "aten::_cast_Double": _cast(torch.float64),
    "aten::_cast_Float": _cast(torch.float32),
    "aten::_cast_Half": _cast(torch.float16),
    "aten::_cast_Int": _cast(torch.int32),
    "aten::_cast_Long": _cast(torch.int64),
    "aten::_cast_Short": _cast(torch.int16),
    "aten::absolute": "aten::abs",
    "aten::arccos": "aten::acos",
    "aten::arccosh": "aten::acosh",
    "aten::arcsin": "aten::asin",
    "aten::arcsinh": "aten::asinh",
    "aten::arctan": "aten::atan",
    "aten::arctan2": "aten::atan2",
    "aten::arctanh": "aten::atanh",
    "aten::argwhere": "aten::nonzero",
    "aten::broadcast_to": "aten::expand",
    "aten::chalf": _cast(torch.complex32),
    "aten::clip": "aten::clamp",
    "aten::concat": "aten::cat",
    "aten::concatenate": "aten::cat",
    "aten::det": "aten::linalg_det",
    "aten::divide": "aten::div",
    "aten::fix": "aten::trunc",
    "aten::frobenius_norm.dim": Alias("aten::norm.ScalarOpt_dim", {"p": 2.0}),
    "aten::ger": "aten::outer",
    "aten::greater": "aten::gt",
    "aten::greater_equal": "aten::ge",
    "aten::inverse": "aten::linalg_inv",
    "aten::less": "aten::lt",
    "aten::less_equal": "aten::le",
    "aten::linalg_diagonal": "aten::diagonal",
    "aten::linalg_matmul": "aten::matmul",
    "aten::matrix_exp": "aten::linalg_matrix_exp",
    "aten::matrix_power": "aten::linalg_matrix_power",
    "aten::max.other": "aten::maximum",
    "aten::min.other": "aten::minimum",
    "aten::moveaxis": "aten::movedim",
    "aten::multiply": "aten::mul",
    "aten::negative": "aten::neg",
    "aten::not_equal": "aten::ne",
    "aten::nuclear_norm": Alias("aten::linalg_matrix_norm.str_ord", {"ord": "nuc"}),
    "aten::orgqr": "aten::linalg_householder_product",
    "aten::pinverse": "aten::linalg_pinv",
    "aten::row_stack": "aten::vstack",
    "aten::slogdet": "aten::linalg_slogdet",
    "aten::special_digamma": "aten::digamma",
    "aten::special_erf": "aten::erf",
    "aten::special_erfc": "aten::erfc",
    "aten::special_erfinv": "aten::erfinv",
    "aten::special_exp2": "aten::exp2",
    "aten::special_expit": "aten::sigmoid",
    "aten::special_expm1": "aten::expm1",
    "aten::special_gammainc": "aten::igamma",
    "aten::special_gammaincc": "aten::igammac",
    "aten::special_gammaln": "aten::lgamma",
    "aten::special_i0": "aten::i0",
    "aten::special_log1p": "aten::log1p",
    "aten::special_log_softmax": "aten::log_softmax.int",
    "aten::special_logit": "aten::logit",
    "aten::special_logsumexp": "aten::logsumexp",
    "aten::special_multigammaln": "aten::mvlgamma",
    "aten::special_polygamma": "aten::polygamma",
    "aten::special_psi": "aten::digamma",
    "aten::special_round": "aten::round.decimals",
    "aten::special_sinc": "aten::sinc",
    "aten::special_softmax": "aten::softmax.int",
    "aten::special_xlogy": "aten::xlogy.Tensor",
    "aten::special_xlogy.other_scalar": "aten::xlogy.Scalar_Other",
    "aten::special_xlogy.self_scalar": "aten::xlogy.Scalar_Self",
    "aten::split.sizes": "aten::split_with_sizes",
    "aten::subtract": "aten::sub",
    "aten::swapaxes": "aten::transpose.int",
    "aten::swapdims": "aten::transpose.int",
    "aten::trapz": "aten::trapezoid",
    "aten::true_divide": "aten::div",
}


@lru_cache(maxsize=4096)
def resolve_alias(op: Any) -> Resolved | None:
    """The operator that another name stands for; None where the name is an operator's own."""
    schema = schema_of(op)
    if schema is None:
        return None
    overload = schema.overload_name or "default"
    alias = _alias(f"{schema.name}.{overload}")
    if alias is None:
        return None
    namespace, _, rest = alias.target.partition("::")
    packet, _, named = rest.partition(".")
    found = getattr(getattr(torch.ops, namespace), packet)
    named = named or (overload if overload in found.overloads() else "default")
    if named not in found.overloads():
        # Of Python numbers, not of tensors.
        return None
    target = getattr(found, named)
    theirs = [argument.name for argument in schema_of(target).arguments]
    names = {a.name: a.name if a.name in theirs else theirs[i] for i, a in enumerate(schema.arguments)}
    return Resolved(target, names, alias.given)


def own_op(op: Any) -> Any:
    """The operator behind another name; itself where the name is its own."""
    found = resolve_alias(op)
    return op if found is None else found.op


def own_name(name: str) -> str:
    """The name of an operator behind another one; of all overloads where all are meant."""
    alias = _alias(name)
    if alias is None:
        return name
    is_one = name not in ALIASES and "." not in alias.target
    return f"{alias.target}.{name.partition('.')[2]}" if is_one else alias.target


def _alias(name: str) -> Alias | None:
    found = ALIASES.get(name, ALIASES.get(name.partition(".")[0]))
    return Alias(found) if isinstance(found, str) else found
