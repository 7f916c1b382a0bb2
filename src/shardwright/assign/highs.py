"""Mixed-integer programs, minimised by HiGHS: the relaxation, its neighbourhood, then what is left of the whole."""

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.optimize

from shardwright.errors import AssignmentError

_OPTIMAL, _INFEASIBLE = 0, 2
"""The statuses by which scipy says so."""

_LEAST_S = 1.0
"""What every step of the search gets, however much of the time limit those before it took."""

GAP = 1e-6
"""The search ends when its answer is proven to be within this share of the optimum."""

UNUSED = 1e-6
"""A variable below this is 0."""


class InfeasibleError(Exception):
    """No values satisfy the rows."""


class OutOfTimeError(AssignmentError):
    """The time limit came before the first answer."""


@dataclass(frozen=True)
class Answer:
    """The least found of an objective, the variables that give it, and the share of it that may be too much."""

    objective: float
    values: np.ndarray
    gap: float


@dataclass(frozen=True)
class Program:
    """``lower ≤ matrix · x ≤ upper`` and ``0 ≤ x ≤ upper_bound``; the first ``num_integers`` variables are integers.

    Rows are equations or bounded from above only.
    """

    matrix: Any
    lower: np.ndarray
    upper: np.ndarray
    upper_bound: np.ndarray
    num_integers: int
    time_limit_s: float

    def minimize(self, cost: np.ndarray) -> Answer:
        """The least of ``cost · x``; raises `InfeasibleError` or `OutOfTimeError` where there is none.

        First the linear relaxation, which is a bound; then the program with none but the integer variables that the
        relaxation uses, in whole or in part (relaxation enforced neighbourhood search, Berthold 2014): small, and
        seldom far from the best. Where the bound does not prove it the best, the whole program follows, without the
        variables whose reduced costs say that no better answer has them.
        """
        if not len(cost):
            return Answer(0.0, np.zeros(0), 0.0)
        deadline = time.monotonic() + self.time_limit_s
        relaxed = self._relaxation(cost, deadline)
        held, bound, allowed = None, -np.inf, self.upper_bound
        if relaxed is not None:
            bound = relaxed.fun
            used = relaxed.x > UNUSED
            used[self.num_integers :] = True
            held = self._search(cost, np.where(used, self.upper_bound, 0.0), deadline)
            if held.x is not None:
                if relative_gap(held.fun, bound) <= GAP:
                    return Answer(float(held.fun), held.x, 0.0)
                excluded = relaxed.lower.marginals > (held.fun - bound) + GAP * abs(held.fun)
                allowed = np.where(excluded, 0.0, allowed)
        result = self._search(cost, allowed, deadline)
        if result.status == _INFEASIBLE:
            # HiGHS's presolve has called solvable programs infeasible whose last row bounds an objective tightly. No
            # variable of ``held`` is excluded, so where there is one, this is not true either.
            result = self._search(cost, allowed, deadline, presolve=False)
        answers = [answer for answer in (held, result) if answer is not None and answer.x is not None]
        if not answers and result.status == _INFEASIBLE:
            raise InfeasibleError
        if not answers:
            raise OutOfTimeError(
                f"the solver found no assignment within {self.time_limit_s:.0f} s ({result.message})\n"
                "  try: a plan that pins more tensors, or a longer time limit"
            )
        best = min(answers, key=lambda answer: answer.fun)
        proven = best.fun if result.status == _OPTIMAL else max(bound, result.mip_dual_bound or bound)
        return Answer(float(best.fun), best.x, relative_gap(best.fun, proven))

    def _relaxation(self, cost: np.ndarray, deadline: float) -> Any:
        """The linear relaxation, solved, with reduced costs; None where HiGHS does not get to its end."""
        equal = self.lower == self.upper
        with _quiet_stdout():
            result = scipy.optimize.linprog(
                cost,
                A_ub=self.matrix[~equal],
                b_ub=self.upper[~equal],
                A_eq=self.matrix[equal],
                b_eq=self.upper[equal],
                bounds=np.stack([np.zeros(len(cost)), self.upper_bound], axis=1),
                method="highs",
                options={"time_limit": _left(deadline)},
            )
        return result if result.status == _OPTIMAL else None

    def _search(self, cost: np.ndarray, upper_bound: np.ndarray, deadline: float, *, presolve: bool = True) -> Any:
        """The mixed-integer program with these upper bounds of the variables, as HiGHS leaves it."""
        integrality = np.zeros(len(cost))
        integrality[: self.num_integers] = 1
        with _quiet_stdout():
            return scipy.optimize.milp(
                cost,
                constraints=scipy.optimize.LinearConstraint(self.matrix, self.lower, self.upper),
                integrality=integrality,
                bounds=scipy.optimize.Bounds(0, upper_bound),
                options={"time_limit": _left(deadline), "mip_rel_gap": GAP, "presolve": presolve},
            )


def relative_gap(objective: float, bound: float) -> float:
    """How much of an objective may be too much, as a share of it."""
    return max(objective - bound, 0.0) / abs(objective) if objective else 0.0


def _left(deadline: float) -> float:
    return max(deadline - time.monotonic(), _LEAST_S)


@contextlib.contextmanager
def _quiet_stdout() -> Iterator[None]:
    """HiGHS prints a line of its own to file descriptor 1 now and then, whatever its options say.

    Programs that print JSON cannot have that, so the descriptor points elsewhere while it runs.
    """
    sys.stdout.flush()
    saved, sink = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(sink, 1)
        yield
    finally:
        os.dup2(saved, 1)
        os.close(saved)
        os.close(sink)
