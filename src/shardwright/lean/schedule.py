"""`make_schedule`: in which order all ranks communicate, and which small values go together.

Ranks meet in the order in which they call, and their graphs may differ: a rank without a share of an operator writes
neutral elements, which depend on nothing. So the order is settled once, from one program of every kind, as if a
collective waited for all that it waits for on any rank.

A collective comes as soon as its operand exists. What holds memory while nobody reads it comes as late as before: what
follows from weights alone, which is there from the start, and gathers of more than `EARLY_BYTES`.

Values of up to `SMALL_BYTES` are sent as one message where all wait for the same collectives before them: sending one
costs mostly the same time, whatever its size. Examples are q, k and v, and the modulations that every block of a
diffusion transformer computes from the time alone.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import fx

from shardwright.lean.dependences import Dependence, dependences
from shardwright.program.collectives import REDUCING, Collective, CollectiveKind, kind_of
from shardwright.program.program import Program

EARLY_BYTES = 64 << 20
"""The largest whole value that is gathered before its reader asks for it."""

SMALL_BYTES = 128 << 10
"""The largest whole value that is sent together with others."""

MESSAGE_BYTES = 8 << 20
"""The most bytes of whole values in one message."""


@dataclass(frozen=True, slots=True)
class Message:
    """Collectives that are sent as one, by their numbers; ``early``: as soon as the first operand exists."""

    members: tuple[int, ...]
    early: bool


@dataclass(frozen=True, slots=True)
class Schedule:
    """The messages of every rank, in order; none: they communicate in the order in which their programs are written."""

    messages: tuple[Message, ...] = ()


def make_schedule(programs: Sequence[Program]) -> Schedule:
    """The schedule of a sharded program; ``programs``: the first rank's, then one of every other kind, not lowered."""
    kinds = [dependences(program) for program in programs]
    if len({tuple(_form(one.node) for one in found) for found in kinds}) > 1:
        # On several axes, ranks with pieces of other sizes may communicate otherwise along the last ones. What they
        # do together with others is in one order as their programs are written.
        return Schedule()
    merged = [_merge(one) for one in zip(*kinds, strict=True)]
    messages = _together(merged)
    return Schedule(tuple(messages[number] for number in _sorted(messages, merged)))


def _merge(kinds: Sequence[Dependence]) -> Dependence:
    """One collective as all ranks see it: its node and places on the first rank, what it depends on on any."""
    first = kinds[0]
    before = 0
    for one in kinds:
        before |= one.before
    return Dependence(first.node, before, any(one.is_given for one in kinds), first.ready, first.place)


def _together(found: Sequence[Dependence]) -> list[Message]:
    groups: dict[Any, list[int]] = {}
    for number, one in enumerate(found):
        key = (_form(one.node), one.before, one.is_given) if _is_small(one.node) else number
        groups.setdefault(key, []).append(number)
    return [
        Message(tuple(part), all(_is_early(found[number]) for number in part))
        for members in groups.values()
        for part in _parts(members, found)
    ]


def _parts(members: Sequence[int], found: Sequence[Dependence]) -> list[list[int]]:
    """The members of one group as messages that are not too long."""
    parts: list[list[int]] = [[]]
    size = 0
    for number in members:
        num_bytes = _record(found[number].node).num_bytes
        if parts[-1] and size + num_bytes > MESSAGE_BYTES:
            parts.append([])
            size = 0
        parts[-1].append(number)
        size += num_bytes
    return parts


def _sorted(messages: Sequence[Message], found: Sequence[Dependence]) -> list[int]:
    """The messages by the places of their first members, none before what it depends on."""
    owner = {number: index for index, message in enumerate(messages) for number in message.members}
    needs = [{owner[other] for other in _last_needed(_before(message, found), found)} for message in messages]
    readers: list[list[int]] = [[] for _ in messages]
    for index, needed in enumerate(needs):
        for other in needed:
            readers[other].append(index)
    missing = [len(needed) for needed in needs]
    places = [_place(message, found) for message in messages]
    waiting = [(places[index], index) for index, count in enumerate(missing) if not count]
    heapq.heapify(waiting)
    order = []
    while waiting:
        _, index = heapq.heappop(waiting)
        order.append(index)
        for reader in readers[index]:
            missing[reader] -= 1
            if not missing[reader]:
                heapq.heappush(waiting, (places[reader], reader))
    assert len(order) == len(messages), "no message waits for itself"
    return order


def _before(message: Message, found: Sequence[Dependence]) -> int:
    before = 0
    for number in message.members:
        before |= found[number].before
    return before


def _place(message: Message, found: Sequence[Dependence]) -> tuple[int, int]:
    members = [found[number] for number in message.members]
    return min((one.ready if message.early else one.place, one.place) for one in members)


def _is_early(one: Dependence) -> bool:
    is_large = kind_of(one.node.target) is CollectiveKind.ALL_GATHER and _record(one.node).num_bytes > EARLY_BYTES
    return one.is_given and not is_large


def _is_small(node: fx.Node) -> bool:
    """Whether a value is small whatever the program is given: sizes that may grow are not known to be."""
    value: Any = node.args[0]
    is_known = all(type(size) is int for size in value.meta["val"].shape)
    return is_known and _record(node).num_bytes <= SMALL_BYTES


def _form(node: fx.Node) -> tuple[Any, ...]:
    """What values have in common that can be sent as one: kind, axis, dtype, and how they are reduced."""
    value: Any = node.args[0]
    op = node.args[1] if kind_of(node.target) in REDUCING else ""
    return node.target, _record(node).axis, value.meta["val"].dtype, value.meta["val"].device, op


def _record(node: fx.Node) -> Collective:
    return node.meta["collective"]


def _last_needed(before: int, found: Sequence[Dependence]) -> list[int]:
    """Of the collectives that must have come before, those that no other of them needs: they come after the others."""
    last = []
    while before:
        number = before.bit_length() - 1
        last.append(number)
        before &= ~(found[number].before | 1 << number)
    return last
