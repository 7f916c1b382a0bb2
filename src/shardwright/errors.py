"""The errors of Shardwright: one base class, every message written for the person who reads it.

A user error says what was wrong, where (module path, source line, plan key) and what to do. Findings are collected
and raised together, so one run shows everything there is to mend.
"""

import difflib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field


class ShardwrightError(ValueError):
    """Base class of everything Shardwright raises on bad input. ``findings``: what it lists, where it lists any."""

    findings: "tuple[Finding, ...]" = ()


class PlanError(ShardwrightError):
    """A plan does not fit the program: unknown keys, conflicting entries, dims that cannot be cut."""


class PlanWarning(UserWarning):
    """Entries of a plan written for a family of models that this program has no use for."""


class CheckpointWarning(UserWarning):
    """A checkpoint holds tensors or files that nothing reads."""


class GatherWarning(UserWarning):
    """Weights are gathered at every call, and are more than a small share of all."""


class SolverWarning(UserWarning):
    """The solver stopped before its answer was proven the best."""


class ProgramError(ShardwrightError):
    """The exported program cannot be read: not a program, damaged, or using something that is not supported."""


class LayoutError(ShardwrightError):
    """A layout does not fit a tensor."""


class RuleError(ShardwrightError):
    """A rule's notation or shape does not fit its operator."""


class AssignmentError(ShardwrightError):
    """No assignment of layouts satisfies the plan."""


class BudgetError(ShardwrightError):
    """The assignment needs collectives that the budget does not allow."""


class InputError(ShardwrightError):
    """Inputs given to a program do not have the structure, shapes or dtypes it was exported with."""


class CheckpointError(ShardwrightError):
    """A checkpoint cannot be read: missing or damaged files, an unknown model, tensors that do not fit it."""


class PackageError(ShardwrightError):
    """A package folder cannot be written or read: missing, damaged, of another version, or for other ranks."""


class RunError(ShardwrightError):
    """A rank died, hung or failed while a sharded program ran."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong, where it is and what would mend it."""

    what: str
    where: str = ""
    remedies: tuple[str, ...] = field(default=())

    def __str__(self) -> str:
        lines = [self.what]
        if self.where:
            lines.append(f"  at {self.where}")
        lines += [f"  try: {remedy}" for remedy in self.remedies]
        return "\n".join(lines)


def first_line(error: BaseException) -> str:
    """The first line of another library's error message, or the error's class where the message is empty."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


MOST_FINDINGS = 20
"""At most this many findings are written out, about a screen; the others are counted."""


def raise_findings(error: type[ShardwrightError], findings: Sequence[Finding], *, summary: str) -> None:
    """Raise ``error`` with the findings in one message, the first `MOST_FINDINGS`; do nothing when there are none."""
    if not findings:
        return
    lines = [f"{number}. {finding}" for number, finding in enumerate(findings[:MOST_FINDINGS], 1)]
    if len(findings) > MOST_FINDINGS:
        lines.append(f"… and {len(findings) - MOST_FINDINGS} more")
    body = "\n".join(lines)
    raised = error(f"{summary} ({len(findings)} problem{'s' if len(findings) > 1 else ''})\n{body}")
    raised.findings = tuple(findings)
    raise raised


@contextmanager
def collecting(errors: list[ShardwrightError]) -> Iterator[None]:
    """Put what the body raises into ``errors``, so that what comes after it is looked at too (see `raise_together`)."""
    try:
        yield
    except ShardwrightError as error:
        errors.append(error)


def raise_together(error: type[ShardwrightError], errors: Sequence[ShardwrightError], *, summary: str) -> None:
    """Raise the findings of all errors as one, each once; an error that is alone as it is; nothing without errors."""
    if len(errors) == 1:
        raise errors[0]
    findings = [finding for one in errors for finding in one.findings or (Finding(str(one)),)]
    raise_findings(error, list(dict.fromkeys(findings)), summary=summary)


def near_misses(name: str, known: Iterable[str], *, limit: int = 3) -> list[str]:
    """The known names closest to a misspelt one, best first."""
    return difflib.get_close_matches(name, list(known), n=limit, cutoff=0.55)
