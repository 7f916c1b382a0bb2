"""How far the automatic plan and the maintainers' plan agree, weight by weight, and what each costs."""

from shardwright.plan.patterns import generalize


def compare(auto, maintained):
    """Parameters of the same layout, those that differ, and bytes each plan communicates and holds."""
    theirs = {w.name: w for w in maintained.weights if w.kind == "parameter"}
    ours = {w.name: w for w in auto.weights if w.kind == "parameter"}
    differ = {}
    for name, weight in theirs.items():
        mine, other = str(next(iter(ours[name].layouts.values()))), str(next(iter(weight.layouts.values())))
        if mine != other:
            differ.setdefault(generalize(name), [mine, other])
    equal = [name for name, w in theirs.items() if str(ours[name].layouts) == str(w.layouts)]
    named = [name for name, w in theirs.items() if w.plan_key]
    return {
        "agreement": {
            "equal": len(equal),
            "of": len(theirs),
            "named_equal": len([name for name in named if name in equal]),
            "named": len(named),
            "differ": differ,
            "auto_bytes": sum(c.num_bytes for c in auto.collectives),
            "hf_bytes": sum(c.num_bytes for c in maintained.collectives),
            "auto_held": _held(auto),
            "hf_held": _held(maintained),
        }
    }


def _held(sharded):
    """Weight bytes on the busiest rank."""
    return max(sum(w.rank_bytes[rank] for w in sharded.weights) for rank in range(sharded.mesh.num_ranks))
