"""Compiled code on this machine: the compiler that makes it, the runner that runs it, and which machines may."""

import functools
import platform
import sys
import weakref
from collections.abc import Sequence
from pathlib import Path

import torch

from shardwright.errors import PackageError
from shardwright.program.torch_private import outside_of_modes
from shardwright.run.cpp import compile_library, compiler_name, library_place, make_once

# A change of what the operators take or do is a change of the name, here and in runner.cpp.
NAMESPACE = "shardwright_aoti_1"
_SOURCE = Path(__file__).with_name("runner.cpp")
_FLAGS = ("-O1",)
_INSTRUCTION_SETS = (
    *("sse", "ssse", "avx", "fma", "f16c", "bmi", "amx", "popcnt", "movbe", "adx", "vaes", "gfni", "abm", "sha"),
    *("asimd", "sve", "sme", "bf16", "i8mm", "fphp"),
)


@functools.cache
def runner_bytes() -> bytes:
    """The library that runs compiled packages, made by the C++ compiler the first time; kept where that is possible.

    Raises `PackageError` when it cannot be compiled.
    """
    facts = (_SOURCE.read_text(), torch.__version__, platform.machine(), compiler_name(), *_FLAGS)
    try:
        place = library_place("shardwright_runner", facts)
    except PackageError:
        return _compiled()
    try:
        make_once(place, _compiled)
        return place.read_bytes()
    except OSError:
        return _compiled()


def _compiled() -> bytes:
    return compile_library(_SOURCE, _FLAGS)


class CompiledProgram:
    """An AOTInductor package that is open, a function of a list of tensors. ``runner``: the library that runs it."""

    def __init__(self, path: Path, runner: Path, device: torch.device) -> None:
        operators = getattr(torch.ops, NAMESPACE)
        try:
            if not hasattr(operators, "run"):
                torch.ops.load_library(str(runner))
            number = operators.open(str(path), -1 if device.index is None else device.index)
        except (RuntimeError, OSError) as error:
            raise PackageError(f"{path} cannot be opened: {error}\n  try: compile the package again here") from error
        self._run = operators.run.default
        self._number = number
        # The collector may call it while somebody traces, whose mode would take the call for one of the program's.
        weakref.finalize(self, outside_of_modes, operators.close, number)

    def __call__(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The outputs. Nothing is checked: shapes, dtypes, devices and dense memory are up to the caller."""
        return self._run(self._number, tensors)


def this_machine(device: str) -> dict[str, str]:
    """What compiled code depends on: torch, the system, and the instructions of the device."""
    facts = {"torch": str(torch.__version__), "system": f"{sys.platform} {platform.machine()}", "device": device}
    if device == "cuda":
        facts["capability"] = "{}.{}".format(*torch.cuda.get_device_capability()) if torch.cuda.is_available() else ""
    facts["instructions"] = " ".join(_instructions())
    return facts


def misfits(recorded: dict[str, str]) -> list[str]:
    """Why code that was compiled on one machine must not run on this one; empty when it may."""
    here = this_machine(recorded.get("device", "cpu"))
    found = [
        f"it was compiled for {what} {recorded[what]!r}, here is {here.get(what, '')!r}"
        for what in recorded
        if what != "instructions" and recorded[what] != here.get(what, "")
    ]
    lacking = sorted(set(recorded.get("instructions", "").split()) - set(here["instructions"].split()))
    if lacking:
        found.append(f"this processor lacks instructions that it may use: {', '.join(lacking)}")
    return found


def _instructions() -> list[str]:
    """The processor's instruction sets as Linux lists them; elsewhere, what torch calls them."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            name, _, flags = line.partition(":")
            if name.strip() in ("flags", "Features"):
                return sorted({flag for flag in flags.split() if flag.startswith(_INSTRUCTION_SETS)})
    return [torch.backends.cpu.get_cpu_capability()]
