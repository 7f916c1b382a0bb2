"""How much the solver may do: counted in steps of its own, so that neither load nor clock changes an answer."""

import math
import time
from dataclasses import dataclass, field

from shardwright.layout.values import check_number

STEPS = 2e8
"""The default effort: about a minute of one core, where a minute is needed at all."""


@dataclass
class Clock:
    """A wall-clock limit; without one, answers are the same wherever they are found.

    ``deadline``: by ``time.monotonic()``. ``has_struck``: whether anything was left out for want of time.
    """

    deadline: float = math.inf
    has_struck: bool = False

    @staticmethod
    def of(time_limit_s: float | None) -> "Clock":
        """A limit that begins now; None for none."""
        if time_limit_s is None:
            return Clock()
        return Clock(time.monotonic() + check_number(time_limit_s, "time_limit_s (seconds, or None)", above=0))

    @property
    def left_s(self) -> float:
        """The time that is left, infinite without a limit; to have none left is to have struck."""
        left = self.deadline - time.monotonic() if math.isfinite(self.deadline) else math.inf
        self.has_struck |= left <= 0
        return max(left, 0.0)


@dataclass
class Budget:
    """What one program on one axis may take of the solver: ``steps``, of which some are spent, and time.

    Whenever HiGHS asks whether to stop (at a node, a candidate to branch on, a round of cuts), that is as many steps as
    the problem has coefficients. `assign.branch` says how many a relaxation is.
    """

    steps: float = STEPS
    clock: Clock = field(default_factory=Clock)
    spent: float = 0.0

    @staticmethod
    def of(effort: float, clock: Clock) -> "Budget":
        """``effort`` times what is usual."""
        return Budget(check_number(effort, "effort (1 is usual)", above=0) * STEPS, clock)

    @property
    def left(self) -> float:
        """The steps that are left; negative where the last ones were more than that."""
        return self.steps - self.spent

    @property
    def is_spent(self) -> bool:
        """Whether nothing is left, of steps or of time."""
        return self.left <= 0 or self.clock.left_s <= 0

    def spend(self, steps: float) -> None:
        """Count what was done."""
        self.spent += steps

    def at_least(self, steps: float) -> "Budget":
        """A budget of its own, with what is left of this one or this much."""
        return Budget(max(self.left, steps), self.clock)
