"""Names of torch that it does not promise to keep, each with the reason that no public one will do."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch.distributed as dist

# Compiled code finds a process group by a name that was fixed when it was compiled; the public functions choose names
# themselves. Registering a group under a second name is what `torch.distributed` does inside `new_group`.
from torch._C._distributed_c10d import (
    _register_process_group,
    _resolve_process_group,
    _unregister_process_group,
)


def name_group(name: Any, group: dist.ProcessGroup) -> None:
    """Let compiled code find ``group`` under ``name``; a group that had the name loses it."""
    if _is_known(name):
        _unregister_process_group(name)
    _register_process_group(name, group)


@contextmanager
def stand_in_groups(sizes: Iterable[tuple[Any, int]]) -> Iterator[None]:
    """While compiling, the groups of these names and sizes: the compiler asks for a group's size, nothing else."""
    # Who registers a group must hold it: the registry does not.
    group_of: Any = dist.ProcessGroup
    made = {name: group_of(0, size) for name, size in sizes if not _is_known(name)}
    for name, group in made.items():
        _register_process_group(name, group)
    try:
        yield
    finally:
        for name in made:
            _unregister_process_group(name)


def _is_known(name: Any) -> bool:
    try:
        return _resolve_process_group(name) is not None
    except RuntimeError:
        return False
