"""Mixed-integer programs, minimised: the relaxation, a search that branches, then what is left of the whole."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import highspy
import numpy as np

from shardwright.assign.branch import BranchAndBound, ChoiceGroups, Held
from shardwright.assign.effort import Budget
from shardwright.assign.highs import (
    GAP,
    PATIENCE,
    Interrupter,
    NoAnswerError,
    Outcome,
    Rows,
    dot,
    presolved_size,
    relative_gap,
    solve_aside,
)
from shardwright.assign.relaxation import Relaxation

SHARE = 0.25
"""Of the budget, what branching may take before HiGHS's own search has the rest."""

PROVEN = 1e-3
"""A larger gap, as a share of the cost, says that the search ended early; ..."""

PROVEN_SHARE = 1 / 16
"""... to make a smaller one smaller still is worth this much of the budget."""


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
    """``lower ≤ rows · x ≤ upper`` and ``0 ≤ x ≤ upper_bound``; the variables of ``choices`` are integers."""

    rows: Rows
    lower: np.ndarray
    upper: np.ndarray
    upper_bound: np.ndarray
    choices: ChoiceGroups
    budget: Budget

    def minimize(self, cost: np.ndarray, below: float = np.inf, known: np.ndarray | None = None) -> Answer:
        """The least of ``cost · x``; raises `InfeasibleError` or `NoAnswerError` where there is none, and
        `NothingBelowError` where it is found not to be below ``below``. ``known``: values that satisfy the rows, so
        that there is an answer whatever HiGHS finds.

        First the linear relaxation, which is a bound; then a search that branches on choices (`assign.branch`). Around
        its first relaxations it looks for answers in the program with none but the integer variables that a relaxation
        uses, in whole or in part (relaxation enforced neighbourhood search, Berthold 2014): small, and seldom far from
        the best. Where that search has not ended with its share of the budget, HiGHS's own follows on the whole
        program, from the answer held on and without the variables whose reduced costs say that no better one has them.
        """
        if not len(cost):
            return Answer(0.0, np.zeros(0), 0.0)
        bound, allowed = dot(np.minimum(cost, 0), self.upper_bound), self.upper_bound
        is_enough = partial(self._is_enough, self.budget.spent)
        held = None if known is None else (dot(cost, known), known)
        model = self._model(cost, self.upper_bound, num_integers=0)
        with Relaxation(model, cost, self._options(), self.budget.clock) as relaxation:
            relaxed = relaxation.solve(self.upper_bound)
            values = relaxed.values if relaxed.is_optimal and relaxed.is_consistent else None
            if values is not None:
                if relaxed.objective >= below:
                    raise NothingBelowError
                if not len(self.choices.undecided(values)):
                    return Answer(relaxed.objective, values, gap=0.0)
                solve, size = partial(self._run, cost), partial(self._presolved_size, cost)
                search = BranchAndBound(relaxation, self.choices, solve, size, self.budget, below, held)
                held, bound = self._branch(search, relaxed, is_enough)
        if held is not None:
            gap = relative_gap(held[0], bound)
            if gap == 0 or self.budget.is_spent or (gap <= PROVEN and is_enough(gap)):
                return Answer(*held, gap)
            if values is not None:
                excluded = relaxed.reduced_costs > (held[0] - relaxed.objective) + GAP * abs(held[0])
                allowed = np.where(excluded, 0.0, allowed)
        return self._whole(cost, allowed, held, bound)

    def _branch(
        self, search: BranchAndBound, relaxed: Outcome, is_enough: Callable[[float], bool]
    ) -> tuple[Held | None, float]:
        """What is held after a search from ``relaxed`` on, and a bound: no answer costs less."""
        left = search.run(relaxed, self.upper_bound, is_enough)
        if left < search.cutoff:
            return search.held, left
        if search.held is not None and search.held[0] < search.below:
            return search.held, search.held[0]
        if search.below < np.inf:
            raise NothingBelowError
        # No answer on either side of any choice: HiGHS is to say that there is none.
        return None, relaxed.objective

    def _whole(self, cost: np.ndarray, allowed: np.ndarray, held: Held | None, bound: float) -> Answer:
        """HiGHS's own search, under these upper bounds. ``held``: an answer; ``bound``: none costs less."""
        result = self._run(cost, allowed, has_answer=held is not None)
        if result.is_infeasible or not result.is_consistent:
            # HiGHS's presolve has called solvable programs infeasible whose last row bounds an objective tightly. No
            # variable of ``held`` is excluded, so where there is one, this is not true either.
            result = self._run(cost, allowed, has_answer=held is not None, presolve="off")
        answers = [] if held is None else [held]
        if result.values is not None:
            answers.append((result.objective, result.values))
        if not answers and result.is_infeasible:
            raise InfeasibleError
        if not answers:
            raise NoAnswerError(_no_answer(result.status))
        objective, values = min(answers, key=lambda answer: answer[0])
        if not result.is_infeasible:
            bound = objective if result.is_optimal else max(bound, result.bound)
        return Answer(objective, values, relative_gap(objective, bound))

    def _is_enough(self, began: float, gap: float) -> bool:
        """Whether branching has had its share of the budget since ``began``, for a gap that is not closed yet."""
        share = PROVEN_SHARE if gap <= PROVEN else SHARE
        return self.budget.is_spent or self.budget.spent - began >= share * (self.budget.steps - began)

    def _presolved_size(self, cost: np.ndarray, upper_bound: np.ndarray) -> int:
        """How many variables HiGHS leaves of the program under these upper bounds."""
        return presolved_size(self._model(cost, upper_bound, num_integers=self.choices.starts[-1]), self._options())

    def _run(
        self, cost: np.ndarray, upper_bound: np.ndarray, *, has_answer: bool = False, presolve: str = "choose"
    ) -> Outcome:
        """The program with these upper bounds of the variables, as HiGHS leaves it.

        ``has_answer``: an answer is known, so that the search may end without another.
        """
        model = self._model(cost, upper_bound, num_integers=self.choices.starts[-1])
        num_coefficients = int(np.count_nonzero(upper_bound[self.rows.columns]))
        options = {**self._options(), "presolve": presolve}
        return solve_aside(model, cost, options, Interrupter(self.budget, num_coefficients, has_answer))

    def _options(self) -> dict[str, Any]:
        """Fixed settings and one thread: the same answer on every rank and every run.

        The root is not begun anew: what reduced costs exclude is left out before, and the hard programs of the zoo
        take half the time without. Preferences are as small as HiGHS's usual tolerance of a reduced cost (1e-7), so
        that is the least it allows.
        """
        return {
            "threads": 1,
            "mip_rel_gap": GAP,
            "mip_allow_restart": False,
            "dual_feasibility_tolerance": 1e-10,
            "time_limit": self.budget.clock.left_s,
        }

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
