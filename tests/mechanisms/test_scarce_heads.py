"""Key-value heads fewer than the ranks beside other weights that every rank has a piece of."""

import pytest
import torch

from tests.mechanisms.sharding import check, chunks, held, kinds, units
from tests.models import MEGATRON, Decoder

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
