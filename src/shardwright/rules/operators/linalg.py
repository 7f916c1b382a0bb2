"""Linear algebra on matrices: batch dims are cut, and right-hand sides by column; the matrices themselves are whole.

What mixes all rows with all columns (a factorisation, an inverse) is expensive but small; only its batch is shared out.
"""

from typing import Any

from shardwright.rules.operators.dims import dim_of, dims_of, named_dims, put
from shardwright.rules.registry import Builder, Entry, notation_rule
from shardwright.rules.rule import Call, Local, Rule, Term


def batched(*cores: int, columns: bool = False) -> Entry:
    """Only leading dims are shared: ``cores`` gives the number of own dims of each operand, then of each result.

    ``columns``: the last dim of the first operand and of the first result are the same columns, each by itself.
    """

    def build(call: Call) -> Rule | None:
        tensors = [*call.operands, *(r for r in call.results if r is not None)]
        if len(tensors) != len(cores):
            return None
        own = [[f"o{i}d{d}!" for d in range(core)] for i, core in enumerate(cores)]
        if columns:
            own[0][-1] = own[len(call.operands)][-1] = "k"
        written = [" ".join(["...", *names]) for names in own]
        count = len(call.operands)
        text = f"{', '.join(written[:count])} -> {', '.join(written[count:])}"
        return notation_rule(text, [t.shape for t in call.operands], [t.shape for t in tensors[count:]])

    return Entry(build)


def solve_rule(call: Call) -> Rule | None:
    """``linalg_solve`` and its like: ``A X = B``, where the columns of B are solved each by itself."""
    if call.arguments.get("left") is False or len(call.operands) != 2:
        return None
    matrix, right = call.operands
    is_vector = right.ndim == 1 or (right.ndim == matrix.ndim - 1 and right.shape == matrix.shape[:-1])
    b, x = ("... n!", "... m!") if is_vector else ("... n! k", "... m! k")
    results = [r.shape for r in call.results if r is not None]
    # The factors, where they come along, and last a number for every matrix.
    extra = [
        f"... {' '.join(f'e{i}x{d}!' for d in range(len(shape) - len(results[-1])))}"
        for i, shape in enumerate(results[1:])
    ]
    text = f"... a! c!, {b} -> {', '.join([x, *extra])}"
    return notation_rule(text, [matrix.shape, right.shape], results)


def cross_rule(call: Call) -> Rule:
    """``cross``: three components along a dim; the others broadcast."""
    ndim = call.result.ndim
    dim = _cross_dim(call)
    names = [f"d{i}!" if i == dim else f"d{i}" for i in range(ndim)]
    text = " ".join(names)
    shapes = [t.shape for t in call.operands]
    return notation_rule(
        f"{text}, {text} -> {text}",
        shapes,
        [call.result.shape],
        linear=(frozenset({0}), frozenset({1})),
        localize=local_cross,
    )


def local_cross(local: Local) -> Any:
    """Along the dim of the whole: left to itself, the operator takes the first local dim of size three."""
    return local.run_call(dim=_cross_dim(local.call))


def _cross_dim(call: Call) -> int:
    if call.arguments.get("dim") is not None:
        return dim_of(call, call.result.ndim)
    return next(i for i, size in enumerate(call.result.shape) if size == 3)


def vecdot_rule(call: Call) -> Rule:
    """``linalg_vecdot``: summed along a dim."""
    left, right = call.operands
    ndim = max(left.ndim, right.ndim)
    dim = dim_of(call, ndim, default=-1)
    names = [f"d{i}" for i in range(ndim)]
    sides = [" ".join(names[ndim - t.ndim :]) for t in call.operands]
    kept = " ".join(name for i, name in enumerate(names) if i != dim)
    # The first operand is conjugated, so only the second is linear over complex numbers; sums pass in both.
    return notation_rule(
        f"{sides[0]}, {sides[1]} -> {kept}",
        [left.shape, right.shape],
        [call.result.shape],
        linear=(frozenset({0}), frozenset({1})),
    )


