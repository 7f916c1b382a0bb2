"""`Lean`: what is done to make ranks' programs lean, to be turned off where something else reads or rewrites them."""

from dataclasses import dataclass, fields
from typing import Any

from shardwright.errors import ShardwrightError
from shardwright.layout.values import check_flag


@dataclass(frozen=True, slots=True, kw_only=True)
class Lean:
    """Which passes run after partition; numbers are the same with any of them.

    ``schedule``: collectives come as soon as their operands exist, small ones together; without it, in the order in
    which the program needs them. ``drop``: calls that do nothing are left out. ``late_waits``: a value is waited for
    where it is first read; without it, ``wait_tensor`` follows its collective at once, as some compilers' patterns ask.
    ``micro_pipeline``: gathers and reduce-scatters of equal pieces along other dims than the first are written as
    ``split`` and ``cat`` along them, which Inductor's micro-pipelining (``torch._inductor.config._micro_pipeline_tp``)
    fuses with the matmuls beside them on GPUs; elsewhere one copy more. It is for plans with ``sequence_parallel``.

    >>> Lean(late_waits=False).schedule
    True
    """

    schedule: bool = True
    drop: bool = True
    late_waits: bool = True
    micro_pipeline: bool = False

    def __post_init__(self) -> None:
        """Raise `ShardwrightError` for a value that is not True or False."""
        for one in fields(self):
            check_flag(getattr(self, one.name), one.name)

    @classmethod
    def of(cls, given: Any) -> "Lean":
        """What a caller asks for: options, or True for the defaults, or False for none of them."""
        if isinstance(given, Lean):
            return given
        if not isinstance(given, bool):
            raise ShardwrightError(f"lean must be True, False or Lean(…), got {given!r}")
        return cls(schedule=given, drop=given, late_waits=given)


DEFAULTS = Lean()
"""All that is done unless something else is asked for."""
