"""Collectives of ranks that share a host, through memory (``shared_memory.cpp``): a backend of `torch.distributed`.

The ranks agree, through the process group that is up, on whether all of a group's ranks can reach one memory. That is
tried, not guessed: the first rank makes a file in memory and the others open it. The file has no name, so nothing is
left when ranks are killed, jobs do not meet, and the size of ``/dev/shm`` does not matter.
"""

import hashlib
import importlib.machinery
import importlib.util
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

import torch.distributed as dist

from shardwright.errors import PackageError, RunError, first_line
from shardwright.run.aot.machine import this_machine
from shardwright.run.cpp import compile_library, compiler

BACKEND = "shardwright"
"""The name under which `torch.distributed` knows the backend."""

TRANSPORTS = ("auto", "shared_memory", "gloo")
TRANSPORT_SWITCH = "SHARDWRIGHT_TRANSPORT"
"""The environment variable that chooses one of `TRANSPORTS` where the caller does not."""

SLOT_BYTES = 1 << 20
"""A rank's slot; larger tensors go in several rounds. Every rank has two."""

_SOURCE = Path(__file__).with_name("shared_memory.cpp")
_MODULE = "shardwright_shared_memory"
_FLAGS = ("-O3", "-march=native")
_LOG = logging.getLogger("shardwright")

Ranks = tuple[int, ...]


@dataclass(frozen=True)
class Agreement:
    """What all ranks agreed on: the groups that share memory (and this rank's file of it), or why there are none."""

    files: dict[Ranks, int] = field(default_factory=dict)
    reason: str = ""


def chosen_transport(given: str | None) -> str:
    """The transport that the caller, or else the environment, asks for. Raises `RunError` for an unknown one."""
    wanted = given or os.environ.get(TRANSPORT_SWITCH) or "gloo"
    if wanted not in TRANSPORTS:
        raise RunError(f"there is no transport {wanted!r}\n  try: {', '.join(TRANSPORTS)}")
    return wanted


def agree(groups: Sequence[Ranks], transport: str) -> Agreement:
    """Which of ``groups`` communicate through memory; every rank of the process group must call it, with equal groups.

    ``transport``: one of `TRANSPORTS`. Under ``"auto"`` the first rank logs one line that says why not. Raises
    `RunError` where ``"shared_memory"`` is asked for and not to be had.
    """
    answers = _everybody({"transport": transport, "host": _host(), "lacks": "" if transport == "gloo" else _lacks()})
    forbidding = [rank for rank, one in enumerate(answers) if one["transport"] == "gloo"]
    lacking = [(rank, one["lacks"]) for rank, one in enumerate(answers) if one["lacks"]]
    reason = ""
    if forbidding:
        reason = f"rank {forbidding[0]} asks for gloo"
    elif lacking:
        reason = f"rank {lacking[0][0]}: {lacking[0][1]}"
    near = [ranks for ranks in groups if not reason and len({answers[rank]["host"] for rank in ranks}) == 1]
    if not reason and len(near) < len(groups):
        apart = next(ranks for ranks in groups if ranks not in near)
        reason = f"ranks {list(apart)} are not on one host"
    agreement = _share(near, reason)
    if agreement.reason and any(one["transport"] == "shared_memory" for one in answers):
        _close(agreement.files)
        raise RunError(f"ranks cannot communicate through shared memory: {agreement.reason}\n  try: transport='auto'")
    if agreement.reason and not forbidding and dist.get_rank() == 0:
        _LOG.warning("collectives use gloo, not shared memory: %s", agreement.reason)
    return agreement


def new_group(ranks: Ranks, agreement: Agreement, timeout: timedelta) -> Any:
    """The process group of ``ranks``, through memory; every rank must call it. The file is closed."""
    _register()
    with _opening(agreement.files.get(ranks, -1), ranks):
        return dist.new_group(list(ranks), timeout=timeout, backend=BACKEND)


