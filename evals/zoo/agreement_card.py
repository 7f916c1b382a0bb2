"""The card's section on agreement between the automatic plan and the maintainers' plans."""

from collections import Counter
from statistics import median

INTRODUCTION = """## Agreement with the maintainers' plans

Model types that ship a `base_model_tp_plan`, at the sizes of their classes' defaults but two layers, in bfloat16 on the
meta device, 512 tokens. A weight that a plan does not name is stored as its readers want it; two plans agree on a
weight where every rank holds the same indices of it.

*Sends*: bytes a rank sends in one forward pass, counting a ring. *Holds*: weight bytes on the busiest rank. *Takes*:
time by the cost model, the latency and bytes of collectives and the work of the busiest rank. All are `"auto"` over
the maintainers' plan. `"auto"` keeps what a rank holds within a tenth of the least there is, and then takes the
least time: it sends more where that saves more work, and holds more where cutting costs more than it saves.

*Cheaper*: sends and holds no more, and less of one; *dearer*: no less, and more of one (half a percent is no
difference).
"""
CLOSE = 0.005
COMMON = 15
"""So many of the commonest differences are listed."""


def agreement_section(records):
    """Weights of equal placing, and where they differ what either plan sends, holds and takes."""
    found = sorted((r for r in records.values() if "auto_talk_us" in r), key=lambda r: (r["type"], r["num_ranks"]))
    if not found:
        return ""
    lines = [INTRODUCTION]
    sizes = sorted({r["num_ranks"] for r in found})
    lines += [paragraph(n, [r for r in found if r["num_ranks"] == n]) for n in sizes]
    lines += [not_compared(records), common_differences(found), table(found), every_difference(found)]
    return "\n".join(lines)


def agreement_counts(records):
    """How far the two plans agree, in one paragraph for every number of ranks."""
    found = [r for r in records.values() if "auto_talk_us" in r]
    sizes = sorted({r["num_ranks"] for r in found})
    return "\n".join(paragraph(n, [r for r in found if r["num_ranks"] == n]) for n in sizes)


def paragraph(num_ranks, found):
    """Counts over all types."""
    named, named_equal = sum(r["named"] for r in found), sum(r["named_equal"] for r in found)
    every, equal = sum(r["of"] for r in found), sum(r["equal"] for r in found)
    verdicts = Counter(verdict(r) for r in found)
    full = sum(r["equal"] == r["of"] for r in found)
    by_name = sum(r["named_equal"] == r["named"] for r in found)
    slower = sum(ratio(r, "us") > 1 + CLOSE for r in found)
    return (
        f"On {num_ranks} ranks, over {len(found)} model types that ship a plan: {named_equal} of the {named} weights "
        f'that the plans name are held alike under `"auto"` ({named_equal / max(named, 1):.0%}), and {equal} of all '
        f"{every} ({equal / max(every, 1):.0%}). {by_name} types agree on every weight that their plan names, {full} "
        f'on every weight. `"auto"` is '
        + ", ".join(f"{name} in {count}" for name, count in verdicts.most_common())
        + f"; by the cost model it takes longer in {slower}.\n"
    )


def not_compared(records):
    """The types for which a plan was compiled in vain."""
    failed = [r for r in records.values() if r["plan"] and r["verdict"] not in ("ok", "no plan")]
    causes = ((r, r["reason"].partition(" try: ")[0]) for r in failed)
    listed = ", ".join(f"`{r['type']}` on {r['num_ranks']} ranks ({r['verdict']}: {cause})" for r, cause in causes)
    return f"Not compared: {listed}.\n" if listed else ""


def verdict(record):
    """``cheaper``, ``dearer``, ``the same``, or which of the two is less and which is more."""
    sends, holds = (compared(ratio(record, key)) for key in ("sent", "held"))
    if sends == holds == 0:
        return "the same"
    if sends <= 0 and holds <= 0:
        return "cheaper"
    if sends >= 0 and holds >= 0:
        return "dearer"
    return "sending less and holding more" if sends < 0 else "sending more and holding less"


def compared(share):
    """-1, 0 or 1: less, as much, more."""
    return (share > 1 + CLOSE) - (share < 1 - CLOSE)


def ratio(record, key):
    """Ours over theirs; infinite where theirs is nothing and ours is not."""
    ours, theirs = (micros(record, way) if key == "us" else record[f"{way}_{key}"] for way in ("auto", "hf"))
    return ours / theirs if theirs else (1.0 if not ours else float("inf"))


def micros(record, way):
    """The time of one way by the cost model."""
    return record[f"{way}_talk_us"] + record[f"{way}_work_us"]


