"""What collectives of CPU tensors go through: memory that the ranks share, or gloo.

The ranks of a group agree on it through the group's store: whether all wish it, are on one host, have the compiled
backend, and can open one memory. That is tried, not guessed. ``"shardwright"`` is a backend of `torch.distributed`, for
``init_process_group``, ``new_group`` and ``DeviceMesh``; where its ranks cannot share memory it is gloo.
"""

import itertools
import json
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache
from typing import Any

import torch.distributed as dist

from shardwright.errors import PackageError, RunError, first_line
from shardwright.program.torch_private import carrier_of, cpu_backend_of, timeout_of
from shardwright.run.shared_memory import extension, host, make_backend, make_file, open_file, prepare

BACKEND = "shardwright"
"""The name under which `torch.distributed` knows the backend."""

TRANSPORTS = ("auto", "shared_memory", "gloo")
TRANSPORT_SWITCH = "SHARDWRIGHT_TRANSPORT"
"""The environment variable that chooses one of `TRANSPORTS` where the caller does not."""

_COMPILING_S = 300.0
"""How much longer than usual ranks wait for one that may be compiling."""

_LOG = logging.getLogger("shardwright")

Ranks = tuple[int, ...]


def chosen_transport(given: str | None = None) -> str:
    """The transport that the caller, or else the environment, asks for. Raises `RunError` for an unknown one."""
    wanted = given or os.environ.get(TRANSPORT_SWITCH) or "auto"
    if wanted not in TRANSPORTS:
        raise RunError(f"there is no transport {wanted!r}\n  try: {', '.join(TRANSPORTS)}")
    return wanted


class Forum:
    """Small values exchanged between ranks through a store; all ranks make the same calls in the same order.

    ``names``: what messages call the ranks. ``timeout``: how long to wait for one that says nothing.
    """

    def __init__(self, store: Any, rank: int, names: Sequence[int], timeout: timedelta) -> None:
        self.rank, self.names = rank, tuple(names)
        self._store, self._timeout, self._topics = store, timeout, itertools.count()

    @property
    def name(self) -> int:
        """What messages call this rank."""
        return self.names[self.rank]

    def everybody(self, mine: Any, *, patience_s: float = 0.0) -> list[Any]:
        """What every rank says, as JSON has it; ``patience_s``: how much longer than usual to wait.

        Raises torch's `DistStoreError`, as its own collectives do, naming the ranks that say nothing in time.
        """
        topic = next(self._topics)
        keys = [f"{topic}/{rank}" for rank in range(len(self.names))]
        self._store.set(keys[self.rank], json.dumps(mine))
        try:
            self._store.wait(keys, self._timeout + timedelta(seconds=patience_s))
        except RuntimeError as error:
            absent = [name for name, key in zip(self.names, keys, strict=True) if not self._store.check([key])]
            raise dist.DistStoreError(
                f"timed out: rank {self.name} waited for ranks {absent}, which did not come"
            ) from error
        return [json.loads(self._store.get(key)) for key in keys]


@dataclass(frozen=True)
class Agreement:
    """What all ranks agreed on: the groups that share memory (and this rank's file of it), or why there are none."""

    files: dict[Ranks, int] = field(default_factory=dict)
    reason: str = ""


def common_wish(transport: str, forum: Forum) -> str:
    """The transport of all ranks of a forum, each of which wants one of `TRANSPORTS`: gloo where one wants that.

    Raises `RunError` where another takes nothing but shared memory.
    """
    wishes = forum.everybody(transport)
    if "gloo" not in wishes:
        return "shared_memory" if "shared_memory" in wishes else "auto"
    if set(wishes) != {"gloo"}:
        _excuse(f"rank {forum.names[wishes.index('gloo')]} asks for gloo", "shared_memory" in wishes, forum)
    return "gloo"


def agree(groups: Sequence[Ranks], wish: str, forum: Forum) -> Agreement:
    """Which of ``groups`` communicate through memory; every rank of the forum must call it, with equal arguments.

    A group is the numbers of its ranks in the forum. ``wish``: of all ranks. Under ``"auto"`` the first rank logs one
    line that says why not. Raises `RunError` where ``"shared_memory"`` is not to be had.
    """
    if wish == "gloo" or not groups:
        return Agreement()
    hosts = forum.everybody(host())
    near = [ranks for ranks in groups if len({hosts[rank] for rank in ranks}) == 1]
    apart = next((ranks for ranks in groups if ranks not in near), ())
    reason = f"ranks {[forum.names[rank] for rank in apart]} are not on one host" if apart else ""
    files: dict[Ranks, int] = {}
    if near:
        files, trouble = _share(near, hosts, forum)
        reason = trouble or reason
    if reason:
        try:
            _excuse(reason, wish == "shared_memory", forum)
        except RunError:
            _close(files)
            raise
    return Agreement(files, reason)


def is_fake(group: dist.ProcessGroup) -> bool:
    """Whether the other ranks of a group are only thought of (torch's backend ``"fake"``): nobody to agree with."""
    return carrier_of(group) == "fake"


