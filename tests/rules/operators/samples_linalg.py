"""Sample calls for every operator of `shardwright.rules.operators.linalg`."""

import torch

from tests.support.harness import aten, samples_of_removed, t

BATCHES = ((4,), (3, 2), ())


def spd(*shape):
    """Symmetric, positive definite."""
    a = t(*shape)
    return a @ a.mT + shape[-1] * torch.eye(shape[-1])


def each(op, *tail, make=spd, n=4, **kwargs):
    """One square matrix, in every batch shape."""
    return [(op, (make(*batch, n, n), *tail), kwargs) for batch in BATCHES]


def tall(op, *tail, **kwargs):
    return [(op, (t(*batch, 5, 3), *tail), kwargs) for batch in BATCHES]


def with_lu(op, order):
    """A factorisation and a right-hand side of six columns, in the operator's order of arguments."""
    found = []
    for batch in ((4,), (3, 2)):
        lu, pivots = torch.linalg.lu_factor(spd(*batch, 4, 4))
        given = {"lu": lu, "pivots": pivots, "b": t(*batch, 4, 6)}
        found.append((op, tuple(given[name] for name in order), {}))
    return found


def systems(op, **kwargs):
    """Right-hand sides of several columns, and of one without a dim for it."""
    return [
        (op, (spd(4, 3, 3), t(4, 3, 6)), kwargs),
        (op, (spd(3, 3), t(3, 6)), kwargs),
        (op, (spd(5, 3, 3), t(5, 3, 5)), kwargs),
    ]


def triangular(*shape):
    return spd(*shape).triu()


def ldl(batch):
    factor, pivots, _ = torch.linalg.ldl_factor_ex(spd(*batch, 4, 4))
    return factor, pivots


VECTORS = [(t(4, 3, 6), t(4, 3, 6, seed=9), 1), (t(5, 3), t(5, 3, seed=9), -1), (t(4, 3), t(1, 3), 1)]

