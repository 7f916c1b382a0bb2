"""What is compiled with one layer for many is what is compiled layer by layer."""

import pytest
import torch
from torch import nn
from torch.export import Dim
from transformers import AutoConfig, AutoModelForCausalLM

import shardwright as sw
from tests.support.both_ways import assert_same, both_ways, is_deepened
from tests.support.caches import Cached, by_index_copy, tokens
from tests.support.models import GLU, MEGATRON, Decoder

LAYERS = 9
IDS = torch.arange(24).view(2, 12)


class Stacks(nn.Module):
    """Two stacks, one after the other: attention that writes caches, then feed-forward layers. ``taps``: also returns
    what every layer gives.
    """

    def __init__(self, *, taps):
        super().__init__()
        self.lower = nn.ModuleList(Cached(by_index_copy, 4, 2) for _ in range(LAYERS))
        self.upper = nn.ModuleList(GLU(Cached.width, 24) for _ in range(LAYERS))
        self.taps = taps

    def forward(self, x, position):
        seen = []
        for layer in self.lower:
            x = x + layer(x, position)
            seen.append(x)
        for layer in self.upper:
            x = layer(x)
            seen.append(x)
        return (x, seen) if self.taps else x


def decoder(**options):
    torch.manual_seed(0)
    return torch.export.export(Decoder(LAYERS, width=32, heads=8, kv_heads=2, hidden=48, **options).eval(), (IDS,))


@pytest.fixture(scope="module")
def llama():
    return decoder()


@pytest.mark.parametrize(
    ("mesh", "plan"),
    [
        (2, "auto"),
        (4, "auto"),
        (3, "auto"),
        (4, MEGATRON),
        ({"dp": 2, "tp": 4}, {"tp": MEGATRON}),
        ({"a": 2, "b": 3}, "auto"),
    ],
    ids=["2", "4", "3", "4 megatron", "2 x 4 megatron", "2 x 3"],
)
def test_a_decoder(llama, mesh, plan):
    found, wanted = both_ways(llama, mesh=mesh, plan=plan)
    assert is_deepened(found)
    assert_same(found, wanted)
    assert sw.verify(found, llama, (IDS,)).ok


def test_a_batch_of_any_size(llama):
    model = Decoder(LAYERS, width=32, heads=8, kv_heads=4, hidden=48).eval()
    exported = torch.export.export(model, (IDS,), dynamic_shapes=({0: Dim("batch", min=2)},))
    found, wanted = both_ways(exported, mesh=4)
    assert is_deepened(found)
    assert_same(found, wanted)
    assert sw.verify(found, exported, (torch.arange(36).view(3, 12),)).ok


@pytest.mark.parametrize("taps", [False, True])
def test_two_stacks_with_caches(taps):
    torch.manual_seed(0)
    model, (x, position) = Stacks(taps=taps).eval(), (tokens(3).float(), torch.arange(3))
    exported = torch.export.export(model, (x, position))
    found, wanted = both_ways(exported, mesh=2)
    assert is_deepened(found)
    assert_same(found, wanted)
    assert sw.verify(found, exported, (x, position)).ok


class Extremes(nn.Module):
    """A layer that moves what it cuts by its extremes: reductions that are written out where they save a gather."""

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(8, 12), nn.Linear(12, 8)

    def forward(self, x):
        y = self.up(x)
        return x + self.down(y - y.amax(-1, keepdim=True) + y.amin(-1, keepdim=True))


def test_operators_that_are_written_out():
    torch.manual_seed(0)
    x = torch.randn(2, 3, 8)
    exported = torch.export.export(nn.Sequential(nn.Sequential(*(Extremes() for _ in range(LAYERS)))).eval(), (x,))
    found, wanted = both_ways(exported, mesh=2, plan={"0.*.up": "colwise", "0.*.down": "rowwise"})
    assert is_deepened(found)
    assert len(found.assignment.expanded) == len(wanted.assignment.expanded) == 2 * LAYERS
    assert_same(found, wanted)
    assert sw.verify(found, exported, (x,)).ok


def test_ranks_whose_code_is_their_own():
    """A vocabulary that three ranks cut unevenly, under layers that are alike."""
    exported = decoder(vocab=97, tied=True)
    found, wanted = both_ways(exported, mesh=3)
    assert is_deepened(found)
    assert_same(found, wanted)
    assert sw.verify(found, exported, (IDS,)).ok


def test_what_is_cut_behind_the_last_layer_is_of_that_layer():
    """A StableLM on three ranks, whose last norm reads a slice of what the last of the layers gives."""
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 8, "num_key_value_heads": 4}
    config = AutoConfig.for_model("stablelm", num_hidden_layers=LAYERS, vocab_size=256, **sizes)
    given = {"input_ids": IDS, "use_cache": False}
    exported = torch.export.export(AutoModelForCausalLM.from_config(config).eval(), (), given, strict=False)
    found, wanted = both_ways(exported, mesh=3)
    assert is_deepened(found)
    assert_same(found, wanted)


def test_a_program_that_is_given_up_is_written_again(llama):
    found = sw.shard(llama, mesh=2)
    before = [node.name for node in found.compiled.finished((0,)).graph.nodes]
    found.exported(0)
    assert [node.name for node in found.compiled.finished((0,)).graph.nodes] == before
    assert found.exported(0).graph_signature == found.exported(0).graph_signature


def test_a_dump_holds_every_layer(llama, tmp_path):
    sw.shard(llama, mesh=2, dump=tmp_path / "dump")
    for stage in ("program", "partitioned", "merged", "lean"):
        (file,) = (tmp_path / "dump").glob(f"*{stage}.txt")
        assert all(f"layers.{number}." in file.read_text() for number in range(LAYERS)), stage
