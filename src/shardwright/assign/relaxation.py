"""`Relaxation`: a linear program, solved again and again with other upper bounds."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

import numpy as np

from shardwright.assign.effort import Clock
from shardwright.assign.highs import Outcome, loaded, run_loaded


class Relaxation:
    """A linear program that HiGHS keeps: each time it is solved from the basis that the last time left.

    ``cost``: of each variable, as in ``model``. ``num_coefficients``: of its rows. It is a context, whose thread ends
    with it (`shardwright.assign.highs.solve_aside` says why it has one).
    """

    def __init__(self, model: Any, cost: np.ndarray, options: Mapping[str, Any], clock: Clock) -> None:
        """Raises `NoAnswerError` where HiGHS does not take the model or an option."""
        self.num_coefficients = len(model.a_matrix_.value_)
        self._cost, self._clock = cost, clock
        self._bounds = np.array(model.col_upper_)
        self._thread = ThreadPoolExecutor(1, "shardwright-highs")
        self._solver = self._thread.submit(loaded, model, options).result()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._thread.shutdown()

    def solve(self, upper_bound: np.ndarray) -> Outcome:
        """The least with these upper bounds of the variables, as HiGHS leaves it."""
        return self._thread.submit(self._solved, upper_bound).result()

    def _solved(self, upper_bound: np.ndarray) -> Outcome:
        changed = np.flatnonzero(self._bounds != upper_bound).astype(np.int32)
        if len(changed):
            self._solver.changeColsBounds(len(changed), changed, np.zeros(len(changed)), upper_bound[changed])
            self._bounds = upper_bound
        return run_loaded(self._solver, self._cost, self._clock)
