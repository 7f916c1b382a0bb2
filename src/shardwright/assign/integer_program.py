"""Mixed-integer programs, minimised by HiGHS: the relaxation, its neighbourhood, then what is left of the whole."""

from dataclasses import dataclass
from typing import Any

import highspy
import numpy as np

from shardwright.assign.effort import Budget
from shardwright.assign.highs import GAP, PATIENCE, UNUSED, Outcome, NoAnswerError, Rows, Interrupter, dot, solve_aside

_INFEASIBLE = (highspy.HighsModelStatus.kInfeasible, highspy.HighsModelStatus.kUnboundedOrInfeasible)
"""What HiGHS says where no values satisfy the rows (no variable is unbounded)."""


class InfeasibleError(Exception):
    """No values satisfy the rows."""


class NothingBelowError(Exception):
    """No values cost less than the bound that was given."""


@dataclass(frozen=True)
class Answer:
    """The least found of an objective, the variables that give it, and the share of it that may be too much."""

    objective: float
    values: np.ndarray
    gap: float


@dataclass(frozen=True)
class IntegerProgram:
    """``lower ≤ rows · x ≤ upper`` and ``0 ≤ x ≤ upper_bound``; the first ``num_integers`` variables are integers."""

    rows: Rows
    lower: np.ndarray
    upper: np.ndarray
    upper_bound: np.ndarray
    num_integers: int
    budget: Budget

    def minimize(self, cost: np.ndarray, below: float = np.inf, known: np.ndarray | None = None) -> Answer:
        """The least of ``cost · x``; raises `InfeasibleError` or `NoAnswerError` where there is none, and
        `NothingBelowError` where the relaxation shows that it is not below ``below``. ``known``: values that satisfy
        the rows, so that there is an answer whatever HiGHS finds.

        First the linear relaxation, which is a bound; then the program with none but the integer variables that the
        relaxation uses, in whole or in part (relaxation enforced neighbourhood search, Berthold 2014): small, and
        seldom far from the best. Where the bound does not prove it the best, the whole program follows, from that
        answer on and without the variables whose reduced costs say that no better answer has them.
        """
        if not len(cost):
            return Answer(0.0, np.zeros(0), 0.0)
        relaxed = self._run(cost, self.upper_bound, is_relaxed=True)
        bound, allowed = dot(np.minimum(cost, 0), self.upper_bound), self.upper_bound
        held = None if known is None else (dot(cost, known), known)
        if relaxed.is_optimal and relaxed.values is not None:
            bound = max(bound, relaxed.objective)
            if bound >= below:
                raise NothingBelowError
            if relaxed.is_consistent and self._has_integers(relaxed.values):
                return Answer(relaxed.objective, relaxed.values, gap=0.0)
            used = relaxed.values > UNUSED
            used[self.num_integers :] = True
            found = self._run(cost, np.where(used, self.upper_bound, 0.0), has_answer=held is not None)
            if found.values is not None and (held is None or found.objective <= held[0]):
                held = found.objective, found.values
            if held is not None:
                if relative_gap(held[0], bound) <= GAP:
                    return Answer(*held, gap=0.0)
                excluded = relaxed.reduced_costs > (held[0] - bound) + GAP * abs(held[0])
                allowed = np.where(excluded, 0.0, allowed)
        if held is not None and self.budget.is_spent:
            return Answer(*held, gap=relative_gap(held[0], bound))
        result = self._run(cost, allowed, has_answer=held is not None)
        if result.status in _INFEASIBLE or not result.is_consistent:
            # HiGHS's presolve has called solvable programs infeasible whose last row bounds an objective tightly. No
            # variable of ``held`` is excluded, so where there is one, this is not true either.
            result = self._run(cost, allowed, has_answer=held is not None, presolve="off")
        answers = [] if held is None else [held]
        if result.values is not None:
            answers.append((result.objective, result.values))
        if not answers and result.status in _INFEASIBLE:
            raise InfeasibleError
        if not answers:
            raise NoAnswerError(_no_answer(result.status))
        objective, values = min(answers, key=lambda answer: answer[0])
        if result.status not in _INFEASIBLE:
            bound = objective if result.is_optimal else max(bound, result.bound)
        return Answer(objective, values, relative_gap(objective, bound))

    def _has_integers(self, values: np.ndarray) -> bool:
        """Whether the integer variables are integers, as a relaxation of a small program often has them."""
        integers = values[: self.num_integers]
        return bool(np.all(np.abs(integers - np.round(integers)) < UNUSED))

    def _run(
        self,
        cost: np.ndarray,
        upper_bound: np.ndarray,
        *,
        is_relaxed: bool = False,
        has_answer: bool = False,
        presolve: str = "choose",
    ) -> Outcome:
        """The program with these upper bounds of the variables, or its linear relaxation, as HiGHS leaves it.

        ``has_answer``: an answer is known, so that the search may end without another.
        """
        # Fixed settings and one thread: the same answer on every rank and every run. The root is not begun anew: what
        # reduced costs exclude is left out before, and the hard programs of the zoo take half the time without.
        options = {
            "threads": 1,
            "mip_rel_gap": GAP,
            "mip_allow_restart": False,
            "presolve": presolve,
            "time_limit": self.budget.clock.left_s,
        }
        model = self._model(cost, upper_bound, num_integers=0 if is_relaxed else self.num_integers)
        num_coefficients = int(np.count_nonzero(upper_bound[self.rows.columns]))
        return solve_aside(model, cost, options, Interrupter(self.budget, num_coefficients, has_answer))

    def _model(self, cost: np.ndarray, upper_bound: np.ndarray, *, num_integers: int) -> Any:
        model = highspy.HighsLp()
        model.num_col_, model.num_row_ = len(cost), len(self.lower)
        model.col_cost_, model.col_lower_, model.col_upper_ = cost, np.zeros(len(cost)), upper_bound
        model.row_lower_, model.row_upper_ = self.lower, self.upper
        model.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
        model.a_matrix_.start_, model.a_matrix_.index_ = self.rows.starts, self.rows.columns
        model.a_matrix_.value_ = self.rows.values
        if num_integers:
            kinds = [highspy.HighsVarType.kInteger] * num_integers
            model.integrality_ = kinds + [highspy.HighsVarType.kContinuous] * (len(cost) - num_integers)
        return model


def _no_answer(status: Any) -> str:
    """Why there is no answer, and what to do."""
    if status == highspy.HighsModelStatus.kTimeLimit:
        return (
            "the solver found no assignment before the time limit\n"
            "  try: a longer time_limit_s, none at all, or a plan that pins more tensors"
        )
    if status == highspy.HighsModelStatus.kInterrupt:
        return (
            f"the solver found no assignment with {PATIENCE} times its effort\n"
            "  try: effort=4 or more, or a plan that pins more tensors"
        )
    return f"the solver found no assignment: HiGHS ended with {status.name[1:]!r}\n  try: a plan that pins more tensors"


def relative_gap(objective: float, bound: float) -> float:
    """How much of an objective may be too much, as a share of it."""
    return max(objective - bound, 0.0) / abs(objective) if objective else 0.0
