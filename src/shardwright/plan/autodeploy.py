"""Plans of TensorRT-LLM's AutoDeploy: ``{"head_dim": 128, "tp_plan": {"q_proj": "colwise", ...}}``.

Its keys are searched for anywhere in the name of a linear layer's weight (``*`` stands for any text, dots too), and the
first key found decides. ``mamba`` cuts a packed input projection part by part, which here is what ``colwise`` does; the
convolution and the state parameters that belong to it follow. ``gather`` and ``simple`` are column-wise with the output
gathered. ``local_*`` counts for shared experts only, and ``sequence_parallel`` for nothing. Words that AutoDeploy does
not know, which its versions take differently, are an error. ``head_dim`` is not needed: heads come from the graph.
"""

import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from shardwright.errors import PlanError, PlanWarning
from shardwright.layout.values import check_names

_STYLES = {
    "colwise": "colwise",
    "gather": "colwise_gather_output",
    "mamba": "colwise",
    "rowwise": "rowwise",
    "simple": "colwise_gather_output",
}
_ELSEWHERE = {
    "local": None,
    "local_colwise": "colwise",
    "local_packed_rowwise": None,
    "local_rowwise": "rowwise",
    "sequence_parallel": None,
}
"""Styles that AutoDeploy knows but skips outside shared experts, and what they are there."""


@dataclass(frozen=True, slots=True)
class AutoDeployPlan:
    """AutoDeploy's entries, in their order. Made by `autodeploy_plan`."""

    entries: Mapping[str, str]

    def fit(self, modules: Mapping[str, str], tensors: Iterable[str]) -> dict[str, str]:
        """Module path → style for the linear layers of a program; ``modules``: path → class name.

        ``tensors``: the names of all it holds, and of the weights that parametrizations make at every call.
        Keys that are found nowhere, or that AutoDeploy itself would skip, are left out with a `PlanWarning`. Raises
        `PlanError` when none is found.
        """
        tensors = set(tensors)
        linears = [p for p, kind in modules.items() if f"{p}.weight" in tensors and _is_linear(kind)]
        fitted: dict[str, str] = {}
        used = set()
        for path in linears:
            key = next((k for k in self.entries if _pattern(k).match(f"{path}.weight")), None)
            if key is None:
                continue
            style = _style(self.entries[key], path)
            if style is not None:
                used.add(key)
                fitted[path] = style
        if not fitted:
            raise PlanError(
                f"no linear layer's name has a key of the AutoDeploy plan: {', '.join(map(repr, self.entries))}\n"
                "  try: list the names with `shardwright inspect`"
            )
        if idle := [key for key in self.entries if key not in used]:
            warnings.warn(
                f"entries of the AutoDeploy plan that apply to no linear layer are left out: "
                f"{', '.join(f'{k!r}: {self.entries[k]!r}' for k in idle)}",
                PlanWarning,
                stacklevel=2,
            )
        return fitted


def autodeploy_plan(config: Mapping[str, Any]) -> AutoDeployPlan:
    """A plan from AutoDeploy's sharding config: the mapping with ``tp_plan`` in it, or ``tp_plan`` itself.

    Pass the result as ``plan=`` of `shard`. Raises `PlanError` when there are no entries.

    >>> plan = autodeploy_plan({"tp_plan": {"in_proj": "mamba", "out_proj": "rowwise"}})
    >>> sharded = shard(exported, mesh=2, plan=plan)
    """
    entries = config.get("tp_plan", config) if isinstance(config, Mapping) else config
    if not isinstance(entries, Mapping) or not entries:
        raise PlanError("an AutoDeploy plan is a mapping of names to styles, or a mapping that holds one as 'tp_plan'")
    check_names(entries, "an AutoDeploy plan", "{'in_proj': 'mamba'}", error=PlanError)
    if unknown := [f"{k!r}: {v!r}" for k, v in entries.items() if v not in {**_STYLES, **_ELSEWHERE}]:
        raise PlanError(
            f"AutoDeploy has no such styles: {', '.join(unknown)}\n  try: one of {', '.join({**_STYLES, **_ELSEWHERE})}"
        )
    return AutoDeployPlan(dict(entries))


def _pattern(key: str) -> re.Pattern[str]:
    return re.compile(".*".join(["", *map(re.escape, key.split("*")), ""]))


def _is_linear(class_name: str) -> bool:
    last = class_name.rsplit(".", 1)[-1]
    return last.endswith("Linear") or last == "Conv1D"


def _style(style: str, path: str) -> str | None:
    return _STYLES.get(style) or (_ELSEWHERE[style] if "shared" in path else None)