def reason(record):
    """In figures, what the differences come to."""
    fewer = sum(record["hf_collectives"].values()) - sum(record["auto_collectives"].values())
    counted = f"{abs(fewer)} {'fewer' if fewer > 0 else 'more'} collective{'s' if abs(fewer) > 1 else ''}"
    talk, work = (record[f"auto_{key}_us"] - record[f"hf_{key}_us"] for key in ("talk", "work"))
    text = (
        f"sends {ratio(record, 'sent'):.2f}x, holds {ratio(record, 'held'):.2f}x, "
        f"{counted if fewer else 'as many collectives'}; takes {ratio(record, 'us'):.2f}x: "
        f"communication {talk:+.0f} µs, work {work:+.0f} µs"
    )
    if ratio(record, "us") > 1 + CLOSE:
        text += slower(record)
    return text


def slower(record):
    """Why the automatic plan takes longer, which it is not to."""
    if "unbounded_talk_us" in record and micros(record, "unbounded") <= (1 + CLOSE) * micros(record, "hf"):
        share = micros(record, "unbounded") / micros(record, "hf")
        return f" ({share:.2f}x without the bound on what a rank holds)"
    if max(record["auto_gap"], record["hf_gap"]) > CLOSE:
        return f" (the solver stopped {record['auto_gap']:.0%} from what may be the best)"
    return " (not explained)"


def common_differences(records):
    """The commonest differences, and what they come to where they are the only one."""
    having, alone = Counter(), {}
    for record in records:
        kinds = {(_short(d["weight"]), _kind(d["auto"]), _kind(d["hf"])) for d in record["differ"]}
        having.update(kinds)
        if len(kinds) == 1:
            alone.setdefault(next(iter(kinds)), []).append(record)
    if not having:
        return ""
    lines = ["The commonest differences, and what each comes to in the types where it is the only one (medians):\n"]
    lines += ["| weight | auto | maintainers | types | alone in | sends | holds | takes |", "| --- " * 8 + "|"]
    for kind, count in sorted(having.items(), key=lambda item: (-item[1], item[0]))[:COMMON]:
        only = alone.get(kind, [])
        figures = [f"{median(ratio(r, key) for r in only):.2f}" if only else "" for key in ("sent", "held", "us")]
        lines.append(f"| `{kind[0]}` | {kind[1]} | {kind[2]} | {count} | {len(only) or ''} | {' | '.join(figures)} |")
    return "\n".join(lines) + "\n"


def _short(name):
    """The last two tokens of a name that say what the weight is."""
    return ".".join([t for t in name.split(".") if t not in ("*", "model", "weight", "bias")][-2:])


def _kind(placing):
    """A placing without sizes."""
    return placing.split(",")[0]


def table(records):
    """A row for each type."""
    lines = ["| model type | ranks | alike, of those named | of all | sends | holds | takes | collectives | auto is |"]
    lines.append("| --- " * 9 + "|")
    for r in records:
        alike = f"{r['named_equal']}/{r['named']} | {r['equal']}/{r['of']}"
        counts = " : ".join(str(sum(r[f"{way}_collectives"].values())) for way in ("auto", "hf"))
        figures = " | ".join(f"{ratio(r, key):.2f}" for key in ("sent", "held", "us"))
        lines.append(f"| `{r['type']}` | {r['num_ranks']} | {alike} | {figures} | {counts} | {verdict(r)} |")
    return "\n".join(lines) + "\n"


def every_difference(records):
    """For each type, which weights differ, how either plan has them, and what that comes to."""
    lines = []
    for record in records:
        if not record["differ"]:
            continue
        lines.append(f"- `{record['type']}`, {record['num_ranks']} ranks: {verdict(record)}: {reason(record)}")
        groups = {}
        for entry in record["differ"]:
            groups.setdefault((entry["auto"], entry["hf"]), []).append(entry)
        lines += [f"  - {pair[0]}, not {pair[1]}: {_weights(entries)}" for pair, entries in groups.items()]
    if not lines:
        return ""
    head = "Weight by weight (numbers of layers as `*`; † the maintainers' plan does not name it; ours, not theirs):\n"
    return "\n".join([head, *lines]) + "\n"


def _weights(entries):
    marks = ((entry, "" if entry["named"] else "†") for entry in entries)
    return ", ".join(f"`{e['weight'].removesuffix('.weight')}`{mark} ({_bytes(e)})" for e, mark in marks)


def _bytes(entry):
    """What it holds of these weights on the busiest rank, in both plans."""
    ours, theirs = entry["auto_bytes"], entry["hf_bytes"]
    unit, name = (2**20, "MiB") if max(ours, theirs) >= 2**20 else (2**10, "KiB")
    return f"{ours / unit:.1f} {name}" if ours == theirs else f"{ours / unit:.1f} {name} against {theirs / unit:.1f}"
