"""Cost models by name: what vendors state of common devices, and what programs reach of that.

The shares are the same for all GPUs, so that presets differ by what the vendors state: ¾ of the memory's bandwidth,
0.4 of the matmul peak in 16 bits (dense), ¾ of the float32 peak (no TF32), 0.45 of the links' (one direction), each
rounded to two digits. Latencies are of a collective of a few bytes between GPUs of one host. ``docs/hardware.md`` has
the vendors' figures and where they are from; the CPU models were measured by `shardwright calibrate`.
"""

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from shardwright.assign.cost import CostModel
from shardwright.assign.cost_file import read_cost_model
from shardwright.errors import ShardwrightError, near_misses

CostLike = CostModel | str | os.PathLike[str]
"""A cost model, the name of a preset, or the path of a file."""

DEFAULT = "h100"
"""A program that is exported on CPU or on the meta device is usually meant for a data-centre GPU."""


def _gpu(
    name: str, *, memory_tb_s: float, bfloat16_tflops: float, float32_tflops: float, link_gb_s: float, latency_us: float
) -> CostModel:
    """The model of a GPU from what its vendor states; ``link_gb_s``: one direction."""
    return CostModel(
        latency_us=latency_us,
        link_bytes_per_us=_two_digits(0.45 * link_gb_s * 1e3),
        memory_bytes_per_us=_two_digits(0.75 * memory_tb_s * 1e6),
        flops_per_us=_two_digits(0.4 * bfloat16_tflops * 1e6),
        float32_flops_per_us=_two_digits(0.75 * float32_tflops * 1e6),
        name=name,
    )


def _two_digits(value: float) -> float:
    return float(f"{value:.2g}")


_CPU = CostModel(
    name="cpu",
    latency_us=45,
    link_bytes_per_us=3e3,
    memory_bytes_per_us=2e4,
    flops_per_us=2e5,
    float32_flops_per_us=6e4,
    call_us=2.4,
)

_MODELS = (
    _gpu("h100", memory_tb_s=3.35, bfloat16_tflops=989, float32_tflops=67, link_gb_s=450, latency_us=10),
    _gpu("h200", memory_tb_s=4.8, bfloat16_tflops=989, float32_tflops=67, link_gb_s=450, latency_us=10),
    _gpu("b200", memory_tb_s=7.7, bfloat16_tflops=2250, float32_tflops=75, link_gb_s=900, latency_us=10),
    _gpu("a100", memory_tb_s=2.039, bfloat16_tflops=312, float32_tflops=19.5, link_gb_s=300, latency_us=10),
    _gpu("mi300x", memory_tb_s=5.3, bfloat16_tflops=1307, float32_tflops=163.4, link_gb_s=448, latency_us=20),
    _gpu("l40s", memory_tb_s=0.864, bfloat16_tflops=362, float32_tflops=91.6, link_gb_s=32, latency_us=20),
    _gpu("l4", memory_tb_s=0.3, bfloat16_tflops=121, float32_tflops=30.3, link_gb_s=32, latency_us=20),
    _CPU,
    replace(_CPU, name="cpu-gloo", latency_us=300, link_bytes_per_us=1e3, reduce_scatter_passes=2),
)

PRESETS: Mapping[str, CostModel] = {model.name: model for model in _MODELS}
"""Cost models by device. ``"cpu"``: one core a rank, ranks of one host that share memory; ``"cpu-gloo"``: gloo."""


def cost_model(given: Any = None) -> CostModel:
    """The cost model that ``given`` names: a `CostModel` itself, a preset, or the path of a file from `calibrate`.

    Absent: an H100. Presets: ``"h100"``, ``"h200"``, ``"b200"``, ``"a100"``, ``"mi300x"``, ``"l40s"``, ``"l4"``,
    ``"cpu"`` (one core a rank, ranks of one host that share memory), ``"cpu-gloo"``. Raises `ShardwrightError` for a
    name that is none of these, and for a file that is no cost model.

    >>> cost_model("l4").latency_us
    20
    """
    if given is None:
        return PRESETS[DEFAULT]
    if isinstance(given, CostModel):
        return given
    if isinstance(given, str) and given.lower() in PRESETS:
        return PRESETS[given.lower()]
    if isinstance(given, str) and not _is_path(given):
        raise ShardwrightError(_unknown(given))
    if isinstance(given, (str, os.PathLike)):
        return read_cost_model(given)
    raise ShardwrightError(
        f"cost must be a CostModel, the name of one or the path of its file, got {given!r}\n"
        "  try: cost='h100', or cost=CostModel(latency_us=20)"
    )


def _is_path(given: str) -> bool:
    return given.endswith(".json") or os.sep in given or os.path.exists(given)  # noqa: PTH110 - '\0' raises in a Path


def _unknown(given: str) -> str:
    close = near_misses(given.lower(), PRESETS)
    hint = f"{' or '.join(map(repr, close))}; " if close else ""
    return (
        f"cost {given!r} is neither a device that there is a model of, nor a file\n"
        f"  try: {hint}{', '.join(PRESETS)}, or `shardwright calibrate -o cost.json`"
    )
