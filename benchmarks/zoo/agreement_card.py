"""The card's section on agreement between the automatic plan and the maintainers' plans."""

from collections import Counter

INTRODUCTION = """## Agreement with the maintainers' plans

Model types that ship a `base_model_tp_plan`, at the sizes of their classes' defaults but two layers, in bfloat16 on the
meta device, 512 tokens. *Sent*: bytes a rank sends in one forward pass, counting a ring. *Held*: weight bytes on the
busiest rank. A weight that a plan does not name is stored as its readers want it.
"""


def agreement_section(records):
    """Weights of equal layout, and where they differ which plan moves and holds fewer bytes."""
    found = [r for r in records.values() if "differ" in r]
    if not found:
        return ""
    lines = [INTRODUCTION]
    sizes = sorted({r["num_ranks"] for r in found})
    lines += [_paragraph(n, [r for r in found if r["num_ranks"] == n]) for n in sizes]
    lines.append(_differences(found))
    lines.append(_table(found))
    return "\n".join(lines)


def _paragraph(num_ranks, found):
    named, named_equal = sum(a["named"] for a in found), sum(a["named_equal"] for a in found)
    every, equal = sum(a["of"] for a in found), sum(a["equal"] for a in found)
    moved = Counter(_compare(a["auto_sent"], a["hf_sent"]) for a in found)
    held = Counter(_compare(a["auto_held"], a["hf_held"]) for a in found)
    return (
        f"On {num_ranks} ranks, over {len(found)} model types that ship a plan: {named_equal} of the {named} weights "
        f'that the plans name have the same layout under `"auto"` ({named_equal / max(named, 1):.0%}), and {equal} of '
        f'all {every} ({equal / max(every, 1):.0%}). `"auto"` communicates fewer bytes in {moved["fewer"]} types, as '
        f"many in {moved['equal']}, more in {moved['more']}; it holds fewer weight bytes on the busiest rank in "
        f"{held['fewer']}, as many in {held['equal']}, more in {held['more']}.\n"
    )


def _compare(ours, theirs):
    if ours == theirs:
        return "equal"
    return "fewer" if ours < theirs else "more"


def _differences(records):
    counts = Counter()
    for record in records:
        for name, (ours, theirs) in record["differ"].items():
            counts[_short(name), ours.split(",")[0].rstrip(")") + ")", theirs.split(",")[0].rstrip(")") + ")"] += 1
    if not counts:
        return ""
    lines = ["| weight | auto | maintainers | runs |", "| --- | --- | --- | --- |"]
    lines += [f"| `{name}` | `{a}` | `{b}` | {n} |" for (name, a, b), n in counts.most_common(15)]
    return "The commonest differences:\n\n" + "\n".join(lines) + "\n"


def _short(name):
    """The last two tokens of a name that say what the weight is."""
    return ".".join([t for t in name.split(".") if t not in ("*", "weight", "bias")][-2:])


def _table(records):
    lines = ["| model type | ranks | equal, of those named | equal, of all | sent, auto : plan | held, auto : plan |"]
    lines.append("| --- | --- | --- | --- | --- | --- |")
    lines += [
        f"| `{r['type']}` | {r['num_ranks']} | {r['named_equal']}/{r['named']} | {r['equal']}/{r['of']} | "
        f"{_ratio(r['auto_sent'], r['hf_sent'])} | {_ratio(r['auto_held'], r['hf_held'])} |"
        for r in sorted(records, key=lambda r: (r["type"], r["num_ranks"]))
    ]
    return "\n".join(lines) + "\n"


def _ratio(ours, theirs):
    return f"{ours / theirs:.2f}" if theirs else ("1.00" if ours == theirs else "more")
