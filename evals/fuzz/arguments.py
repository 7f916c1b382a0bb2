"""Random arguments of the public functions: good ones, some of them replaced by what nobody should pass.

Arguments are kept as Python expressions, so that a failing call can be pasted.
"""

import math
import os
import random
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

import shardwright as sw
from evals.fuzz.judge import RIGHT, TOLERANCE, Verdict, refusal
from evals.fuzz.shorten import shorten
from shardwright.assign.cost import CostModel
from shardwright.rules import REGISTRY

JUNK = """
None; True; 0; -1; 1.5; 2; 7; 2**70; -2**70; 1e300; math.nan; math.inf; -math.inf; 1j; ''; 'tp'; 'auto'; 'hf'
'colwise'; '0'; 'input'; 'nope.yaml'; 'a\\0b'; 'ü' * 300; b'bytes'; []; [2]; [None]; (1, 2); (); {}; {3: 1}
{'tp': 2}; {'tp': True}; {'tp': {}}; {'tp': None}; {None: None}; {(1, 2): 3}; {'0': 'colwise'}; {'0': 'colwize'}
{'[z-a]': 'colwise'}; {'*': 3}; {'0': sw.Shard(0)}; {'0.weight': sw.Shard(5)}; {'0.bias': sw.Partial()}
{'input': sw.Shard(0)}; {'input': None}; {0: sw.Shard(0)}; {9: sw.Shard(0)}; {'all_reduce': 1}
{'all_reduce': -1}; set(); frozenset({1}); object(); range(3); torch.float32; torch.ones(2); torch.ones(())
torch.tensor(2); torch.device('cpu'); torch.nn.Linear(2, 2); torch.Size([2]); sw.Shard; sw.Shard(0)
sw.Shard(-9); sw.Replicate(); sw.Replicate; sw.Partial('max'); sw.Blocks(unit=3); int; len; lambda: 0; Path('.')
Path('/'); Path('nope'); print; Ellipsis; NotImplemented; Exception('x'); float('1e-320'); 10**9
"""
"""What replaces good arguments: ``;`` or a new line between expressions."""

GOOD: dict[str, dict[str, str]] = {
    "shard": {
        "exported": "exported()",
        "mesh": "2",
        "plan": "{'0': 'colwise', '2': 'rowwise'}",
        "inputs": "None",
        "outputs": "None",
        "budget": "None",
        "cost": "None",
        "slack": "0.1",
        "effort": "1.0",
        "time_limit_s": "None",
        "discover": "False",
        "dump": "None",
    },
    "tensor_parallel_transformation": {
        "exported_program": "exported()",
        "rank": "1",
        "world_size": "2",
        "device_type": "'cpu'",
        "parallel_strategies": "{'0': 'colwise', '2': 'rowwise'}",
    },
    "verify": {
        "sharded": "sharded()",
        "original": "exported()",
        "example_inputs": "(torch.ones(4, 8, dtype=torch.float64),)",
        "kwargs": "None",
        "tolerance": "None",
    },
    "ShardedProgram.exported": {"self": "sharded()", "rank": "1", "group_names": "None"},
    "Mesh.of": {"mesh": "{'dp': 2, 'tp': 3}"},
    "Shard": {"dim": "0", "cut": "sw.Blocks(unit=2)"},
    "Blocks": {"parts": "(8, 8)", "unit": "2"},
    "Partial": {"op": "'sum'"},
    "Sampling": {"temperature": "0.5", "top_p": "0.9", "seed": "3"},
    "CostModel": {
        "latency_us": "10.0",
        "link_bytes_per_us": "2e5",
        "memory_bytes_per_us": "2e6",
        "flops_per_us": "4e8",
    },
    "hf_plan": {"source": "{'0': 'colwise'}"},
    "autodeploy_plan": {"config": "{'tp_plan': {'0': 'colwise'}}"},
    "register_rule": {
        "name": "'aten::mm'",
        "notation": "'m k, k n -> m n'",
        "linear": "[[0], [1]]",
        "added": "()",
        "reduce": "'sum'",
        "size_arg": "None",
    },
    "check_rule": {"op": "'aten::mm'", "num_ranks": "(2, 3)", "tolerance": "1e-5"},
    "discover_rule": {"op": "'aten::mul.Tensor'"},
    "rebind": {"exported": "sharded().exported(0)", "group_names": "{'tp': 'other'}"},
    "ShardedProgram.save": {"self": "sharded()", "path": "'saved'"},
    "load": {"path": "package()", "device": "None", "check": "True", "timeout_s": "60.0", "backend": "'eager'"},
    "gather": {"package": "package()", "output": "'state.safetensors'"},
    "reshard": {"package": "package()", "output": "'other'", "mesh": "2", "plan": "None"},
}
"""Public functions with good arguments."""