def multi_dot_rule(call: Call) -> Rule:
    """``multi_dot``, ``chain_matmul``: a chain of matrices; each inner dim is contracted."""
    last = len(call.operands)
    names = [f"n{i} n{i + 1}" for i in range(last)]
    if call.operands[0].ndim == 1:
        names[0] = "n1"
    if call.operands[-1].ndim == 1:
        names[-1] = f"n{last - 1}"
    ends = ([] if call.operands[0].ndim == 1 else ["n0"]) + ([] if call.operands[-1].ndim == 1 else [f"n{last}"])
    return notation_rule(
        f"{', '.join(names)} -> {' '.join(ends)}",
        [t.shape for t in call.operands],
        [call.result.shape],
        linear=tuple(frozenset({i}) for i in range(last)),
    )


def tensordot_rule(call: Call) -> Rule:
    """``tensordot``: dims of both sides contracted in pairs."""
    left, right = call.operands
    pairs = list(zip(dims_of(call, left.ndim, "dims_self"), dims_of(call, right.ndim, "dims_other"), strict=True))
    if not call["dims_self"]:
        pairs = []
    a = [f"a{i}" for i in range(left.ndim)]
    b = [f"b{i}" for i in range(right.ndim)]
    for number, (i, j) in enumerate(pairs):
        mark = "!" if left.shape[i] != right.shape[j] else ""
        a[i], b[j] = f"k{number}{mark}", f"k{number}{mark}"
    kept = [n for n in [*a, *b] if n[0] != "k"]
    return notation_rule(
        f"{' '.join(a)}, {' '.join(b)} -> {' '.join(kept)}",
        [left.shape, right.shape],
        [call.result.shape],
        linear=(frozenset({0}), frozenset({1})),
    )


def inner_rule(call: Call) -> Rule:
    """``inner``: the last dims contracted; a number scales."""
    left, right = call.operands
    if not left.ndim or not right.ndim:
        text = "..., ... -> ..."
    else:
        a = " ".join([*(f"a{i}" for i in range(left.ndim - 1)), "k"])
        b = " ".join([*(f"b{i}" for i in range(right.ndim - 1)), "k"])
        text = f"{a}, {b} -> {' '.join(n for n in [*a.split(), *b.split()] if n != 'k')}"
    both = (frozenset({0}), frozenset({1}))
    return notation_rule(text, [left.shape, right.shape], [call.result.shape], linear=both)


def kron_rule(call: Call) -> Rule:
    """``kron``: each dim of the result is (left, right)."""
    left, right = call.operands
    ndim = call.result.ndim
    sides = [[f"{name}{i}" for i in range(ndim)][ndim - t.ndim :] for name, t in (("a", left), ("b", right))]
    dims = []
    for i in range(ndim):
        own = [side[i - ndim + len(side)] for side in sides if i >= ndim - len(side)]
        dims.append(f"({' '.join(own)})" if len(own) > 1 else own[0])
    return notation_rule(
        f"{' '.join(sides[0])}, {' '.join(sides[1])} -> {' '.join(dims)}",
        [left.shape, right.shape],
        [call.result.shape],
        linear=(frozenset({0}), frozenset({1})),
    )


def matrix_norm_rule(*default: int) -> Builder:
    """Norms of matrices in two dims of any place, all dims without ``default``; the others pass."""

    def build(call: Call) -> Rule:
        shape = call.operands[0].shape
        source, sizes = named_dims(shape)
        given = call.arguments.get("dim")
        along = set(dims_of(call, len(shape), "dim")) if given or not default else {d % len(shape) for d in default}
        keeps = bool(call.arguments.get("keepdim", False))
        result = tuple(t for d, t in enumerate(source) if d not in along)
        if keeps:
            result = source
            for d in along:
                result = put(result, d, Term())
        return Rule((source,), (result,), sizes, frozenset(f"d{d}" for d in along))

    return build


def vander_rule(call: Call) -> Rule:
    """``vander``: a new last dim of powers, as many as the whole has elements where the call does not say."""
    dims, sizes = named_dims(call.operands[0].shape)
    sizes["power"] = call.result.shape[-1]
    return Rule((dims,), ((*dims, Term(("power",))),), sizes, frozenset({"power"}), localize=local_vander)


def local_vander(local: Local) -> Any:
    """As many powers as the whole has."""
    count = local.arguments["N"]
    if count is None:
        count = local.call.result.shape[-1]
    return local.run_call(N=count)


def rank_rule(call: Call) -> Rule:
    """``linalg_matrix_rank``: matrices are whole; tolerances, one for all or one each, broadcast to the batch."""
    sides = ", ".join(["... r! c!", *["..."] * (len(call.operands) - 1)])
    return notation_rule(f"{sides} -> ...", [t.shape for t in call.operands], [call.result.shape])


