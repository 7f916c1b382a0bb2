"""Which device a rank's piece belongs on, and a program moved to another."""

import os

import torch
from torch.export import ExportedProgram
from torch.export.passes import move_to_device_pass

from shardwright.errors import PackageError, first_line


def chosen_device(device: str | torch.device | None) -> torch.device | None:
    """The device a caller names, None for None; raises `PackageError` for one that torch does not know or see."""
    if device is None:
        return None
    try:
        found = torch.device(device)
        # Asking for a tensor is the one way to learn that a device of any kind is there.
        torch.empty(0, device=found)
    except (RuntimeError, TypeError, AssertionError, NotImplementedError) as error:
        raise PackageError(f"there is no device {device!r}: {first_line(error)}\n  try: device='cpu'") from error
    return found


def home_device(exported: ExportedProgram) -> torch.device:
    """This rank's GPU where a program was exported for CUDA, else the CPU; `PackageError` when there is no GPU."""
    if not any(device.type == "cuda" for device in _devices(exported)):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise PackageError("the package was exported for CUDA, and there is no GPU here\n  try: load(…, device='cpu')")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", torch.cuda.current_device())))


def home_of(exported: ExportedProgram) -> torch.device:
    """The device of a program whose weights are in place."""
    return next((device for device in _devices(exported) if device.type == "cuda"), torch.device("cpu"))


def move(exported: ExportedProgram, place: torch.device) -> ExportedProgram:
    """The program with what it makes (positions, masks) on ``place``; weights on the meta device stay there."""
    others = {str(device): str(place) for device in _devices(exported) if device.type != "meta" and device != place}
    return move_to_device_pass(exported, others) if others else exported


def _devices(exported: ExportedProgram) -> set[torch.device]:
    values = [node.meta.get("val") for node in exported.graph.nodes]
    return {value.device for value in values if isinstance(value, torch.Tensor)}
