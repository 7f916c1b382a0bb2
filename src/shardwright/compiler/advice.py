"""What a sharded program's owner should know though nothing is wrong: as warnings."""

import warnings

from shardwright.assign.integer_program import PROVEN
from shardwright.compiler.sharded import ShardedProgram
from shardwright.errors import GatherWarning, SolverWarning

GATHERED_WORTH_SAYING = 0.01
"""Weights gathered at every call are a warning above this share of all weight bytes."""


def advise(sharded: ShardedProgram, time_limit_s: float | None) -> None:
    """Warn where the solver stopped before its answer was proven the best, and of weights gathered at every call.

    To be called by `shardwright.shard`: the warnings point at its caller.
    """
    if text := _early_end(sharded, time_limit_s):
        warnings.warn(text, SolverWarning, stacklevel=4)
    if text := _gathered(sharded):
        warnings.warn(text, GatherWarning, stacklevel=4)


def _early_end(sharded: ShardedProgram, time_limit_s: float | None) -> str:
    bound = f"its answer may cost up to {sharded.gap:.0%} more than the best one"
    if sharded.hit_time_limit:
        return (
            f"the time limit of {time_limit_s:g} s ended the solver: {bound}, and another run may find another\n"
            "  try: a longer time_limit_s or none at all, or a plan that pins more tensors"
        )
    if sharded.gap > PROVEN:
        return (
            f"the solver stopped when its effort was spent: {bound}\n"
            "  try: effort=4 or more, or a plan that pins more tensors"
        )
    return ""


def _gathered(sharded: ShardedProgram) -> str:
    gathered = sharded.gathered_weights
    tensors = {id(w.tensor): w.tensor for w in sharded.program.weights.values()}.values()
    total = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    moved = sum(one.num_bytes for one in gathered)
    if moved <= GATHERED_WORTH_SAYING * total:
        return ""
    some = "; ".join(map(str, gathered[:3])) + (f"; and {len(gathered) - 3} more" if len(gathered) > 3 else "")
    return (
        f"weights of {moved:,} bytes ({moved / max(total, 1):.0%} of all) are gathered at every call: {some}\n"
        "  try: a plan that leaves them whole or cuts what reads them likewise; `gathered_weights` lists them"
    )
