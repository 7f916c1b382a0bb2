"""The verdict on one sharding: right, refused in words, or a fault.

Two judges that share nothing: `verify`, and a comparison made here, of what the model itself returns, cut by hand as
each rank should hold it, with what each rank returns for inputs that were cut by hand.
"""

import traceback
import warnings
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

import shardwright as sw
from evals.fuzz.asked import Asked
from evals.fuzz.layouts import piece_on_mesh

TOLERANCE = 1e-9
"""Of the largest value of an output in float64."""
SMALLEST = 1e-3
"""Outputs smaller than this are held against it: the exact value of a mean of normalised values is 0."""


@dataclass(frozen=True)
class Verdict:
    """``word``: ``right``, ``words`` or ``fault``; ``kind``: of the words, or of the fault; ``said``: all of it."""

    word: str
    kind: str = ""
    said: str = ""

    @property
    def is_fault(self) -> bool:
        """Whether it is neither right nor refused in words."""
        return self.word == "fault"


RIGHT = Verdict("right")


def refusal(error: Exception) -> Verdict:
    """The verdict on what was raised for something asked: words of ours, or an error from inside."""
    name, said = type(error).__name__, str(error)
    # A rule that does not fit its operator was not asked for; what carries no words helps nobody.
    is_ours = isinstance(error, sw.ShardwrightError) and said and not isinstance(error, (sw.RuleError, sw.RunError))
    if not is_ours:
        return Verdict("fault", name, "".join(traceback.format_exception(error)[-6:]))
    return Verdict("words", name, said)


def judge(model: nn.Module, example: tuple[torch.Tensor, ...], asked: Asked) -> Verdict:
    """Shard a model that takes and returns tensors as asked, and compare every rank's outputs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exported = torch.export.export(model, example)
        try:
            sharded = sw.shard(exported, **asked.options)
        except Exception as error:  # noqa: BLE001 - whatever is raised is the verdict
            return refusal(error)
        try:
            return compared(sharded, exported, model, example, asked)
        except Exception as error:  # noqa: BLE001 - what was sharded has to run
            return Verdict("fault", type(error).__name__, "".join(traceback.format_exception(error)[-6:]))


def compared(
    sharded: sw.ShardedProgram, exported: Any, model: nn.Module, example: tuple[torch.Tensor, ...], asked: Asked
) -> Verdict:
    """Both judges on what was sharded."""
    wrong = _differences(sharded, model, example, asked)
    if wrong:
        return Verdict("fault", "wrong numbers", "\n".join(wrong))
    report = sw.verify(sharded, exported, example, tolerance=TOLERANCE)
    return RIGHT if report.ok else Verdict("fault", "verify", str(report))


def _differences(
    sharded: sw.ShardedProgram, model: nn.Module, example: tuple[torch.Tensor, ...], asked: Asked
) -> list[str]:
    with torch.no_grad():
        # A model may write to its buffers, which the exported program shares.
        wanted = deepcopy(model)(*(x.clone() for x in example))
    wanted = (wanted,) if isinstance(wanted, torch.Tensor) else tuple(wanted)
    sizes = list(asked.mesh.values())
    num_ranks = sharded.mesh.num_ranks
    names = [item.name for item in sharded.program.user_inputs()]
    inputs = [
        [piece_on_mesh(x, _by_axis(asked, asked.inputs, n), sizes, rank) for n, x in zip(names, example, strict=True)]
        for rank in range(num_ranks)
    ]
    found = []
    for rank, outputs in enumerate(sharded.simulation().run_flat(inputs)):
        for position, whole in enumerate(wanted):
            right = piece_on_mesh(whole, _by_axis(asked, asked.outputs, position), sizes, rank)
            if problem := _difference(outputs[position], right, whole):
                found.append(f"output {position} on rank {rank}: {problem}")
    return found


def _by_axis(asked: Asked, layouts: Mapping[str, Mapping[Any, Any]], name: Any) -> Sequence[Any]:
    return [layouts.get(axis, {}).get(name, sw.Replicate()) for axis in asked.mesh]


def _difference(got: torch.Tensor, right: torch.Tensor, whole: torch.Tensor) -> str:
    if got.shape != right.shape or got.dtype != right.dtype:
        return f"{tuple(got.shape)} {got.dtype}, not {tuple(right.shape)} {right.dtype}"
    if not right.numel() or torch.equal(got, right):
        return ""
    if not right.is_floating_point():
        return "other integers"
    largest = max(whole.abs().nan_to_num(0, 0, 0).max().item(), SMALLEST)
    close = torch.isclose(got, right, rtol=0, atol=TOLERANCE * largest, equal_nan=True)
    return "" if bool(close.all()) else f"differs by {(got - right).abs().max().item():.2e} of {largest:.2e}"