def goes_through(group: dist.ProcessGroup, wish: str) -> bool:
    """Whether a group communicates as its ranks want already, or has tried to."""
    carrier = carrier_of(group)
    if wish == "gloo":
        return carrier == "gloo"
    return carrier == BACKEND or (wish == "auto" and BACKEND in dist.get_backend_config(group))


def patience_of(group: dist.ProcessGroup) -> timedelta | None:
    """How long the collectives of a group wait; None for a backend that does not say."""
    return extension().timeout(cpu_backend_of(group)) if carrier_of(group) == BACKEND else timeout_of(group)


_FORUMS = itertools.count()


def world_forum(timeout: timedelta) -> Forum:
    """A forum of all ranks; every rank must make it, in the same order."""
    world = dist.group.WORLD
    assert world is not None, "a process group is up"
    store = dist.PrefixStore(f"shardwright/{next(_FORUMS)}", world.get_group_store())
    return Forum(store, dist.get_rank(), range(dist.get_world_size()), timeout)


def new_group(ranks: Ranks, agreement: Agreement, timeout: timedelta) -> Any:
    """The process group of ``ranks``, through memory; every rank must call it. The file is closed."""
    with _opening(ranks, agreement.files[ranks]):
        return dist.new_group(list(ranks), timeout=timeout, backend=BACKEND)


def _share(groups: Sequence[Ranks], hosts: Sequence[str], forum: Forum) -> tuple[dict[Ranks, int], str]:
    """This rank's files of the groups (-1 for those of others), and what is in the way; no files where anything is."""
    # One rank of each host compiles.
    lacks = prepare() if hosts.index(hosts[forum.rank]) == forum.rank else ""
    lacking = forum.everybody(lacks, patience_s=_COMPILING_S)
    found = next((f"rank {forum.names[rank]}: {one}" for rank, one in enumerate(lacking) if one), "")
    if found:
        return {}, found
    mine, trouble = _make(groups, forum)
    files = dict.fromkeys(groups, -1) | mine
    try:
        offers = forum.everybody([os.getpid(), [[number, files[one]] for number, one in enumerate(groups)], trouble])
        for number, ranks in enumerate(groups):
            process, made, _ = offers[ranks[0]]
            if forum.rank in ranks[1:] and made[number][1] >= 0:
                try:
                    files[ranks] = open_file(process, made[number][1])
                except OSError as error:
                    trouble = f"rank {forum.name} cannot open the memory of rank {forum.names[ranks[0]]}: {error}"
        found = next((one for one in forum.everybody(trouble) if one), "")
    except BaseException:
        _close(files)
        raise
    if found:
        _close(files)
        return {}, found
    return files, ""


def _make(groups: Sequence[Ranks], forum: Forum) -> tuple[dict[Ranks, int], str]:
    """The memory of the groups whose first rank this is, and what is in the way."""
    made: dict[Ranks, int] = {}
    try:
        extension()
    except (PackageError, OSError, ImportError) as error:
        return made, f"rank {forum.name}: {first_line(error)}"
    try:
        for ranks in groups:
            if ranks[0] == forum.rank:
                made[ranks] = make_file(len(ranks))
    except OSError as error:
        _close(made)
        return {}, f"rank {forum.name} has too little memory: {error}"
    return made, ""


def _close(files: dict[Ranks, int]) -> None:
    for file in files.values():
        if file >= 0:
            os.close(file)


def _excuse(reason: str, is_needed: bool, forum: Forum) -> None:
    if is_needed:
        raise RunError(f"ranks cannot communicate through shared memory: {reason}\n  try: transport='auto'")
    if forum.rank == 0:
        _say(reason)


@cache
def _say(reason: str) -> None:
    # Once: a program may make many groups.
    _LOG.warning("collectives use gloo, not shared memory: %s", reason)


_OPENING: dict[Ranks, int] = {}
"""The memory of the groups that are being made: torch calls `_create` and passes no more than ranks."""


@contextmanager
def _opening(ranks: Ranks, file: int) -> Iterator[None]:
    _OPENING[ranks] = file
    try:
        yield
    finally:
        del _OPENING[ranks]
        if file >= 0:
            os.close(file)


def _create(options: Any, backend_options: Any = None) -> Any:
    """One rank's side of a group of `BACKEND`; torch calls it on the group's ranks."""
    names = tuple(options.global_ranks_in_group) or tuple(range(options.group_size))
    if names in _OPENING:
        return make_backend(options.group_rank, names, _OPENING[names], options.timeout)
    forum = Forum(dist.PrefixStore("shardwright", options.store), options.group_rank, names, options.timeout)
    ranks = tuple(range(options.group_size))
    agreement = agree([ranks], common_wish(chosen_transport(), forum), forum)
    gloo = dist.ProcessGroupGloo(
        dist.PrefixStore("gloo", options.store), options.group_rank, options.group_size, timeout=options.timeout
    )
    if ranks not in agreement.files:
        return gloo
    try:
        return make_backend(options.group_rank, names, agreement.files[ranks], options.timeout, gloo)
    finally:
        _close(agreement.files)


if not hasattr(dist.Backend, BACKEND.upper()):
    dist.Backend.register_backend(BACKEND, _create, extended_api=True, devices=["cpu"])