def library_path() -> Path:
    """Where the compiled backend is kept: one for each version of its source, torch, Python, compiler and processor."""
    facts = [
        _SOURCE.read_text(),
        str(sorted(this_machine("cpu").items())),
        sys.version,
        sys.implementation.cache_tag,
        compiler(),
        *_FLAGS,
    ]
    digest = hashlib.sha256("\n".join(map(str, facts)).encode()).hexdigest()[:16]
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "shardwright" / f"{_MODULE}-{digest}.so"


@cache
def library() -> Any:
    """The compiled backend, compiled when there is none yet. Raises `PackageError` where that cannot be done."""
    path = library_path()
    if not path.exists():
        _build(path)
    loader = importlib.machinery.ExtensionFileLoader(_MODULE, str(path))
    spec = importlib.util.spec_from_loader(_MODULE, loader)
    assert spec is not None, "a loader gives a spec"
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def _build(path: Path) -> None:
    import fcntl

    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("w") as lock:
        # One rank compiles, the others wait for it.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if path.exists():
            return
        _LOG.warning("compiling the shared-memory backend, once for this version of torch (about half a minute)")
        draft = path.with_suffix(f".{os.getpid()}")
        try:
            draft.write_bytes(compile_library(_SOURCE, _FLAGS, python_module=_MODULE))
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)


def _lacks() -> str:
    """Why this rank cannot communicate through memory; '' where it can."""
    if not hasattr(os, "memfd_create") or not hasattr(os, "pidfd_open"):
        return f"{sys.platform} has no files in memory that other processes can open"
    try:
        library()
    except (PackageError, OSError, ImportError) as error:
        return first_line(error)
    return ""


def _host() -> str:
    """Equal for processes that can open each other's files: one machine, one space of process numbers, one user."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').stat().st_ino} {os.getuid()}"
    except OSError as error:
        return f"{os.getpid()}: {error}"


def _share(groups: Sequence[Ranks], reason: str) -> Agreement:
    """Make and open the memory of every group; no group has any where one rank fails."""
    mine = dist.get_rank()
    files: dict[Ranks, int] = {}
    trouble = ""
    try:
        files = {ranks: _make(len(ranks)) for ranks in groups if ranks[0] == mine}
    except OSError as error:
        trouble = f"rank {mine} has too little memory: {error}"
    offers = _everybody((os.getpid(), dict(files), trouble))
    for ranks in groups:
        process, made, _ = offers[ranks[0]]
        if mine in ranks and ranks not in files and ranks in made:
            try:
                files[ranks] = os.open(f"/proc/{process}/fd/{made[ranks]}", os.O_RDWR | os.O_CLOEXEC)
            except OSError as error:
                trouble = f"rank {mine} cannot open the memory of rank {ranks[0]}: {error}"
    troubles = [*(one[2] for one in offers), *_everybody(trouble)]
    found = next((one for one in troubles if one), "")
    if found:
        _close(files)
        return Agreement({}, reason or found)
    # A rank outside a group must know that the others share memory: they all make the group.
    return Agreement({ranks: files.get(ranks, -1) for ranks in groups}, reason)


def _make(size: int) -> int:
    file = os.memfd_create("shardwright", os.MFD_CLOEXEC)
    try:
        os.posix_fallocate(file, 0, library().bytes(size, SLOT_BYTES))
    except OSError:
        os.close(file)
        raise
    return file


def _close(files: dict[Ranks, int]) -> None:
    for file in files.values():
        if file >= 0:
            os.close(file)


def _everybody(mine: Any) -> list[Any]:
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, mine)
    return found


_OPENING: dict[Ranks, int] = {}
"""The memory of the groups that are being made: torch calls `_create` and passes no more than ranks."""


@contextmanager
def _opening(file: int, ranks: Ranks) -> Iterator[None]:
    _OPENING[ranks] = file
    try:
        yield
    finally:
        del _OPENING[ranks]
        if file >= 0:
            os.close(file)


@cache
def _register() -> None:
    dist.Backend.register_backend(BACKEND, _create, extended_api=True, devices=["cpu"])


def _create(options: Any, backend_options: Any = None) -> Any:
    names = list(options.global_ranks_in_group) or list(range(options.group_size))
    file = _OPENING[tuple(names)]
    return library().make(options.group_rank, options.group_size, file, SLOT_BYTES, options.timeout, names)
