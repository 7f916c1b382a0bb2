"""Weights held as checkpoints pack them: what the busiest rank holds, and what ranks send, format by format."""

import copy
import functools
from types import SimpleNamespace

import pytest
import torch
from torchao.quantization.quantize_.workflows.intx.intx_unpacked_to_int8_tensor import IntxUnpackedToInt8Tensor

import shardwright as sw
from shardwright.sources.quantized.awq import UnpackAwq
from shardwright.sources.quantized.block_fp8 import UnpackBlocks
from shardwright.sources.quantized.compressed_tensors import UnpackCompressed
from shardwright.sources.quantized.gptq import UnpackGptq
from shardwright.sources.quantized.torchao_tensors import UnpackTorchao
from shardwright.sources.quantized.weight import PackedWeight, hold_packed
from tests.support.models import Decoder, redraw, relative_error
from tests.support.packed_weights import pack_awq, pack_blocks, pack_gptq, pack_ints, sends
from tests.support.quantized import PLAN, Block, rows

GROUP = 16


def pack_torchao(weight):
    made = IntxUnpackedToInt8Tensor.from_hp(weight, (1, GROUP), torch.int4)
    parts = {f"_weight_{part}": getattr(made, part) for part in ("qdata", "scale", "zero_point")}
    return parts, made.dequantize()


FORMATS = {
    "compressed-tensors": (
        lambda weight: pack_ints(weight, 4, (1, GROUP), symmetric=False),
        lambda shape: UnpackCompressed(shape, 4, (1, GROUP)),
    ),
    "gptq": (lambda weight: pack_gptq(weight, 4), lambda shape: UnpackGptq(shape, 4, GROUP, True)),
    "awq": (pack_awq, lambda shape: UnpackAwq(shape, GROUP)),
    "fp8": (lambda weight: pack_blocks(weight, (GROUP, GROUP)), lambda shape: UnpackBlocks((GROUP, GROUP))),
    "torchao": (pack_torchao, lambda shape: UnpackTorchao("_weight_", (1, GROUP))),
}


def packed_block(name, hidden):
    """A program whose two layers hold what a format packs, its input, and what its dequantised self gives."""
    model, x = redraw(Block(96, hidden)), rows(96)
    wanted = pack_layers(model, name, ("up", "down"))(x)
    with torch.no_grad():
        return torch.export.export(model, (x,)), x, wanted


def pack_layers(model, name, layers):
    """Have linear layers of a model hold what a format packs; the model with the weights that these stand for."""
    pack, unpack = FORMATS[name]
    dequantised = copy.deepcopy(model)
    for layer in layers:
        linear = model.get_submodule(layer)
        shape = tuple(linear.weight.shape)
        parts, plain = pack(linear.weight.detach().clone())
        parts = {last: one.contiguous() for last, one in parts.items() if last not in ("weight_shape", "g_idx")}
        dequantised.get_submodule(layer).weight.data = plain.float()
        held = {last: SimpleNamespace(shape=one.shape, dtype=one.dtype) for last, one in parts.items()}
        hold_packed(model, f"{layer}.weight", PackedWeight(shape, held, unpack(shape)))
        linear.load_state_dict(parts, assign=True)
    return dequantised


@pytest.mark.parametrize("name", FORMATS)
def test_the_busiest_rank_holds_its_share_and_sends_no_more(name):
    exported, x, wanted = packed_block(name, 192)
    assert relative_error(exported.module()(x), wanted) < 1e-5
    plain = torch.export.export(redraw(Block(96, 192)), (x,))
    for num_ranks in (2, 3, 4):
        sharded = sw.shard(exported, mesh=num_ranks, plan=PLAN)
        assert sw.verify(sharded, exported, (x,)).ok
        assert sends(sharded) == sends(sw.shard(plain, mesh=num_ranks, plan=PLAN))
        for weight in sharded.weights:
            # Twelve groups: 6, 4 or 3 of them a rank.
            assert max(weight.rank_bytes) == weight.num_bytes / num_ranks, weight.name


@pytest.mark.parametrize("name", FORMATS)
def test_what_does_not_divide_is_at_most_a_group_more(name):
    """Ten groups on 4 ranks: numbers are cut between groups, though equal pieces had less to compute, where scales that
    are whole would be more than what that takes.
    """
    sharded = sw.shard(packed_block(name, 160)[0], mesh=4, plan=PLAN)
    for layer in ("up", "down"):
        parts = [weight for weight in sharded.weights if weight.name.startswith(f"{layer}.")]
        busiest = max(sum(part.rank_bytes[rank] for part in parts) for rank in range(4))
        assert busiest <= sum(part.num_bytes for part in parts) * (1 / 4 + 1 / 10), layer


IDS = torch.randint(0, 96, (2, 8), generator=torch.Generator().manual_seed(0))
MLP = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
ATTENTION = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")


def decoder(kv_heads):
    """Heads of as many features as a group has."""
    return redraw(Decoder(layers=1, width=96, heads=6, kv_heads=kv_heads, hidden=192))


@functools.cache
def plain_total(kv_heads, num_ranks):
    """How many collectives the automatic plan sends of the unquantised decoder."""
    exported = torch.export.export(decoder(kv_heads), (IDS,))
    return sends(sw.shard(exported, mesh=num_ranks)).total()


@pytest.mark.parametrize(("kv_heads", "layers"), [(2, MLP), (6, MLP + ATTENTION)], ids=["two KV heads", "all packed"])
@pytest.mark.parametrize("name", FORMATS)
def test_the_automatic_plan_sends_no_more_than_of_plain_weights(name, kv_heads, layers):
    """Beside packed weights the others are more of what is stored, and may still be held as in the plain model."""
    model = decoder(kv_heads)
    wanted = pack_layers(model, name, [f"layers.0.{layer}" for layer in layers])(IDS)
    with torch.no_grad():
        exported = torch.export.export(model, (IDS,))
    assert relative_error(exported.module()(IDS), wanted) < 1e-5
    for num_ranks in (2, 3, 4):
        sharded = sw.shard(exported, mesh=num_ranks)
        assert sends(sharded).total() <= plain_total(kv_heads, num_ranks)
        if kv_heads % num_ranks == 0:
            packed = [one for one in sharded.weights if one.name.startswith("layers.0.") and len(one.shape) == 2]
            assert len(packed) >= 2 * len(layers)
            assert all(max(one.rank_bytes) * num_ranks == one.num_bytes for one in packed)
