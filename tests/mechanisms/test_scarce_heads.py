"""Key-value heads fewer than the ranks beside other weights that every rank has a piece of."""

import pytest
import torch
from torch import nn

from tests.support.models import MEGATRON, Decoder
from tests.support.sharding import PLAN, Attend, check, chunks, held, kinds, units

IDS = torch.randint(0, 96, (2, 8), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("tied", [False, True])
def test_a_vocabulary_cut_twice_is_summed_once_and_its_logits_gathered_once(tied):
    model = Decoder(layers=1, heads=8, kv_heads=2, width=32, hidden=64, tied=tied)
    plan = {**MEGATRON, "embed": "embedding_rowwise", "lm_head": "colwise_rep"}
    sharded = check(model, (IDS,), 4, plan)
    assert sharded.mesh.axes == (("tp.0", 2), ("tp.1", 2))
    assert kinds(sharded) == {"all_reduce": 2 + 1, "all_gather": 1}
    assert {c.axis for c in sharded.collectives} == {"tp"}
    assert held(sharded, "embed.weight") == held(sharded, "lm_head.weight") == chunks(96, 4)
    assert units(sharded, "layers.0.self_attn.k_proj.weight", 4) == [[0], [0], [1], [1]]


class Parallel(nn.Module):
    """Attention of few key-value heads and an MLP side by side: what went in joins two partial sums."""

    class Few(Attend):
        kv_heads = 2

        def attend(self, q, k, v):
            return super().attend(q, *(y.repeat_interleave(4, 1) for y in (k, v)))

    def __init__(self):
        super().__init__()
        self.before, self.after = nn.LayerNorm(32), nn.LayerNorm(32)
        self.attention, self.up, self.down = self.Few(), nn.Linear(32, 64), nn.Linear(64, 32)

    def forward(self, x):
        y = self.before(x)
        return self.after(x + self.attention(y) + self.down(torch.relu(self.up(y))))


def test_a_parallel_block_is_summed_once_on_a_split_axis():
    """The residual is whole on one rank of the sum and zero on the others, in graphs of the same steps."""
    plan = {f"attention.{key}": style for key, style in PLAN.items()} | {"up": "colwise", "down": "rowwise"}
    x = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(0))
    sharded = check(Parallel(), (x,), 4, plan)
    assert sharded.mesh.axes == (("tp.0", 2), ("tp.1", 2))
    assert kinds(sharded) == {"all_reduce": 1}