SAMPLES = {"check_rule": (torch.ones(4, 6), torch.ones(6, 5)), "discover_rule": (torch.ones(4, 6), torch.ones(6))}
"""Positional sample tensors of functions that take some behind the first argument."""


@dataclass(frozen=True)
class Call:
    """A call of a public function, its arguments as expressions."""

    function: str
    arguments: dict[str, str]

    def verdict(self) -> Verdict:
        """Right where it is taken (and what was sharded is right), or refused in words."""
        before, rule = Path.cwd(), REGISTRY.entry_named("aten::mm")
        assert rule is not None, "mm has a rule"
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            os.chdir(folder)
            try:
                return self._verdict()
            finally:
                os.chdir(before)
                REGISTRY.add("aten::mm", rule, replace=True)

    def _verdict(self) -> Verdict:
        try:
            arguments = {name: _value(text) for name, text in self.arguments.items()}
        except sw.LayoutError:
            return RIGHT  # An argument of an argument was refused.
        function = _function(self.function)
        try:
            found = _called(function, self.function, arguments)
        except Exception as error:  # noqa: BLE001 - whatever is raised is the verdict
            # A rule is what these are asked about.
            asked = self.function in ("register_rule", "check_rule", "discover_rule")
            return Verdict("words", "RuleError", str(error)) if asked and _is_words(error) else refusal(error)
        if isinstance(found, sw.ShardedProgram) and self.function == "shard":
            report = sw.verify(found, _exported(), (torch.ones(4, 8, dtype=torch.float64),), tolerance=TOLERANCE)
            return RIGHT if report.ok else Verdict("fault", "wrong numbers", str(report))
        return RIGHT

    def __str__(self):
        return f"{self.function}({', '.join(f'{name}={text}' for name, text in self.arguments.items())})"


def _is_words(error: Exception) -> bool:
    return isinstance(error, sw.RuleError) and bool(str(error))


def draw_call(seed: int) -> Call:
    """A call with one to three arguments replaced."""
    dice = random.Random(f"arguments {seed}")
    function = dice.choice([*GOOD, *["shard"] * 6])
    arguments = dict(GOOD[function])
    names = sorted(arguments.keys() - {"self"})
    for name in dice.sample(names, min(len(names), dice.choice((1, 1, 2, 3)))):
        arguments[name] = dice.choice(_junk())
    return Call(function, arguments)


@cache
def _junk() -> list[str]:
    return [text.strip() for line in JUNK.strip().splitlines() for text in line.split(";")]


def _called(function: Callable[..., Any], name: str, arguments: dict[str, Any]) -> Any:
    if name in SAMPLES:
        first, *others = arguments
        return function(arguments[first], *SAMPLES[name], **{key: arguments[key] for key in others})
    if "self" in arguments:
        return function(arguments["self"], **{key: value for key, value in arguments.items() if key != "self"})
    return function(**arguments)


def _function(name: str) -> Callable[..., Any]:
    found: Any = CostModel if name == "CostModel" else sw
    for part in () if name == "CostModel" else name.split("."):
        found = getattr(found, part)
    return found


def _value(text: str) -> Any:
    names = {"exported": _exported, "sharded": _sharded, "package": _package, "Path": Path}
    return eval(text, {"torch": torch, "sw": sw, "math": math, **names})


def _exported() -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8)).double()
    return torch.export.export(model, (torch.ones(4, 8, dtype=torch.float64),))


def _sharded() -> sw.ShardedProgram:
    return sw.shard(_exported(), mesh=2, plan={"0": "colwise", "2": "rowwise"})


def _package() -> Path:
    path = Path("package").absolute()
    if not path.exists():
        sw.shard(_exported(), mesh=1, plan={}).save(path)
    return path


def shortened(call: Call, fails: Callable[[Call], bool]) -> Call:
    """The call with as many good arguments as it fails with."""
    good = GOOD[call.function]
    return shorten(call, [partial(_mended, name=name, text=good[name]) for name in good], fails)


def _mended(call: Call, name: str, text: str) -> Call | None:
    return None if call.arguments[name] == text else replace(call, arguments={**call.arguments, name: text})


def text_of(call: Call) -> str:
    """Python that judges the call again."""
    return f'''"""{call}"""

from evals.fuzz.arguments import Call

print(Call({call.function!r}, {call.arguments!r}).verdict())
'''