_ONE, _PAIR = batched(2, 2), batched(2, 0, 0)
_PAIRS = "each of its variables meets every other, over all observations"
_MULTI_DOT, _VANDER = Entry(multi_dot_rule), Entry(vander_rule)
_SOLVE, _MATRIX_NORM = Entry(solve_rule), Entry(matrix_norm_rule(-2, -1))

RULES: dict[str, Entry] = {
    "aten::_linalg_det": batched(2, 0, 2, 1),
    "aten::_linalg_eigh": batched(2, 1, 2),
    "aten::_linalg_slogdet": batched(2, 0, 0, 2, 1),
    "aten::_linalg_solve_ex": _SOLVE,
    "aten::_linalg_svd": batched(2, 2, 1, 2),
    "aten::_lu_with_info": batched(2, 2, 1, 0),
    "aten::chain_matmul": _MULTI_DOT,
    "aten::cholesky": _ONE,
    "aten::cholesky_inverse": _ONE,
    "aten::cholesky_solve": batched(2, 2, 2, columns=True),
    "aten::cross": Entry(cross_rule),
    "aten::geqrf": batched(2, 2, 1),
    "aten::inner": Entry(inner_rule),
    "aten::kron": Entry(kron_rule),
    "aten::linalg_cholesky": _ONE,
    "aten::linalg_cholesky_ex": batched(2, 2, 0),
    "aten::linalg_cond": batched(2, 0),
    "aten::linalg_cross": Entry(cross_rule),
    "aten::linalg_det": batched(2, 0),
    "aten::linalg_eig": batched(2, 1, 2),
    "aten::linalg_eigh": batched(2, 1, 2),
    "aten::linalg_eigvals": batched(2, 1),
    "aten::linalg_eigvalsh": batched(2, 1),
    "aten::linalg_householder_product": batched(2, 1, 2),
    "aten::linalg_inv": _ONE,
    "aten::linalg_inv_ex": batched(2, 2, 0),
    "aten::linalg_ldl_factor": batched(2, 2, 1),
    "aten::linalg_ldl_factor_ex": batched(2, 2, 1, 0),
    "aten::linalg_ldl_solve": batched(2, 1, 2, 2),
    "aten::linalg_lu": batched(2, 2, 2, 2),
    "aten::linalg_lu_factor": batched(2, 2, 1),
    "aten::linalg_lu_factor_ex": batched(2, 2, 1, 0),
    "aten::linalg_lu_solve": batched(2, 1, 2, 2),
    "aten::linalg_matrix_exp": _ONE,
    "aten::linalg_matrix_norm": _MATRIX_NORM,
    "aten::linalg_matrix_norm.str_ord": _MATRIX_NORM,
    "aten::linalg_matrix_power": _ONE,
    "aten::linalg_matrix_rank": Entry(rank_rule),
    "aten::linalg_multi_dot": _MULTI_DOT,
    "aten::linalg_norm": Entry(matrix_norm_rule()),
    "aten::linalg_pinv": _ONE,
    "aten::linalg_qr": batched(2, 2, 2),
    "aten::linalg_slogdet": _PAIR,
    "aten::linalg_solve": _SOLVE,
    "aten::linalg_solve_ex": _SOLVE,
    "aten::linalg_solve_triangular": _SOLVE,
    "aten::linalg_svd": batched(2, 2, 1, 2),
    "aten::linalg_svdvals": batched(2, 1),
    "aten::linalg_vander": _VANDER,
    "aten::linalg_vecdot": Entry(vecdot_rule),
    "aten::logdet": batched(2, 0),
    "aten::lu_solve": batched(2, 2, 1, 2),
    "aten::lu_unpack": batched(2, 1, 2, 2, 2),
    "aten::ormqr": batched(2, 1, 2, 2),
    "aten::qr": batched(2, 2, 2),
    "aten::svd": batched(2, 2, 1, 2),
    "aten::tensordot": Entry(tensordot_rule),
    "aten::triangular_solve": batched(2, 2, 2, 2),
    "aten::vander": _VANDER,
}

UNSUPPORTED: dict[str, str] = {
    "aten::corrcoef": _PAIRS,
    "aten::cov": _PAIRS,
    "aten::linalg_tensorinv": "it folds any of its dims into the rows of one matrix",
    "aten::linalg_tensorsolve": "it folds any of its dims into the rows of one matrix",
}
