"""What is drawn from a seed: by the name ``"<task> <seed>"``, in a process of its own."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from evals.fuzz import arguments, packages, plans, programs
from evals.fuzz.judge import Verdict


@dataclass(frozen=True)
class Task:
    """A kind of input: how a case is drawn from a seed, printed as Python, and made shorter."""

    draw: Callable[[int], Any]
    text: Callable[[Any], str]
    shorten: Callable[[Any, Callable[[Any], bool]], Any]


TASKS: dict[str, Task] = {
    "programs": Task(programs.draw_case, programs.text_of, programs.shortened),
    "programs-2": Task(lambda seed: programs.draw_case(seed, 2), programs.text_of, programs.shortened),
    "programs-3": Task(lambda seed: programs.draw_case(seed, 3), programs.text_of, programs.shortened),
    "plans": Task(plans.draw_plan, plans.text_of, plans.shortened),
    "arguments": Task(arguments.draw_call, arguments.text_of, arguments.shortened),
    "packages": Task(packages.draw_damage, packages.text_of, packages.shortened),
}
"""``programs-2`` and ``programs-3``: on so many mesh axes."""


def judged(name: str) -> dict[str, Any]:
    """The verdict on a seed, as it is written down."""
    started = time.monotonic()
    verdict = _case(name).verdict()
    return {**_record(verdict), "seconds": round(time.monotonic() - started, 1)}


def reproduced(name: str) -> dict[str, Any]:
    """The text of a case that fails as the seed does, made as short as it goes."""
    task, case = _task(name), _case(name)
    verdict: Verdict = case.verdict()

    def fails(shorter: Any) -> bool:
        said = shorter.verdict()
        return (said.word, said.kind) == (verdict.word, verdict.kind)

    return {"text": task.text(task.shorten(case, fails) if verdict.is_fault else case)}


def text_of(name: str) -> str:
    """The text of a seed's case as it was drawn."""
    return _task(name).text(_case(name))


def _task(name: str) -> Task:
    return TASKS[name.partition(" ")[0]]


def _case(name: str) -> Any:
    return _task(name).draw(int(name.partition(" ")[2]))


def _record(verdict: Verdict) -> dict[str, Any]:
    return {"verdict": verdict.word, "kind": verdict.kind, "said": verdict.said[:2000]}
