"""Static caches that a model writes in place: held where their heads are, from one call to the next and from one
program to another.
"""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.export import Dim

import shardwright as sw
from tests.support.caches import (
    BATCH,
    LENGTH,
    STEPS,
    WRITES,
    Cached,
    by_index_copy,
    by_index_put,
    by_scatter,
    tokens,
)
from tests.support.models import redraw, relative_error
from tests.support.sharding import PLAN, Attend, check, chunks, held, kinds, units


def by_rolling(cache, position, new):
    """A window: what is oldest leaves (the position says nothing)."""
    cache.copy_(torch.cat((cache[:, :, new.shape[2] :], new), 2))


def follow(model, programs, steps):
    """Run steps of (program, tokens, positions) on all ranks, each on the buffers that the one before it left."""
    model = redraw(model).double()
    simulations = [sharded.simulation() for sharded in programs]
    state = simulations[0].state
    for which, x, position in steps:
        simulations[which].state = state
        wanted = model(x, position)
        for got in simulations[which](x, position):
            assert relative_error(got, wanted) < 1e-9


def prefill_and_decode(model, num_ranks, plan, **options):
    programs = [check(model, (x, position), num_ranks, plan, **options) for _, x, position in STEPS[:2]]
    for sharded in programs:
        assert kinds(sharded) == {"all_reduce": 1}
    return programs


@pytest.mark.parametrize(
    ("write", "plan", "num_ranks"),
    [
        *((write, PLAN, 2) for write in WRITES),
        (by_index_put, PLAN, 3),
        (by_scatter, "auto", 4),
    ],
)
def test_a_cache_is_held_where_its_heads_are(write, plan, num_ranks):
    programs = prefill_and_decode(Cached(write), num_ranks, plan)
    for sharded in programs:
        assert held(sharded, "keys", 1) == held(sharded, "values", 1) == chunks(4, num_ranks)
        assert units(sharded, "k_proj.weight", 4) == chunks(4, num_ranks)
    follow(Cached(write), programs, STEPS)


class LargeCache(Cached):
    """A cache as large as the weights, three heads of it on two ranks, and layers that halve."""

    batch = 128

    def __init__(self):
        super().__init__(by_index_copy, heads=9, kv_heads=3)
        self.up, self.down = nn.Linear(self.width, 512), nn.Linear(512, self.width)

    def forward(self, x, position):
        return super().forward(x, position) + self.down(self.up(x).relu())


def test_a_cache_that_does_not_halve_is_not_gathered_to_keep_the_bound_on_bytes():
    sharded = check(LargeCache(), (tokens(1, LargeCache.batch), torch.tensor([0])), 2)
    assert kinds(sharded) == {"all_reduce": 1}
    assert held(sharded, "keys", 1) == held(sharded, "values", 1) == [[0, 1], [2]]


def by_slice(cache, position, new):
    """The beginning is written, as a prefill does."""
    cache[: new.shape[0], :, : new.shape[2]] = new


@pytest.mark.parametrize(("write", "count"), [(by_slice, 3), (by_rolling, 1)])
def test_a_slice_of_a_cache_is_written_where_its_heads_are(write, count):
    steps = [(0, tokens(count, seed=s), torch.arange(count)) for s in range(3)]
    sharded = check(Cached(write), steps[0][1:], 2, PLAN)
    assert kinds(sharded) == {"all_reduce": 1}
    assert held(sharded, "keys", 1) == held(sharded, "values", 1) == chunks(4, 2)
    follow(Cached(write), [sharded], steps)


def test_a_cache_of_two_heads_on_four_ranks_is_cut_in_two():
    model = Cached(by_index_put, kv_heads=2)
    programs = prefill_and_decode(model, 4, PLAN, slack=0.5)
    for sharded in programs:
        assert sharded.mesh.axes == (("tp.0", 2), ("tp.1", 2))
        assert held(sharded, "keys", 1) == held(sharded, "values", 1) == [[0], [0], [1], [1]]
        assert units(sharded, "q_proj.weight", 4) == chunks(8, 4)
    follow(model, programs, STEPS)


def test_a_cache_of_one_head_is_on_every_rank():
    model = Cached(by_index_copy, kv_heads=1)
    programs = prefill_and_decode(model, 4, {"q_proj": "colwise", "o_proj": "rowwise"})
    for sharded in programs:
        assert held(sharded, "keys", 1) == held(sharded, "values", 1) == [[0]] * 4
        assert units(sharded, "q_proj.weight", 4) == chunks(8, 4)
    follow(model, programs, STEPS)


class CachedFor(Cached):
    """A cache for more sequences than are given: the first ones of it are used."""

    batch = 4

    def forward(self, x, position):
        q, k, v = self.project(x)
        keys, values = self.keys[: x.shape[0]], self.values[: x.shape[0]]
        self.write(keys, position, k)
        self.write(values, position, v)
        seen = torch.arange(LENGTH) <= position[:, None]
        out = F.scaled_dot_product_attention(q, keys, values, attn_mask=seen, enable_gqa=True)
        return self.o_proj(out.transpose(1, 2).flatten(2))


@pytest.mark.parametrize(("write", "plan", "num_ranks"), [(by_index_copy, PLAN, 2), (by_index_put, "auto", 4)])
def test_one_program_for_any_number_of_tokens_and_sequences(write, plan, num_ranks):
    count = Dim("count", max=LENGTH)
    dynamic = ({0: Dim("batch", max=CachedFor.batch), 1: count}, {0: count})
    sharded = check(CachedFor(write), (tokens(3), torch.arange(3)), num_ranks, plan, dynamic=dynamic)
    assert kinds(sharded) == {"all_reduce": 1}
    assert held(sharded, "keys", 1) == held(sharded, "values", 1) == chunks(4, num_ranks)
    assert sharded.exported(0).range_constraints == sharded.program.source.range_constraints
    lone = [(0, tokens(2, 1, seed=9), torch.arange(6, 8)), (0, tokens(1, 1, seed=8), torch.tensor([5]))]
    follow(CachedFor(write), [sharded] * 2, [*((0, x, at) for _, x, at in STEPS), *lone])


