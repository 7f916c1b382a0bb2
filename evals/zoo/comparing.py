"""Two ways of sharding one program, compared weight by weight: what every rank holds, and what each way costs."""

from collections import Counter

from shardwright.assign.cost import CostModel
from shardwright.compiler.split import costs_us
from shardwright.layout.box import region_of
from shardwright.plan.patterns import generalize

FACTORS = {"all_reduce": 2.0, "all_gather": 1.0, "reduce_scatter": 1.0}
"""Bytes a rank sends over those of the whole value, in a ring, but for the (ranks - 1)/ranks they all share."""


def compare(auto, maintained):
    """Parameters that every rank holds the same indices of under both, those that differ, and what each way costs.

    ``differ``: an entry for weights of equal names up to numbers and equal placing: how many there are, whether the
    maintainers' plan names them, how either way holds them, and the bytes of them on the busiest rank.
    """
    theirs = {w.name: w for w in maintained.weights if w.kind == "parameter"}
    ours = {w.name: w for w in auto.weights if w.kind == "parameter"}
    named = {name for name, w in theirs.items() if w.plan_key}
    equal, differ = set(), {}
    for name, other in theirs.items():
        mine = pieces(ours[name], auto.mesh), pieces(other, maintained.mesh)
        if mine[0] == mine[1]:
            equal.add(name)
            continue
        words = tuple(placing(piece, other.shape) for piece in mine)
        entry = differ.setdefault(
            (generalize(name), name in named, *words), {"count": 0, "auto_bytes": 0, "hf_bytes": 0}
        )
        entry["count"] += 1
        entry["auto_bytes"] += max(ours[name].rank_bytes)
        entry["hf_bytes"] += max(other.rank_bytes)
    return {
        "equal": len(equal),
        "of": len(theirs),
        "named_equal": len(named & equal),
        "named": len(named),
        "differ": [
            {"weight": pattern, "named": is_named, "auto": mine, "hf": other, **entry}
            for (pattern, is_named, mine, other), entry in differ.items()
        ],
        **{f"auto_{key}": value for key, value in bill(auto).items()},
        **{f"hf_{key}": value for key, value in bill(maintained).items()},
    }


def bill(sharded):
    """What a way of sharding costs: bytes sent and held, collectives, and microseconds by the cost model."""
    talk, work = costs_us(sharded.compiled, CostModel())
    return {
        "sent": sent(sharded),
        "held": max(sharded.rank_bytes),
        "collectives": dict(sorted(Counter(c.kind for c in sharded.collectives).items())),
        "talk_us": round(talk, 2),
        "work_us": round(work, 2),
        "gap": round(sharded.gap, 4),
    }


def sent(sharded):
    """Bytes a rank sends in one forward pass."""
    total = 0.0
    for one in sharded.collectives:
        ranks = sharded.mesh.size(one.axis)
        total += FACTORS.get(one.kind, 1 / ranks) * one.num_bytes * (ranks - 1) / ranks
    return round(total)


def pieces(weight, mesh):
    """The index ranges of each dim that every rank holds; None for a rank that holds zeros in place of a value."""
    found = []
    for rank in range(mesh.num_ranks):
        coordinate = mesh.coordinate(rank)
        cuts = [(layout, coordinate[axis]) for axis, layout in weight.layouts.items()]
        region = region_of(weight.shape, cuts)
        found.append(None if region is None else tuple(map(_joined, region.spans)))
    return found


def placing(held, shape):
    """In words, how the ranks hold a weight: ``whole``, ``dim 0``, ``dim 1 among 2`` (ranks of more; the
    others have copies, or nothing), ``one rank``.

    A cut of unequal sizes says how much of the dim a rank has at most; a packed one, in how many ranges it has it.
    """
    if None in held:
        return "one rank"
    cut = [dim for dim in range(len(shape)) if len({piece[dim] for piece in held}) > 1]
    if not cut:
        return "whole"
    text = "dim " + " and ".join(map(str, cut))
    kinds = len({piece for piece in held if all(piece)})
    text += f" among {kinds}" if kinds < len(held) else ""
    ranges = max(len(piece[dim]) for piece in held for dim in cut)
    text += f" in {ranges} ranges" if ranges > 1 else ""
    for dim in cut:
        sizes = {sum(stop - start for start, stop in piece[dim]) for piece in held}
        text += f", at most {max(sizes)} of {shape[dim]}" if len(sizes) > 1 else ""
    return text


def _joined(spans):
    """Ranges that touch as one."""
    found = []
    for start, stop in spans:
        if found and found[-1][1] == start:
            found[-1] = (found[-1][0], stop)
        else:
            found.append((start, stop))
    return tuple(found)