SAMPLES = {
    "aten::_linalg_det": each(aten._linalg_det.default),
    "aten::_linalg_eigh": each(aten._linalg_eigh.default),
    "aten::_linalg_slogdet": each(aten._linalg_slogdet.default),
    "aten::_linalg_solve_ex": systems(aten._linalg_solve_ex.default),
    "aten::_linalg_svd": tall(aten._linalg_svd.default),
    "aten::_lu_with_info": each(aten._lu_with_info.default),
    "aten::chain_matmul": [(aten.chain_matmul.default, ([t(4, 6), t(6, 3), t(3, 5)],), {})],
    **samples_of_removed("aten::cholesky", each),
    "aten::cholesky_inverse": each(aten.cholesky_inverse.default, make=triangular),
    "aten::cholesky_solve": [
        (aten.cholesky_solve.default, (t(4, 3, 6), triangular(4, 3, 3)), {}),
        (aten.cholesky_solve.default, (t(3, 5), triangular(3, 3)), {}),
    ],
    "aten::cross": [
        *((aten.cross.default, args, {}) for args in VECTORS[:2]),
        # A cut dim may come to be of size three on a rank.
        (aten.cross.default, (t(6, 3, 12), t(6, 3, 12, seed=9)), {}),
    ],
    "aten::geqrf": tall(aten.geqrf.default),
    "aten::inner": [
        (aten.inner.default, (t(4, 6), t(8, 6)), {}),
        (aten.inner.default, (t(5, 3, 7), t(7)), {}),
        (aten.inner.default, (t(4), t()), {}),
    ],
    "aten::kron": [
        (aten.kron.default, (t(4, 3), t(2, 6)), {}),
        (aten.kron.default, (t(6), t(3, 4)), {}),
        (aten.kron.default, (t(2, 3, 4), t(5)), {}),
    ],
    "aten::linalg_cholesky": each(aten.linalg_cholesky.default),
    "aten::linalg_cholesky_ex": each(aten.linalg_cholesky_ex.default),
    "aten::linalg_cond": each(aten.linalg_cond.default),
    "aten::linalg_cross": [(aten.linalg_cross.default, args[:2], {"dim": args[2]}) for args in VECTORS],
    "aten::linalg_det": each(aten.linalg_det.default),
    "aten::linalg_eig": each(aten.linalg_eig.default),
    "aten::linalg_eigh": each(aten.linalg_eigh.default),
    "aten::linalg_eigvals": each(aten.linalg_eigvals.default),
    "aten::linalg_eigvalsh": each(aten.linalg_eigvalsh.default),
    "aten::linalg_householder_product": [
        (aten.linalg_householder_product.default, (t(*batch, 5, 3), t(*batch, 3)), {}) for batch in BATCHES
    ],
    "aten::linalg_inv": each(aten.linalg_inv.default),
    "aten::linalg_inv_ex": each(aten.linalg_inv_ex.default),
    "aten::linalg_ldl_factor": each(aten.linalg_ldl_factor.default),
    "aten::linalg_ldl_factor_ex": each(aten.linalg_ldl_factor_ex.default),
    "aten::linalg_ldl_solve": [(aten.linalg_ldl_solve.default, (*ldl(b), t(*b, 4, 6)), {}) for b in ((4,), (3, 2))],
    "aten::linalg_lu": tall(aten.linalg_lu.default),
    "aten::linalg_lu_factor": each(aten.linalg_lu_factor.default),
    "aten::linalg_lu_factor_ex": each(aten.linalg_lu_factor_ex.default),
    "aten::linalg_lu_solve": with_lu(aten.linalg_lu_solve.default, ("lu", "pivots", "b")),
    "aten::linalg_matrix_exp": each(aten.linalg_matrix_exp.default, make=t),
    "aten::linalg_matrix_norm": [
        *tall(aten.linalg_matrix_norm.default, 1),
        (aten.linalg_matrix_norm.default, (t(4, 6, 5), 1, [0, 2], True), {}),
    ],
    "aten::linalg_matrix_norm.str_ord": tall(aten.linalg_matrix_norm.str_ord, "nuc"),
    "aten::linalg_matrix_power": each(aten.linalg_matrix_power.default, 3),
    "aten::linalg_matrix_rank": [
        (aten.linalg_matrix_rank.default, (t(4, 3, 5), 1e-4), {}),
        (aten.linalg_matrix_rank.tol_tensor, (t(4, 3, 5), torch.tensor([1e-4, 1.0, 2.0, 3.0])), {}),
        (aten.linalg_matrix_rank.atol_rtol_tensor, (t(4, 3, 5),), {"rtol": torch.tensor(0.5)}),
        (aten.linalg_matrix_rank.atol_rtol_float, (t(4, 3, 5),), {"atol": 1.0}),
    ],
    "aten::linalg_multi_dot": [
        (aten.linalg_multi_dot.default, ([t(4, 6), t(6, 8), t(8, 5)],), {}),
        (aten.linalg_multi_dot.default, ([t(6), t(6, 8), t(8)],), {}),
    ],
    "aten::linalg_norm": [
        (aten.linalg_norm.default, (t(4, 6),), {}),
        (aten.linalg_norm.default, (t(4, 6, 3), 2, [1]), {}),
        (aten.linalg_norm.default, (t(4, 6, 3), None, [0, 2], True), {}),
    ],
    "aten::linalg_pinv": tall(aten.linalg_pinv.default, 1e-6),
    "aten::linalg_qr": tall(aten.linalg_qr.default),
    "aten::linalg_slogdet": each(aten.linalg_slogdet.default),
    "aten::linalg_solve": [
        *systems(aten.linalg_solve.default),
        (aten.linalg_solve.default, (spd(4, 3, 3), t(4, 3)), {}),
    ],
    "aten::linalg_solve_ex": systems(aten.linalg_solve_ex.default),
    "aten::linalg_solve_triangular": systems(aten.linalg_solve_triangular.default, upper=True),
    "aten::linalg_svd": tall(aten.linalg_svd.default, False),
    "aten::linalg_svdvals": tall(aten.linalg_svdvals.default),
    "aten::linalg_vander": [
        (aten.linalg_vander.default, (t(4, 6),), {"N": 3}),
        (aten.linalg_vander.default, (t(4, 6),), {}),
    ],
    "aten::linalg_vecdot": [
        (aten.linalg_vecdot.default, (t(4, 6), t(4, 6)), {"dim": 0}),
        (aten.linalg_vecdot.default, (t(3, 4, 6), t(4, 6)), {}),
    ],
    "aten::logdet": each(aten.logdet.default),
    "aten::lu_solve": with_lu(aten.lu_solve.default, ("b", "lu", "pivots")),
    "aten::lu_unpack": with_lu(aten.lu_unpack.default, ("lu", "pivots")),
    "aten::ormqr": [(aten.ormqr.default, (t(*b, 5, 3), t(*b, 3), t(*b, 5, 6)), {}) for b in BATCHES],
    **samples_of_removed("aten::qr", tall),
    "aten::svd": tall(aten.svd.default),
    "aten::tensordot": [
        (aten.tensordot.default, (t(4, 6, 8), t(8, 6, 5), [1, 2], [1, 0]), {}),
        (aten.tensordot.default, (t(4, 6), t(6, 8), [1], [0]), {}),
    ],
    "aten::triangular_solve": [(aten.triangular_solve.default, (t(4, 3, 6), triangular(4, 3, 3)), {})],
    "aten::vander": [(aten.vander.default, (t(6),), {}), (aten.vander.default, (t(5), 3, True), {})],
}
