"""This package's own C++: compiled on the machine it runs on, by the user's compiler, and kept for the next time."""

import hashlib
import os
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch

from shardwright.errors import PackageError


def compiler_name() -> str:
    """What the user calls the C++ compiler."""
    return os.environ.get("CXX", "g++")


def compiler() -> str:
    """The C++ compiler; raises `PackageError` when there is none."""
    wanted = compiler_name()
    found = shutil.which(wanted)
    if found is None:
        raise PackageError(
            f"compiling needs a C++ compiler, and there is no {wanted!r} on this machine\n"
            "  try: install g++ (Debian, Ubuntu: apt-get install g++), or name another compiler in the variable CXX"
        )
    return found


def compile_library(source: Path, flags: Sequence[str], *, python_module: str = "") -> bytes:
    """The shared library of a C++ file that uses torch. ``python_module``: its name, where it is a Python module.

    Raises `PackageError` when there is no compiler, or when it cannot compile the file.
    """
    home = Path(torch.__file__).parent
    includes = [f"-I{home / 'include'}", f"-I{home / 'include/torch/csrc/api/include'}"]
    libraries = ["-ltorch_cpu", "-lc10"]
    defined = [f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}"]
    if python_module:
        includes.append(f"-I{sysconfig.get_path('include')}")
        libraries.append("-ltorch_python")
        defined += [f"-DTORCH_EXTENSION_NAME={python_module}", "-DUSE_DISTRIBUTED"]
    with tempfile.TemporaryDirectory(prefix="shardwright-") as folder:
        made = Path(folder) / "library.so"
        words = [compiler(), "-shared", "-fPIC", "-s", "-std=c++20", *flags, *defined, *includes, str(source)]
        done = subprocess.run(  # noqa: S603 - the compiler that the user named, on a file of ours
            [*words, "-o", str(made), f"-L{home / 'lib'}", *libraries], capture_output=True, text=True, check=False
        )
        if done.returncode:
            first = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr[:200])
            raise PackageError(f"{words[0]} cannot compile {source.name}: {first}")
        return made.read_bytes()


def library_place(name: str, facts: Iterable[object]) -> Path:
    """Where a library is kept: one for each version of all that it depends on, which ``facts`` are.

    Raises `PackageError` where there is no place for it.
    """
    digest = hashlib.sha256("\n".join(map(str, facts)).encode()).hexdigest()[:16]
    return _cache_folder() / "shardwright" / f"{name}-{digest}.so"


def _cache_folder() -> Path:
    if given := os.environ.get("XDG_CACHE_HOME"):
        return Path(given)
    try:
        return Path.home() / ".cache"
    except RuntimeError as error:
        raise PackageError(
            "this user has no home folder, where compiled libraries are kept\n  try: set XDG_CACHE_HOME"
        ) from error


def make_once(path: Path, make: Callable[[], bytes]) -> None:
    """Put what ``make`` gives at ``path`` unless it is there: one process makes it, the others wait for it.

    Raises `OSError` where nothing can be written there, and what ``make`` raises.
    """
    import fcntl

    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if path.exists():
            return
        draft = path.with_suffix(f".{os.getpid()}")
        try:
            draft.write_bytes(make())
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
