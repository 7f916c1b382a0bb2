"""Small models of the kinds people shard, with sizes that ranks divide and sizes that they do not, in float64."""

from collections.abc import Callable

import torch
from tests.support.inside import Branches, Loop, Rows
from tests.support.models import Cache, Decoder, Gated, LinearNorm, MLPs, PackedAttention, RMSNorm, redraw
from torch import nn

Example = tuple[torch.Tensor, ...]


class Encoder(nn.Module):
    """One of torch's own encoder layers over embedded ids, and a head; ids (batch, sequence) → classes."""

    def __init__(self, width=12, heads=3, hidden=20):
        super().__init__()
        self.embed = nn.Embedding(11, width)
        self.layer = nn.TransformerEncoderLayer(width, heads, hidden, batch_first=True, norm_first=True)
        self.head = nn.Linear(width, 5)

    def forward(self, ids):
        return self.head(self.layer(self.embed(ids)).mean(1))


class Vision(nn.Module):
    """Convolutions with groups, norms over channels and pools, and a head."""

    def __init__(self, channels=6):
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 3, padding=1)
        self.norm = nn.BatchNorm2d(channels)
        self.deep = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.wide = nn.Conv2d(channels, 2 * channels, 1)
        self.group = nn.GroupNorm(3, 2 * channels)
        self.head = nn.Linear(2 * channels, 7)

    def forward(self, images):
        x = self.norm(self.stem(images)).relu()
        x = nn.functional.max_pool2d(x + self.deep(x), 2)
        return self.head(self.group(self.wide(x)).mean((2, 3)))


class Recurrent(nn.Module):
    """An LSTM and a head over all its steps."""

    def __init__(self, width=6, hidden=8):
        super().__init__()
        self.lstm = nn.LSTM(width, hidden, batch_first=True)
        self.head = nn.Linear(hidden, 3)

    def forward(self, x):
        return self.head(self.lstm(x)[0])


class Experts(nn.Module):
    """A router that weighs two of the experts of a bank, all of which run; (tokens, width) → the same."""

    def __init__(self, width=8, hidden=12, count=4):
        super().__init__()
        self.router = nn.Linear(width, count)
        self.up = nn.Parameter(torch.randn(count, width, hidden))
        self.down = nn.Parameter(torch.randn(count, hidden, width))

    def forward(self, x):
        weights, chosen = self.router(x).softmax(-1).topk(2, -1)
        gates = torch.zeros(x.shape[0], self.up.shape[0], dtype=x.dtype).scatter(1, chosen, weights)
        found = torch.einsum("tw,ewh->eth", x, self.up).relu()
        return torch.einsum("eth,ehw,te->tw", found, self.down, gates)


class WideNorm(RMSNorm):
    """The norm written out as models have it, but for the cast: in float64 nothing is lost on the way."""

    def forward(self, x):
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


def _ids(high: int, *shape: int) -> torch.Tensor:
    return torch.randint(0, high, shape, generator=torch.Generator().manual_seed(1))


def _floats(*shape: int) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


MODELS: dict[str, Callable[[], tuple[nn.Module, Example]]] = {
    "branches": lambda: (Branches(), (_floats(4, 8),)),
    "cache": lambda: (Cache(), (_floats(2, 1, 16), torch.tensor([2]))),
    "decoder": lambda: (Decoder(1, 24, 6, 3, 20, 30), (_ids(30, 2, 5),)),
    "decoder of one key-value head": lambda: (Decoder(2, 16, 4, 1, 24, 17), (_ids(17, 2, 3),)),
    "decoder, tied": lambda: (Decoder(1, 32, 8, 4, 48, 32, tied=True), (_ids(32, 2, 4),)),
    "encoder": lambda: (Encoder(), (_ids(11, 2, 4),)),
    "experts": lambda: (Experts(), (_floats(5, 8),)),
    "gated": lambda: (Gated(2, 10, 14), (_floats(3, 10),)),
    "linear norm": lambda: (LinearNorm(), (_floats(4, 3),)),
    "loop": lambda: (Loop(), (_floats(4, 8),)),
    "mlps": lambda: (MLPs(), (_floats(2, 12),)),
    "packed attention": lambda: (PackedAttention(24, 6), (_floats(2, 4, 24),)),
    "recurrent": lambda: (Recurrent(), (_floats(2, 4, 6),)),
    "rows": lambda: (Rows(), (_floats(4, 8),)),
    "vision": lambda: (Vision(), (_floats(2, 3, 6, 6),)),
}


def make(name: str) -> tuple[nn.Module, Example]:
    """A model with drawn weights, in eval mode, and an example of its inputs."""
    model, example = MODELS[name]()
    for module in model.modules():
        if isinstance(module, RMSNorm):
            module.__class__ = WideNorm
    return redraw(model).double(), example
