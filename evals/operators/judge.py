"""The judge: one sample program exported, every operand cut on every dim, all ranks simulated, results compared.

Two checks that know nothing of each other: the whole compiler under a plan that pins one dim of one operand, and each
operator's rule by itself, every strategy of it run on cut tensors.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn
from torch.export import ExportedProgram

import shardwright as sw
from shardwright.errors import RuleError
from shardwright.layout.layout import Shard
from shardwright.rules import REGISTRY
from shardwright.rules.call import leaves, make_call
from shardwright.rules.check import check_strategies, default_strategies

RANKS = (2, 4)
UNINITIALISED = (
    "aten::empty",
    "aten::new_empty",
    "aten::empty_like",
    "aten::empty_strided",
    "aten::empty_permuted",
    "aten::new_empty_strided",
)


@dataclass
class Findings:
    """What was seen of one operator over its samples."""

    samples: int = 0
    pins: int = 0
    """Programs compared: one a pinned dim, graph style and number of ranks."""
    wrong: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    unexported: list[str] = field(default_factory=list)
    fallbacks: dict[str, str] = field(default_factory=dict)
    """Operators that ran whole on every rank, and why."""
    dims: int = 0
    """Operand dims of all operator calls that could be cut, and how many of them their rules cut."""
    cut: int = 0
    undefined: bool = False


def judge(program: nn.Module, findings: Findings, where: str) -> None:
    """Add what one sample program shows to the findings of its operator."""
    findings.samples += 1
    try:
        with torch.no_grad():
            torch.manual_seed(0)
            exported = torch.export.export(program, ())
    except Exception as error:  # noqa: BLE001 - whatever keeps the operator from being exported is the finding
        findings.unexported.append(f"{where}: {_first_line(error)}")
        return
    seen = set()
    for style in ("as exported", "decomposed"):
        if style == "decomposed":
            try:
                exported = exported.run_decompositions()
            except Exception as error:  # noqa: BLE001
                findings.unexported.append(f"{where}: decomposing: {_first_line(error)}")
                return
        code = exported.graph_module.code
        if code in seen:
            continue
        seen.add(code)
        _judge_graph(exported, findings, f"{where}, {style}")


def _judge_graph(exported: ExportedProgram, findings: Findings, where: str) -> None:
    calls = [n for n in exported.graph.nodes if n.op == "call_function" and hasattr(n.target, "_schema")]
    if any(n.target._schema.name in UNINITIALISED and n.meta["val"].numel() for n in calls):
        findings.undefined = True
        return
    try:
        with torch.no_grad():
            exported.module()()
    except Exception as error:  # noqa: BLE001 - an operator for another device, say
        findings.unexported.append(f"{where}: the exported program itself cannot run: {_first_line(error)}")
        return
    for num_ranks in RANKS:
        for plan in plans(exported, num_ranks):
            findings.pins += 1
            place = f"{where}, {num_ranks} ranks, {', '.join(f'{k}: {v}' for k, v in plan.items()) or 'nothing pinned'}"
            try:
                sharded = sw.shard(exported, mesh=num_ranks, plan=plan)
                report = sw.verify(sharded, exported, (), tolerance=1e-5)
            except sw.ShardwrightError as error:
                findings.refused.append(f"{place}: {_first_line(error)}")
                continue
            except Exception as error:  # noqa: BLE001 - a traceback from inside is as bad as a wrong number
                findings.wrong.append(f"{place}: {type(error).__name__}: {_first_line(error)}")
                continue
            findings.fallbacks.update({f.op: f.reason for f in sharded.fallbacks})
            if not report.ok:
                findings.wrong.append(f"{place}: {report.first_wrong or str(report).splitlines()[1]}")
    _Rules(exported.graph_module, findings, where).check(exported)


def plans(exported: ExportedProgram, num_ranks: int) -> Iterator[dict[str, Any]]:
    """One plan for every dim of every buffer that is long enough to be cut; the empty one when there is none."""
    found = [
        {name: Shard(dim)}
        for name, tensor in exported.state_dict.items()
        for dim, size in enumerate(tensor.shape)
        if size >= num_ranks
    ]
    yield from found or [{}]


class _Rules(fx.Interpreter):
    """Runs a graph on its real tensors and checks the rule of every call on the way."""

    def __init__(self, module: fx.GraphModule, findings: Findings, where: str) -> None:
        super().__init__(module)
        self.findings, self.where = findings, where

    def check(self, exported: ExportedProgram) -> None:
        """Check every call of the graph."""
        state = {**exported.state_dict, **exported.constants}
        # Tokens, which order operators with effects, have no target and no data.
        inputs = [state.get(str(spec.target), torch.empty(0)) for spec in exported.graph_signature.input_specs]
        with torch.no_grad():
            self.run(*inputs)

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        result = super().call_function(target, args, kwargs)
        if not hasattr(target, "_schema") or not isinstance(leaves([result])[0], torch.Tensor):
            return result
        if not any(isinstance(leaf, torch.Tensor) for leaf in leaves([args, kwargs])):
            return result
        entry = REGISTRY.entry(target)
        call = make_call(target, args, kwargs, result)
        dims = {(i, d) for i, meta in enumerate(call.operands) for d, size in enumerate(meta.shape) if size > 1}
        self.findings.dims += len(dims)
        try:
            rule = entry.build(call) if entry is not None else None
        except RuleError as error:
            # The compiler runs such a call whole and says so; the table could do better.
            self.findings.fallbacks[str(target)] = str(error)
            return result
        if rule is None:
            return result
        for num_ranks in (*RANKS, 3):
            problems = check_strategies(rule, target, args, kwargs, num_ranks=num_ranks)
            self.findings.wrong += [f"{self.where}, rule of {target}, {num_ranks} ranks: {p}" for p in problems]
        strategies = default_strategies(rule, 2)
        self.findings.cut += sum(
            any(isinstance(s.operands[i], Shard) and s.operands[i].dim == d for s in strategies) for i, d in dims
        )
        return result


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # The files of this folder by their path in it, wherever it lies.
    return f"{type(error).__name__}: {lines[0][:300].replace(f'{Path.cwd()}/', '') if lines else ''}"