class Given(Attend):
    """Caches come from outside and are written in place, or returned longer."""

    kv_heads = 4

    def __init__(self, *, in_place):
        super().__init__()
        self.in_place = in_place

    def forward(self, x, keys, values):
        q, k, v = self.project(x)
        if self.in_place:
            by_index_copy(keys, torch.arange(x.shape[1]), k)
            by_index_copy(values, torch.arange(x.shape[1]), v)
        else:
            keys, values = torch.cat((keys, k), 2), torch.cat((values, v), 2)
        out = F.scaled_dot_product_attention(q, keys, values, enable_gqa=True)
        out = self.o_proj(out.transpose(1, 2).flatten(2))
        return out if self.in_place else (out, keys, values)


@pytest.mark.parametrize("plan", [{}, "auto"], ids=["no plan", "auto"])
@pytest.mark.parametrize("in_place", [True, False])
def test_caches_from_outside_come_and_go_cut_on_their_heads(in_place, plan):
    """The layout of the caches says enough: without a plan all that follows is cut too."""
    caches = [torch.randn(BATCH, 4, LENGTH, 4, generator=torch.Generator().manual_seed(s)) for s in (1, 2)]
    cut = {"inputs": {"keys": sw.Shard(1), "values": sw.Shard(1)}}
    if not in_place:
        cut["outputs"] = {"1": sw.Shard(1), "2": sw.Shard(1)}
    sharded = check(Given(in_place=in_place), (tokens(3), *caches), 2, plan, **cut)
    assert kinds(sharded) == {"all_reduce": 1}
    assert units(sharded, "k_proj.weight", 4) == units(sharded, "v_proj.weight", 4) == chunks(4, 2)
    assert units(sharded, "q_proj.weight", 4) == units(sharded, "o_proj.weight", 4, 1) == chunks(8, 2)


class HeldElsewhere(Attend):
    """A cache in a plain object, as transformers holds it; whether the module knows it as a buffer too."""

    def __init__(self, is_buffer):
        super().__init__()
        self.held = [torch.zeros(BATCH, 8, LENGTH, 4)]
        if is_buffer:
            self.register_buffer("keys", self.held[0])

    def attend(self, q, k, v):
        self.held[0].index_copy_(2, torch.arange(k.shape[2]), k)
        return super().attend(q, self.held[0], self.held[0])


@pytest.mark.parametrize(("is_buffer", "says"), [(True, r"'lifted_tensor_0' is 'keys'"), (False, "mutated")])
def test_a_cache_that_the_program_does_not_know_as_its_buffer_is_an_error_that_says_so(is_buffer, says):
    exported = torch.export.export(redraw(HeldElsewhere(is_buffer)), (tokens(3).float(),), strict=False)
    with pytest.raises(sw.ProgramError, match=rf"(?s){says}.*register .* as buffers.*strict=True"):
        sw.shard(exported, mesh=2)


def llama_with_a_static_cache():
    """As transformers makes a decoder ready for export."""
    transformers = pytest.importorskip("transformers", reason="needs the extra 'hf'")
    executorch = pytest.importorskip("transformers.integrations.executorch")
    config = transformers.LlamaConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=8,
        num_key_value_heads=2,
        vocab_size=64,
        max_position_embeddings=LENGTH,
    )
    model = redraw(transformers.LlamaForCausalLM(config)).double()
    model.generation_config.cache_implementation = "static"
    return executorch.TorchExportableModuleWithStaticCache(model, batch_size=BATCH, max_cache_len=LENGTH).eval()


def test_the_static_cache_of_transformers_is_cut_by_the_plan_that_it_ships():
    ids = torch.randint(3, 64, (BATCH, 6), generator=torch.Generator().manual_seed(0))
    steps = [(0, torch.arange(3)), *((1, torch.tensor([place])) for place in (3, 4, 5))]
    model, programs = llama_with_a_static_cache(), []
    for count in (3, 1):
        given = {"input_ids": ids[:, :count], "cache_position": torch.arange(count)}
        exported = torch.export.export(model, (), given, strict=True)
        sharded = sw.shard(exported, mesh=4, plan="hf")
        assert sw.verify(sharded, exported, (), given, tolerance=1e-9).ok
        # Two a layer, one to look up words, one for the logits.
        assert kinds(sharded) == {"all_reduce": 2 + 1, "all_gather": 1}
        assert held(sharded, "key_cache_0", 1) == held(sharded, "value_cache_0", 1) == [[0], [0], [1], [1]]
        assert units(sharded, "model.model.layers.0.self_attn.k_proj.weight", 4) == [[0], [0], [1], [1]]
        assert units(sharded, "model.model.layers.0.self_attn.q_proj.weight", 4) == chunks(8, 4)
        programs.append(sharded)
    fresh, simulations = llama_with_a_static_cache(), [sharded.simulation() for sharded in programs]
    for which, places in steps:
        simulations[which].state = simulations[0].state
        wanted = fresh(input_ids=ids[:, places], cache_position=places)
        for got in simulations[which](input_ids=ids[:, places], cache_position=places):
            assert relative_error(got, wanted) < 1e-9
