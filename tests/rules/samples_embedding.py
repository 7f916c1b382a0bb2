"""Sample calls for every operator of `shardwright.rules.embedding`."""

from tests.rules.harness import aten, ints, t

SAMPLES = {
    "aten::embedding": [
        (aten.embedding.default, (t(12, 8), ints(12, 3, 4)), {}),
        (aten.embedding.default, (t(7, 5), ints(7, 6)), {}),
        (aten.embedding.default, (t(3, 4), ints(3, 2, 2), 0), {}),
    ],
}
