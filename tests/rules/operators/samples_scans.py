"""Sample calls for every operator of `shardwright.rules.operators.scans`."""

import torch

from shardwright.rules.local import number_in
from shardwright.rules.operators.scans import SCANS
from tests.support.harness import LENGTHS, ints, t

own = torch.ops.shardwright


def totals():
    """Every kind of scan, along the middle and the last dim, of floats and of whole numbers."""
    found = []
    for kind in SCANS:
        for lengths in LENGTHS:
            found.append((own.scan_totals.default, (t(4, sum(lengths), 3), 1, kind, lengths), {}))
            if kind != "logsumexp":
                found.append((own.scan_totals.default, (ints(5, 3, sum(lengths)), 1, kind, lengths), {}))
    return found


def scans():
    """The same, with what lies before every piece."""
    found = []
    for _, (x, dim, kind, lengths), _ in totals():
        pieces = x.split(lengths, dim)
        starts = [x.new_full(pieces[0].narrow(dim, 0, 1).shape, number_in(SCANS[kind].neutral, x.dtype))]
        ends = range(1, len(lengths))
        starts += [own.scan_totals(torch.cat(pieces[:end], dim), dim, kind, [1]) for end in ends]
        found.append((own.scan_from.default, (x, torch.cat(starts, dim), dim, kind, lengths), {}))
    return found


SAMPLES = {"shardwright::scan_from": scans(), "shardwright::scan_totals": totals()}
