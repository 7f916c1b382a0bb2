"""Collectives of ranks that share a host, through memory: the compiled backend, and the memory of a group.

The memory is a file without a name, which the other ranks open through the process that made it: nothing is left when
ranks are killed, jobs do not meet, and the size of ``/dev/shm`` does not matter. `transport` decides who uses it.
"""

import importlib.machinery
import importlib.util
import logging
import os
import sys
from collections.abc import Sequence
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

from shardwright.errors import PackageError, first_line
from shardwright.run.aot.machine import this_machine
from shardwright.run.cpp import compile_library, compiler, compiler_name, library_place, make_once

SLOT_BYTES = 1 << 20
"""A rank's slot, of which it has two; larger tensors go in several rounds."""

GROUP_BYTES = 32 << 20
"""What the slots of a group may take together: where there are many ranks, they are smaller."""

_LEAST_SLOT_BYTES = 64 << 10
_HERE = Path(__file__).parent
_SOURCE = _HERE / "shared_memory.cpp"
_SOURCES = (_SOURCE, *sorted(_HERE.glob("*.h")))
_MODULE = "shardwright_shared_memory"
_FLAGS = ("-O3", "-march=native", "-fwrapv")
_LOG = logging.getLogger("shardwright")


def host() -> str:
    """Equal for processes that can open each other's files: one machine, one space of process numbers, one user."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').stat().st_ino} {os.getuid()}"
    except OSError as error:
        return f"{os.getpid()}: {error}"


def prepare() -> str:
    """Compile the backend unless that is done; why this process cannot communicate through memory, '' where it can."""
    if not hasattr(os, "memfd_create") or not hasattr(os, "pidfd_open"):
        return f"{sys.platform} has no files in memory that other processes can open"
    try:
        make_once(library_path(), _compiled)
    except (PackageError, OSError) as error:
        return first_line(error)
    return ""


def library_path() -> Path:
    """Where the compiled backend is kept: one for each version of its source, torch, Python, compiler and processor.

    Raises `PackageError` where there is no place for it.
    """
    facts = [
        *(source.read_text() for source in _SOURCES),
        str(sorted(this_machine("cpu").items())),
        sys.version,
        sys.implementation.cache_tag,
        compiler_name(),
        *_FLAGS,
    ]
    return library_place(_MODULE, facts)


@cache
def extension() -> Any:
    """The compiled backend, which `prepare` left. Raises `OSError` or `ImportError` where it cannot be loaded."""
    loader = importlib.machinery.ExtensionFileLoader(_MODULE, str(library_path()))
    spec = importlib.util.spec_from_loader(_MODULE, loader)
    assert spec is not None, "a loader gives a spec"
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def make_file(num_ranks: int) -> int:
    """The memory of a group of ranks, as an open file. Raises `OSError` where there is too little."""
    file = os.memfd_create("shardwright", os.MFD_CLOEXEC)
    try:
        os.posix_fallocate(file, 0, extension().bytes(num_ranks, _slot_bytes(num_ranks)))
    except OSError:
        os.close(file)
        raise
    return file


def open_file(process: int, file: int) -> int:
    """A file that another process made. Raises `OSError` where that process does not allow it."""
    return os.open(f"/proc/{process}/fd/{file}", os.O_RDWR | os.O_CLOEXEC)


def make_backend(rank: int, names: Sequence[int], file: int, timeout: timedelta, rest: Any = None) -> Any:
    """This rank's side of a group. ``names``: what messages call its ranks. ``rest``: does what this backend cannot."""
    return extension().make(rank, len(names), file, _slot_bytes(len(names)), timeout, list(names), rest)


def _slot_bytes(num_ranks: int) -> int:
    # Whole pages, so that slots do not share any.
    fair = GROUP_BYTES // (2 * num_ranks) // 4096 * 4096
    return max(min(SLOT_BYTES, fair), _LEAST_SLOT_BYTES)


def _compiled() -> bytes:
    compiler()
    _LOG.warning("compiling the shared-memory backend, once for this version of torch (about half a minute)")
    return compile_library(_SOURCE, _FLAGS, python_module=_MODULE)
