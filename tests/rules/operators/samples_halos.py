"""Sample calls for every operator of `shardwright.rules.operators.halos`."""

from functools import partial

import torch

from tests.support.harness import LENGTHS, t

own = torch.ops.shardwright
COUNTS = (1, -1, 2, -3)


def can_move(lengths, count):
    return all(length == 0 or length >= abs(count) for length in lengths)


def edges():
    """The first and the last entries, along the middle and the last dim."""
    return [
        (own.edges.default, (t(4, sum(lengths), 3), 1, count, lengths), {})
        for lengths in LENGTHS
        for count in COUNTS
        if can_move(lengths, count)
    ]


def shifts():
    """The same dim moved, with what lies beyond every piece."""
    found = []
    for lengths in LENGTHS:
        for count in filter(partial(can_move, lengths), COUNTS):
            x = t(4, sum(lengths), 3)
            around = torch.nn.functional.pad(x, (0, 0, abs(count), abs(count)), value=7.0)
            ends = [abs(count) + sum(lengths[:piece]) for piece in range(len(lengths) + 1)]
            starts = ends[1:] if count > 0 else [end + count for end in ends[:-1]]
            beyond = torch.cat([around.narrow(1, start, abs(count)) for start in starts], 1)
            found.append((own.shifted.default, (x, beyond, 1, count, lengths), {}))
    return found


SAMPLES = {"shardwright::edges": edges(), "shardwright::shifted": shifts()}
