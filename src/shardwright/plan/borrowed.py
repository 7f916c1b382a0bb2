"""Plans written for a family of models rather than for one program: fitted to a program before they are used.

Such a plan may name modules below a prefix that the program adds, and modules that this member of the family lacks or
this program never runs (the tower for images, of a model exported for text).
Fitting finds the prefix and leaves out what is not there, with a `PlanWarning` that names it; a plan of which nothing
is there is an error.
"""

import warnings
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from shardwright.errors import PlanError, PlanWarning
from shardwright.plan.patterns import matches


@dataclass(frozen=True, slots=True)
class BorrowedEntries:
    """Entries whose keys are relative to one module of the program; ``origin`` says where they were found."""

    entries: Mapping[str, Any]
    origin: str


@dataclass(frozen=True, slots=True)
class BorrowedPlan:
    """Parts of a plan, each with a prefix of its own to be found. Made by `hf_plan` and `autodeploy_plan`."""

    parts: tuple[BorrowedEntries, ...]

    def fit(self, modules: Iterable[str], tensors: Iterable[str], idle: Collection[str] = ()) -> dict[str, Any]:
        """The entries that match a module or tensor of a program, with their prefixes in front.

        ``idle``: names that count for finding a prefix only, as the program does not use what they name.

        Raises `PlanError` when no entry of a part matches, or when several prefixes would do.
        """
        known = [name for name in (*modules, *tensors) if name]
        used = [name for name in known if name not in idle]
        fitted: dict[str, Any] = {}
        absent: list[str] = []
        for part in self.parts:
            prefix = find_prefix(part, known)
            for key, style in part.entries.items():
                # An outer class's own entries (its head) may stand among those of the model inside it.
                found = next((name for name in (prefix + key, key) if matches(name, used)), None)
                if found is None:
                    absent.append(key)
                else:
                    fitted[found] = style
        if absent:
            warnings.warn(
                f"the program has no {', '.join(map(repr, absent))}, or does not use them: "
                "these entries of the borrowed plan are left out",
                PlanWarning,
                stacklevel=2,
            )
        return fitted


def move_inside(plan: Mapping[str, Any], modules: Iterable[str], tensors: Iterable[str]) -> Mapping[str, Any]:
    """A plan whose keys are relative to an inner module, as a model's config has it, with that module's path in front.

    Only where no key matches as it stands and one path makes every key match; else the plan itself.
    """
    known = [name for name in (*modules, *tensors) if name]
    if not plan or not all(isinstance(key, str) for key in plan) or any(matches(key, known) for key in plan):
        return plan
    try:
        prefix = find_prefix(BorrowedEntries(plan, "the mapping"), known)
    except PlanError:
        return plan
    moved = {prefix + key: style for key, style in plan.items()}
    return moved if all(matches(key, known) for key in moved) else plan


def find_prefix(part: BorrowedEntries, names: list[str]) -> str:
    """What to put in front of a part's keys (empty, or ending in a dot) so that the most of them match.

    Keys that match as they stand count for every prefix.
    """
    standing = {key for key in part.entries if matches(key, names)}
    counts = {"": len(standing)}
    for prefix in sorted({p for name in names for p in _prefixes(name)}, key=lambda p: (p.count("."), p)):
        inside = [name for name in names if name.startswith(prefix)]
        counts[prefix] = len(standing | {key for key in part.entries if matches(prefix + key, inside)})
    most = max(counts.values())
    best = [prefix for prefix, count in counts.items() if count == most]  # the empty prefix comes first
    if most == 0:
        raise PlanError(
            f"no entry of the plan from {part.origin} matches a module or tensor of the program\n"
            f"  its keys: {', '.join(map(repr, list(part.entries)[:4]))} …\n"
            "  try: list the names with `shardwright inspect`, or pass a mapping with keys of this program"
        )
    if len(best) > 1 and best[0]:
        raise PlanError(
            f"the plan from {part.origin} fits several parts of the program: "
            f"{', '.join(repr(p.rstrip('.')) for p in best)}\n"
            "  try: plan={f'PART.{key}': style for key, style in plan.items()} with the part that is meant"
        )
    return best[0]


def _prefixes(name: str) -> Iterable[str]:
    tokens = name.split(".")
    # Below a numbered module there are many alike, and a plan is not written for one layer.
    for depth in range(1, len(tokens)):
        if tokens[depth - 1].isdigit():
            return
        yield ".".join(tokens[:depth]) + "."
