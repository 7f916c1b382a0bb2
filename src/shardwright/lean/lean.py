"""`lean`: from a partitioned program to the one a rank runs: arranged, lowered, then rid of what it need not do.

Copying a graph of ten thousand nodes takes longer than any of these passes: they change one copy, one after the other.
"""

from collections.abc import Iterator, Mapping

from shardwright.lean.arrange import arrange, arranged_places
from shardwright.lean.dependences import is_collective
from shardwright.lean.drop import drop_no_ops
from shardwright.lean.options import DEFAULTS, Lean
from shardwright.lean.schedule import Schedule
from shardwright.lean.waits import wait_late
from shardwright.partition.lower import lower
from shardwright.program.collectives import lowered_name
from shardwright.program.duplicate import duplicate
from shardwright.program.program import Program


def lean(
    program: Program,
    schedule: Schedule,
    group_names: Mapping[str, str],
    options: Lean = DEFAULTS,
    *,
    copy: Program | None = None,
) -> Program:
    """One rank's program, lowered. ``program``: not lowered, of any rank; ``schedule``: all ranks'.

    ``copy``: the same program, which nobody else wants and becomes the result; absent: a duplicate.
    """
    *_, (_, last) = passes(program, schedule, group_names, options, copy=copy)
    return last


def passes(
    program: Program,
    schedule: Schedule,
    group_names: Mapping[str, str],
    options: Lean = DEFAULTS,
    *,
    copy: Program | None = None,
) -> Iterator[tuple[str, Program]]:
    """One program after each pass, with what it is then: the next pass changes it. The last is what a rank runs."""
    made = duplicate(program) if copy is None else copy
    if options.schedule:
        yield "arranged", arrange(made, schedule, arranged_places(program, schedule))
    yield "lowered", lower(made, group_names, by_parts=options.micro_pipeline)
    if options.drop:
        yield "dropped", drop_no_ops(made)
    if options.late_waits:
        yield "lean", wait_late(made)


def count(program: Program) -> tuple[int, int]:
    """How many calls a program's own graph has, and how many of them communicate."""
    calls = [node for node in program.graph.nodes if node.op == "call_function"]
    return len(calls), sum(is_collective(node) or lowered_name(node) not in ("", "wait_tensor") for node in calls)
