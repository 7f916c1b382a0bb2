"""Sample calls for every operator of `shardwright.rules.operators.matmul`."""

from tests.support.harness import aten, t

SAMPLES = {
    "aten::_trilinear": [
        (aten._trilinear.default, (t(4, 6), t(8, 6, 5), t(4, 5), [1, 3], [0], [1, 2], [2, 3]), {}),
        (aten._trilinear.default, (t(3, 5), t(7, 5, 3), t(3, 3), [1, 3], [0], [1, 2], [2, 3]), {}),
        (aten._trilinear.default, (t(4, 6), t(4, 8), t(8, 6), [1], [2], [0], [0]), {}),
    ],
    "aten::addbmm": [(aten.addbmm.default, (t(4, 6), t(3, 4, 5), t(3, 5, 6)), {})],
    "aten::addmm": [
        (aten.addmm.default, (t(6), t(4, 8), t(8, 6)), {}),
        (aten.addmm.default, (t(4, 6), t(4, 8), t(8, 6)), {"beta": 0.5, "alpha": 2.0}),
        (aten.addmm.default, (t(7), t(3, 5), t(5, 7)), {}),
    ],
    "aten::addmv": [(aten.addmv.default, (t(4), t(4, 6), t(6)), {})],
    "aten::addr": [(aten.addr.default, (t(4, 6), t(4), t(6)), {})],
    "aten::baddbmm": [
        (aten.baddbmm.default, (t(2, 4, 6), t(2, 4, 5), t(2, 5, 6)), {}),
        (aten.baddbmm.default, (t(1, 4, 6), t(2, 4, 5), t(2, 5, 6)), {}),
    ],
    "aten::bilinear": [(aten.bilinear.default, (t(3, 4), t(3, 6), t(8, 4, 6), t(8)), {})],
    "aten::bmm": [(aten.bmm.default, (t(4, 3, 8), t(4, 8, 5)), {}), (aten.bmm.default, (t(3, 1, 7), t(3, 7, 2)), {})],
    "aten::dot": [(aten.dot.default, (t(8), t(8, seed=1)), {}), (aten.dot.default, (t(5), t(5, seed=1)), {})],
    "aten::einsum": [
        (aten.einsum.default, ("bij,kj->ibk", [t(2, 3, 8), t(4, 8)]), {}),
        (aten.einsum.default, ("...d,de", [t(3, 2, 4), t(4, 6)]), {}),
    ],
    "aten::linear": [
        (aten.linear.default, (t(2, 5, 8), t(12, 8), t(12)), {}),
        (aten.linear.default, (t(3, 7), t(5, 7)), {}),
        (aten.linear.default, (t(8), t(6, 8), t(6)), {}),
    ],
    "aten::matmul": [
        (aten.matmul.default, (t(2, 5, 8), t(8, 6)), {}),
        (aten.matmul.default, (t(2, 1, 5, 8), t(4, 8, 6)), {}),
        (aten.matmul.default, (t(8), t(8, 6)), {}),
        (aten.matmul.default, (t(3, 5, 8), t(8)), {}),
        (aten.matmul.default, (t(7), t(7)), {}),
    ],
    "aten::mm": [(aten.mm.default, (t(4, 8), t(8, 6)), {}), (aten.mm.default, (t(1, 5), t(5, 3)), {})],
    "aten::mv": [(aten.mv.default, (t(4, 8), t(8)), {})],
    "aten::outer": [(aten.outer.default, (t(4), t(6)), {})],
    "aten::vdot": [(aten.vdot.default, (t(8), t(8, seed=2)), {})],
}
