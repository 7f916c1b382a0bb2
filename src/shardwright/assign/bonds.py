"""Disjoint sets: what is bound to what, directly or by way of others."""

from collections.abc import Hashable, Iterable
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)


class Bonds(Generic[T]):
    """Disjoint sets of anything, joined as bonds are found; what was never bound is a set of its own."""

    def __init__(self) -> None:
        self._parents: dict[T, T] = {}
        self.num_joins = 0

    def root(self, one: T) -> T:
        """What stands for all that is bound to this one."""
        path = []
        while (parent := self._parents.get(one, one)) != one:
            path.append(one)
            one = parent
        for passed in path:
            self._parents[passed] = one
        return one

    def join(self, bound: Iterable[T]) -> None:
        """Bind these to each other; the root of the first stands for them from now on."""
        roots = list(dict.fromkeys(self.root(one) for one in bound))
        for other in roots[1:]:
            self._parents[other] = roots[0]
            self.num_joins += 1

    def members(self) -> list[T]:
        """All that is bound to something, in the order in which it was."""
        return list(dict.fromkeys(one for child, parent in self._parents.items() for one in (parent, child)))

    def groups(self) -> list[list[T]]:
        """What is bound to each other, one list for each set of it; sorted, so they need an order."""
        found: dict[T, list[T]] = {}
        for one in sorted(self.members()):  # type: ignore[type-var]
            found.setdefault(self.root(one), []).append(one)
        return list(found.values())
