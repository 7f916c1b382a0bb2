"""Rules against ground truth: every placement of operands and results of a call, valid or not by running the operator.

The ground truth is torch's own (``torch.distributed.tensor._ops.strategy_validation``), made for DTensor's rules. It
runs an operator on pieces with its arguments unchanged. Ours may change them (a size, an index that moves), so a
strategy with a localizer that torch finds invalid is held against `check_strategies` instead.

    python -m evals.operators.truth [--out evals/results/ground_truth.json]
"""

import argparse
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from torch.distributed._local_tensor import LocalTensorMode
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Partial as TorchPartial
from torch.distributed.tensor import Replicate as TorchReplicate
from torch.distributed.tensor import Shard as TorchShard
from torch.distributed.tensor._ops import strategy_validation as truth

from evals import crew
from shardwright.layout.layout import Layout, Partial, Shard, cut_of
from shardwright.rules import REGISTRY
from shardwright.rules.call import leaves, make_call
from shardwright.rules.check import check_strategies, default_strategies
from shardwright.rules.registry import op_names

RESULTS = Path("evals/results/ground_truth.json")
RANKS = 2
MAX_COMBINATIONS = 4000

Combination = tuple[tuple[str, ...], tuple[str, ...]]


@dataclass
class Comparison:
    """One operator: valid combinations, those of them we allow, ours beyond them, and ours that are wrong."""

    samples: int = 0
    valid: int = 0
    allowed: int = 0
    localized: int = 0
    """Ours that hold by changing an argument, which the ground truth cannot see."""
    unsound: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


def core_samples() -> Iterator[tuple[Any, Sequence[Any], dict[str, Any]]]:
    """The rule samples of operators that torch tags ``core``."""
    from tests.support.harness import sample_cases

    for _, op, args, kwargs in sample_cases():
        if torch.Tag.core in op.tags:
            yield op, args, kwargs


def compare(op: Any, args: Sequence[Any], kwargs: dict[str, Any], found: Comparison) -> None:
    """Add one sample call to an operator's comparison."""
    result = op(*args, **kwargs)
    results = leaves(result)
    if not all(isinstance(r, torch.Tensor) for r in results) or any(r.numel() == 0 for r in results):
        return
    wanted = result if isinstance(result, torch.Tensor) else list(results)
    tensors = [t for t in leaves([list(args), kwargs]) if isinstance(t, torch.Tensor)]
    entry = REGISTRY.entry(op)
    rule = entry.build(make_call(op, args, kwargs, result)) if entry is not None else None
    strategies = default_strategies(rule, RANKS) if rule is not None else []
    ours = {key for s in strategies if (key := _key(s.operands, s.results)) is not None}
    options = [_placements(t) for t in tensors]
    outputs = [*_placements(results[0])[: results[0].ndim + 1], TorchPartial("sum"), TorchPartial("max")]
    outputs.append(TorchPartial("min"))
    count = len(outputs)
    for one in options:
        count *= len(one)
    if count > MAX_COMBINATIONS or not tensors:
        return
    found.samples += 1
    valid = _valid(op, args, kwargs, wanted, options, outputs, len(results))
    shapes = [tuple(t.shape) for t in tensors], [tuple(r.shape) for r in results]
    valid = {truth.normalize_combo_key(key, *shapes) for key in valid}
    valid = {key for key in valid if any(p != "R" for p in key[0]) and not _is_trivial(key, valid, results[0])}
    ours = {truth.normalize_combo_key(key, *shapes) for key in ours}
    ours = {key for key in ours if any(p != "R" for p in key[0])}
    found.valid += len(valid)
    found.allowed += len(valid & ours)
    found.missing += [_format(key) for key in sorted(valid - ours)]
    extra = ours - valid
    if extra and rule is not None:
        found.localized += len(extra)
        found.unsound += check_strategies(rule, op, args, kwargs, num_ranks=RANKS)


def _is_trivial(key: Combination, valid: set[Combination], result: torch.Tensor) -> bool:
    """A maximum of equal values, which is the value; or a reduction of truth values, which collectives do not know."""
    operands, results = key
    if all(p.startswith("P") for p in results) and result.dtype == torch.bool:
        return True
    return results[0] in ("P(max)", "P(min)") and (operands, ("R",) * len(results)) in valid


def _placements(tensor: torch.Tensor) -> list[Any]:
    """Whole, cut on each dim that comes apart evenly, or summands."""
    found: list[Any] = [TorchReplicate()]
    found += [TorchShard(d) for d, size in enumerate(tensor.shape) if size % RANKS == 0]
    return found + ([TorchPartial("sum")] if tensor.is_floating_point() else [])


def _valid(
    op: Any,
    args: Sequence[Any],
    kwargs: dict[str, Any],
    wanted: Any,
    options: Sequence[Sequence[Any]],
    outputs: Sequence[Any],
    num_results: int,
) -> set[Combination]:
    mitigations = truth._prepare_aten_mitigations(op, tuple(args), kwargs)
    found = set()
    with LocalTensorMode(frozenset(range(RANKS))):
        mesh = init_device_mesh("cpu", (RANKS,))
        for inputs in itertools.product(*options):
            if all(isinstance(p, TorchReplicate) for p in inputs):
                continue
            for output in outputs:
                results = (output,) * num_results
                if truth._validate_aten_with_mitigations(
                    op, tuple(args), kwargs, inputs, results, wanted, RANKS, mesh, mitigations
                ):
                    found.add((tuple(map(str, inputs)), tuple(map(str, results))))
    return found


def _key(operands: Sequence[Layout], results: Sequence[Layout]) -> Combination | None:
    """A strategy as the ground truth names it; None for cuts it does not know."""
    spelled = [_placement(layout) for layout in (*operands, *results)]
    if any(one is None for one in spelled):
        return None
    names = tuple(str(one) for one in spelled)
    return names[: len(operands)], names[len(operands) :]


def _placement(layout: Layout) -> Any:
    if isinstance(layout, Shard):
        cut = cut_of(layout)
        return TorchShard(layout.dim) if cut.is_even and cut.is_chunked else None
    return TorchPartial(layout.op) if isinstance(layout, Partial) else TorchReplicate()


def _format(key: Combination) -> str:
    return f"{', '.join(key[0])} -> {', '.join(key[1])}"


def compared(name: str) -> dict[str, Any]:
    """One operator's comparison, as it is written down."""
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("fake", rank=0, world_size=RANKS)
    found = Comparison()
    for op, args, kwargs in core_samples():
        if op_names(op)[0] == name:
            compare(op, args, kwargs, found)
    return asdict(found)


def main() -> None:
    """Compare every core operator, or those named, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    names = options.names or sorted({op_names(op)[0] for op, _, _ in core_samples()})
    found = list(track(crew.run(names, compared), description="core operators", total=len(names)))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(sorted(found, key=lambda one: one["name"]), indent=1) + "\n")
    valid, allowed = (sum(one.get(key, 0) for one in found) for key in ("valid", "allowed"))
    unsound = sum(len(one.get("unsound", ())) for one in found)
    print(f"{len(found)} operators: {allowed} of {valid} valid combinations allowed, {unsound} unsound")
    for one in found:
        if one["problem"]:
            print(f"{one['name']}: {one['problem']}")


if __name__ == "__main__":
    main()
