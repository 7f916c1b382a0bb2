"""One weight in several places: it is held once, cut once, and every place reads it as it lies."""

import pytest
import torch
from torch import nn

from tests.support.models import GLU
from tests.support.sharding import check, chunks, held, kinds, units

WORDS, WIDTH = 64, 16
IDS = torch.randint(0, WORDS, (2, 5), generator=torch.Generator().manual_seed(0))


class Tables(nn.Module):
    """T5, BART: a table that both sides look up words in, that is the head too, and has a name nothing reads."""

    def __init__(self, first):
        super().__init__()
        self.names = [name for name in ("shared", "source", "target", "head") if name != first]
        for name in (first, *self.names):
            module = nn.Linear(WIDTH, WORDS, bias=False) if name == "head" else nn.Embedding(WORDS, WIDTH)
            setattr(self, name, module)
        for name in self.names:
            getattr(self, name).weight = getattr(self, first).weight

    def forward(self, ids):
        return self.head(torch.tanh(self.source(ids)).cumsum(1) * torch.sigmoid(self.target(ids)))


@pytest.mark.parametrize("plan", ["auto", {"target": "embedding_rowwise"}, {"shared": "embedding_rowwise"}])
@pytest.mark.parametrize("first", ["shared", "source", "head"])
def test_a_table_of_many_names_is_cut_though_nothing_reads_one_of_them(first, plan):
    sharded = check(Tables(first), (IDS,), 2, plan, slack=0)
    # Cut by its features, the logits are the only sum; by its rows, each of three uses communicates.
    assert len(sharded.collectives) == (1 if plan == "auto" else 3)
    dim = next(w.layouts["tp"].dim for w in sharded.weights)
    for name in ("shared", "source", "target", "head"):
        assert held(sharded, f"{name}.weight", dim) == chunks((WORDS, WIDTH)[dim], 2)


class Tower(nn.Module):
    """A tied table beside a block of half its size."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(WORDS, WIDTH), nn.Linear(WIDTH, WORDS, bias=False)
        self.head.weight = self.embed.weight
        self.block = GLU(WIDTH, WORDS // 6)

    def forward(self, ids):
        return self.head(self.block(self.embed(ids)))


def test_a_tied_table_counts_once_among_the_bytes_of_the_automatic_plan():
    """Were it counted twice, the slack would let a rank hold all of the block."""
    sharded = check(Tower(), (IDS,), 2, "auto", slack=0.3)
    by_name = {w.name: max(w.rank_bytes) for w in sharded.weights if w.name != "head.weight"}
    whole = sum(w.num_bytes for w in sharded.weights if w.name != "head.weight")
    assert sum(by_name.values()) <= 1.3 * whole / 2 + 8


def albert():
    transformers = pytest.importorskip("transformers", reason="needs the extra 'hf'")
    config = transformers.AlbertConfig(
        vocab_size=WORDS,
        embedding_size=8,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=16,
    )
    return transformers.AlbertModel(config, add_pooling_layer=False)


class Hidden(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, ids):
        return self.model(ids).last_hidden_state


ALBERT = {
    "**.[query,key,value]": "colwise",
    "**.attention.dense": "rowwise",
    "**.ffn": "colwise",
    "**.ffn_output": "rowwise",
}


@pytest.mark.parametrize(("plan", "num_ranks"), [(ALBERT, 2), (ALBERT, 4), ("auto", 2)])
def test_layers_that_share_their_weights_are_cut_once_and_cost_two_sums_each(plan, num_ranks):
    sharded = check(Hidden(albert()), (IDS,), num_ranks, plan)
    layer = "model.encoder.albert_layer_groups.0.albert_layers.0"
    assert len([w for w in sharded.weights if w.name.endswith("query.weight")]) == 1
    for name in ("query", "key", "value"):
        assert units(sharded, f"{layer}.attention.{name}.weight", 8) == chunks(4, num_ranks)
    assert (
        held(sharded, f"{layer}.ffn.weight") == held(sharded, f"{layer}.ffn_output.weight", 1) == chunks(64, num_ranks)
    )
    assert kinds(sharded)["all_reduce"] == 2 * 3


class Kept(nn.Module):
    """Performer: layers that are also held by a second module. The first of them does more than the others."""

    def __init__(self, depth):
        super().__init__()
        self.net = nn.Module()
        self.net.layers = nn.ModuleList(nn.Sequential(nn.LayerNorm(WIDTH), GLU(WIDTH, 4 * WIDTH)) for _ in range(depth))
        self.net.layers[0].register_forward_pre_hook(lambda module, args: (torch.tanh(args[0]),))
        self.other = nn.Module()
        self.other.instance = self.net

    def forward(self, x):
        for layer in self.net.layers:
            x = x + layer(x)
        return x


@pytest.mark.parametrize("plan", ["auto", {"net.layers.*.1.gate_proj": "colwise"}])
def test_folded_layers_under_two_names_lie_alike_under_both(plan):
    torch.manual_seed(0)
    sharded = check(Kept(3), (torch.randn(2, 3, WIDTH),), 2, plan)
    lies = {w.name: w.layouts["tp"] for w in sharded.weights}
    names = [name for name in lies if name.startswith("net.")]
    assert len(names) == len(lies) / 2
    assert all(lies[name] == lies[name.replace("net.", "other.instance.")] for name in names)
