"""Choosing the next token from logits."""

import hashlib
from dataclasses import dataclass

import torch

from shardwright.errors import InputError
from shardwright.layout.values import check_number, is_count


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a token is chosen. ``temperature`` 0: the likeliest (greedy). ``top_p``: drawn from the likeliest tokens
    whose probabilities together reach it. ``seed``: equal seeds draw equal tokens. Of several texts, each has draws of
    its own, which follow from the seed and its place in the list.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise `InputError` for a value of another kind or out of range."""
        check_number(self.temperature, "temperature", least=0, error=InputError)
        if check_number(self.top_p, "top_p", above=0, error=InputError) > 1:
            raise InputError(f"top_p must be at most 1, got {self.top_p!r}")
        if not is_count(self.seed) or not -(2**63) <= self.seed < 2**64:
            raise InputError(f"seed must be a whole number of 64 bits, got {self.seed!r}")

    def generator(self, row: int = 0) -> torch.Generator:
        """A new source of randomness for one of several texts; the first one's is at the seed itself."""
        if row == 0:
            return torch.Generator().manual_seed(self.seed)
        # Numbers in a row would make the second text of one seed the first of the next.
        mixed = hashlib.sha256(f"{self.seed}/{row}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(mixed[:8], "big", signed=True))

    def choose(self, logits: torch.Tensor, generator: torch.Generator) -> int:
        """The next token's id from its logits (vocabulary,)."""
        if self.temperature == 0:
            return int(logits.argmax())
        probabilities = torch.softmax(logits.double().cpu() / self.temperature, -1)
        ordered, ids = probabilities.sort(descending=True)
        # A token stays while those before it have not reached top_p: the first always does.
        ordered[ordered.cumsum(0) - ordered >= self.top_p] = 0
        return int(ids[torch.multinomial(ordered, 1, generator=generator)])
