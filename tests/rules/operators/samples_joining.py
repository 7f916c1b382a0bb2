"""Sample calls for every operator of `shardwright.rules.operators.joining`."""

from tests.support.harness import SHAPES, aten, t


def pairs(op, *dim):
    """Two tensors of every sample shape."""
    return [(op, ([t(*shape), t(*shape, seed=3)], *dim), {}) for shape in SHAPES]


def cats(op):
    """Along every dim, of unequal sizes, of one tensor, and with the empty tensor that old programs begin with."""
    return [
        *pairs(op, 0),
        *pairs(op, 1),
        *pairs(op, -1),
        (op, ([t(4, 2), t(4, 5), t(4, 1)], 1), {}),
        (op, ([t(3, 4)], 0), {}),
        (op, ([t(0), t(4, 5)], 1), {}),
        (op, ([t(5, 0), t(5, 6)], 1), {}),
        (op, ([t(0), t(5)],), {}),
        (op, ([t(4, 3).double(), t(2, 3)],), {}),
    ]


def stacks(op, own):
    """Tensors of one, two and three dims; ``own``: a pair that differs along the dim that grows."""
    return [*pairs(op), (op, ([t(6), t(6, seed=1)],), {}), (op, ([t(4, 6), t(4, 6, seed=1)],), {}), (op, (own,), {})]


SAMPLES = {
    "aten::broadcast_tensors": [
        (aten.broadcast_tensors.default, ([t(4, 1, 6), t(8, 1)],), {}),
        (aten.broadcast_tensors.default, ([t(5, 7), t(5, 7, seed=1), t()],), {}),
    ],
    "aten::cat": cats(aten.cat.default),
    "aten::column_stack": stacks(aten.column_stack.default, [t(4, 3), t(4, 5)]),
    "aten::dstack": stacks(aten.dstack.default, [t(4, 3, 2), t(4, 3, 5)]),
    "aten::hstack": stacks(aten.hstack.default, [t(4, 3), t(4, 5)]),
    "aten::meshgrid": [
        (aten.meshgrid.default, ([t(4), t(6)],), {}),
        (aten.meshgrid.default, ([t(5), t()],), {}),
        (aten.meshgrid.indexing, ([t(4), t(6), t(3)],), {"indexing": "xy"}),
        (aten.meshgrid.indexing, ([t(4), t(6), t(3)],), {"indexing": "ij"}),
    ],
    "aten::stack": [*pairs(aten.stack.default, 1), *pairs(aten.stack.default, -1), *pairs(aten.stack.default)],
    "aten::vstack": stacks(aten.vstack.default, [t(3, 4), t(5, 4)]),
}
