"""Calls of HiGHS: with fixed settings, in a thread of their own, and with the effort counted."""

import math
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import highspy
import numpy as np

from shardwright.assign.effort import Budget, Clock
from shardwright.errors import AssignmentError

GAP = 1e-8
"""The search ends when its answer is proven to be within this share of the optimum."""

PATIENCE = 10
"""How many times its budget a search may take that has no answer yet."""

UNUSED = 1e-6
"""A variable below this is 0."""


class _Quiet(highspy.Highs):
    """HiGHS without a word: 1.16 prints a banner where it registers its callbacks, before an option can be set."""

    def enableCallbacks(self) -> None:  # noqa: N802 (its name in highspy)
        self.silent()
        super().enableCallbacks()


class NoAnswerError(AssignmentError):
    """HiGHS ended without an answer: a time limit came before the first one, or it failed."""


@dataclass(frozen=True)
class Rows:
    """A sparse matrix, row by row: row ``i`` has ``values[starts[i]:starts[i + 1]]`` in those ``columns``."""

    starts: np.ndarray
    columns: np.ndarray
    values: np.ndarray


@dataclass(frozen=True)
class Outcome:
    """What HiGHS leaves: ``values`` is None where it found none; ``bound``: no answer costs less.

    ``is_consistent``: the values cost what HiGHS says they do. Given a start, 1.16's presolve has proven 100.2 of
    values that cost 110.2, the least: hence no start, and this question. ``num_iterations``: of the simplex method.
    """

    status: Any
    values: np.ndarray | None
    objective: float
    bound: float
    reduced_costs: np.ndarray
    is_consistent: bool = True
    num_iterations: int = 0

    @property
    def is_optimal(self) -> bool:
        """Whether HiGHS says that nothing costs less."""
        return self.status == highspy.HighsModelStatus.kOptimal

    @property
    def is_infeasible(self) -> bool:
        """Whether HiGHS says that no values satisfy the rows (no variable is unbounded)."""
        return self.status in (highspy.HighsModelStatus.kInfeasible, highspy.HighsModelStatus.kUnboundedOrInfeasible)


@dataclass(eq=False)
class Interrupter:
    """What HiGHS calls to learn whether to stop. It counts the calls, and stops the search once the budget is spent and
    there is an answer, or much more would not give one.

    ``steps``: what one call costs. Where HiGHS makes them follows from its work alone, not from the clock.
    """

    budget: Budget
    steps: int
    has_answer: bool
    is_called_off: bool = field(default=False, init=False)

    def __call__(self, event: Any) -> None:
        """Count one call, and stop HiGHS where it is due."""
        self.budget.spend(self.steps)
        has_answer = self.has_answer or np.isfinite(event.data_out.mip_primal_bound)
        overdrawn = 0 if has_answer else PATIENCE * self.budget.steps
        if self.is_called_off or self.budget.left <= -overdrawn:
            event.interrupt()


def solve_aside(model: Any, cost: np.ndarray, options: Mapping[str, Any], interrupter: Interrupter) -> Outcome:
    """What HiGHS leaves of a model, run in a thread of its own.

    HiGHS has a pool of threads for every thread that calls it, as many as its first call there asked for, and refuses
    to run with another number. A new thread has no pool yet, whoever else in this process uses HiGHS.
    """
    with ThreadPoolExecutor(1, "shardwright-highs") as pool:
        try:
            return pool.submit(_solved, model, cost, options, interrupter).result()
        except BaseException:
            # Ctrl-C, above all, which should not have to wait for the answer.
            interrupter.is_called_off = True
            raise


def presolved_size(model: Any, options: Mapping[str, Any]) -> int:
    """How many variables are left of a model once HiGHS has presolved it, in a thread of its own as above."""
    with ThreadPoolExecutor(1, "shardwright-highs") as pool:
        return pool.submit(_presolved_size, model, options).result()


def _presolved_size(model: Any, options: Mapping[str, Any]) -> int:
    solver = loaded(model, options)
    solver.presolve()
    return solver.getPresolvedLp().num_col_


def _solved(model: Any, cost: np.ndarray, options: Mapping[str, Any], interrupter: Interrupter) -> Outcome:
    """What HiGHS leaves of a model under these options."""
    solver = loaded(model, options)
    solver.cbMipInterrupt.subscribe(interrupter)
    return run_loaded(solver, cost, interrupter.budget.clock)


def loaded(model: Any, options: Mapping[str, Any]) -> Any:
    """HiGHS with a model and these options; raises `NoAnswerError` for what it does not take."""
    solver = _Quiet()
    for name, value in options.items():
        _taken(solver.setOptionValue(name, value), f"the option {name}={value}")
    _taken(solver.passModel(model), "the model")
    return solver


def run_loaded(solver: Any, cost: np.ndarray, clock: Clock) -> Outcome:
    """What HiGHS leaves of the model that it holds, of which ``cost`` is the objective."""
    if solver.run() == highspy.HighsStatus.kError and solver.getModelStatus() == highspy.HighsModelStatus.kNotset:
        raise NoAnswerError("HiGHS refused to run, before it looked at the problem")
    status, info, solution = solver.getModelStatus(), solver.getInfo(), solver.getSolution()
    clock.has_struck |= status == highspy.HighsModelStatus.kTimeLimit
    has_values = info.primal_solution_status == highspy.kSolutionStatusFeasible
    values = np.array(solution.col_value) if has_values else None
    claimed = info.objective_function_value
    objective = claimed if values is None else dot(cost, values)
    return Outcome(
        status,
        values,
        objective,
        info.mip_dual_bound,
        np.array(solution.col_dual),
        values is None or bool(np.isclose(objective, claimed, rtol=GAP, atol=1e-4)),
        info.simplex_iteration_count,
    )


def _taken(status: Any, what: str) -> None:
    """Raise where HiGHS did not take what it was given; it also warns (of tiny coefficients)."""
    if status == highspy.HighsStatus.kError:
        raise NoAnswerError(f"HiGHS did not take {what}")


def dot(cost: np.ndarray, values: np.ndarray) -> float:
    """The sum of the products, rounded once: numpy's differs with the number of threads and the kind of processor."""
    return math.fsum(cost * values)


def relative_gap(objective: float, bound: float) -> float:
    """How much of an objective may be too much, as a share of it."""
    return max(objective - bound, 0.0) / abs(objective) if objective else 0.0
