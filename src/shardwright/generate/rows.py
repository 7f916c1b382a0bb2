"""Texts side by side in the rows of a static key-value cache: they come, take a step together, and leave.

The last tokens of all texts lie in one column, so that one call writes the next token of each. Before a shorter text
lie zeros, which its mask leaves out::

    row 0   · · · a b c       a text of three tokens
    row 1   d e f g h i       the longest begins in the first column
    row 2   · · · · · j

Prompts are read without padding, as each is alone, and moved to where the others end. When texts leave, the last row
fills the gap, and all move to the left until the longest begins in the first column. So a text has as much of the
cache as it has alone, and calls cost what is live. All ranks do the same: each has its heads of all rows.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from shardwright.package.manifest import Manifest, TensorEntry
from shardwright.program.program import held_by
from shardwright.run.load import RankModule


@dataclass(slots=True)
class Row:
    """One text while it is written. ``number``: its place among the prompts. ``ids``: prompt and what follows.

    ``most_new``: how many tokens may follow. ``randomness``: its own, for sampling.
    """

    number: int
    ids: list[int]
    most_new: int
    randomness: torch.Generator
    num_new: int = 0
    began_s: float = field(default_factory=time.perf_counter)

    def add(self, token: int) -> None:
        """One more token."""
        self.ids.append(token)
        self.num_new += 1

    @property
    def seconds(self) -> float:
        """Since its prompt was begun."""
        return time.perf_counter() - self.began_s


class LiveRows:
    """The live texts of a decoder's cache: ``live[i]`` lies in row i, its last cached token in column ``num_seen`` - 1.

    Calls run within `RankModule.alone`, without gradients.
    """

    def __init__(self, model: RankModule) -> None:
        self.model = model
        self.live: list[Row] = []
        self.num_seen = 0
        held, signature = held_by(model.exported), model.exported.graph_signature
        # (rows, heads, tokens, head size), the heads this rank's.
        self._buffers = [held[name] for name in signature.buffers_to_mutate.values()]

    def admit(self, new: Sequence[Row], *, num_cached: int = 0) -> torch.Tensor:
        """Read prompts of one length; their logits (rows, vocabulary). They are the first rows then.

        ``num_cached``: how many tokens of the one prompt the first row holds already, where nothing else is live.
        """
        count, before, length = len(new), len(self.live), len(new[0].ids)
        for row in range(min(count, before)):
            self._copy(row, max(count, before) + row)
        self.live = [*new, *self.live[count:], *self.live[:count]]
        given = [row.ids[num_cached:] for row in new]
        logits = self._call(given, torch.ones(count, length, dtype=torch.long))
        if before:
            self._move_right(slice(0, count), length, self.num_seen - length)
            self._move_right(slice(count, count + before), self.num_seen, length - self.num_seen)
        self.num_seen = max(length, self.num_seen)
        return logits

    def step(self) -> torch.Tensor:
        """Read the last token of every text; the logits (rows, vocabulary) of what follows."""
        self.num_seen += 1
        padding = torch.tensor([self.num_seen - len(row.ids) for row in self.live])
        seen = torch.arange(self.num_seen) >= padding[:, None]
        return self._call([row.ids[-1:] for row in self.live], seen.long())

    def leave(self, ended: Sequence[Row]) -> None:
        """Take texts out. The last token of every other one has been chosen, and is not read yet."""
        for row in sorted((self.live.index(one) for one in ended), reverse=True):
            last = self.live.pop()
            if row < len(self.live):
                self._copy(len(self.live), row)
                self.live[row] = last
        longest = max((len(row.ids) - 1 for row in self.live), default=0)
        unused = self.num_seen - longest
        if unused and self.live:
            for buffer in self._buffers:
                kept = buffer[: len(self.live), :, unused : self.num_seen].clone()
                buffer[: len(self.live), :, :longest] = kept
        self.num_seen = longest

    def _call(self, given: list[list[int]], seen: torch.Tensor) -> torch.Tensor:
        return self.model(input_ids=torch.tensor(given), attention_mask=seen)[:, -1]

    def _copy(self, source: int, target: int) -> None:
        for buffer in self._buffers:
            buffer[target, :, : self.num_seen] = buffer[source, :, : self.num_seen]

    def _move_right(self, rows: slice, length: int, by: int) -> None:
        """Move the first ``length`` columns of rows, and leave zeros: what an ended text left could be no number."""
        if by <= 0:
            return
        for buffer in self._buffers:
            buffer[rows, :, by : by + length] = buffer[rows, :, :length].clone()
            buffer[rows, :, :by] = 0


def count_rows(model: RankModule) -> int:
    """How many texts a package writes at a time: 1 where a mesh axis cuts the cache along texts or tokens."""
    manifest: Manifest = model.manifest
    assert manifest.decoder is not None, "a package without a decoder has no rows"
    caches = set(model.exported.graph_signature.buffers_to_mutate.values())
    is_cut = any(_cuts_rows(entry) for entry in manifest.tensors if entry.name in caches)
    return 1 if is_cut else manifest.decoder.batch


def _cuts_rows(entry: TensorEntry) -> bool:
    layouts = [*entry.layouts.values(), *(one for others in entry.elsewhere.values() for one in others.values())]
    return any(isinstance(layout, dict) and layout.get("shard") in (0, 2) for layout in layouts)
