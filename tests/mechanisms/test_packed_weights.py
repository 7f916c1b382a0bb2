"""Weights held as checkpoints pack them: what the busiest rank holds, and what ranks send, format by format."""

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
from tests.support.models import redraw, relative_error
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
    pack, unpack = FORMATS[name]
    model, state = redraw(Block(96, hidden)), {}
    for layer in ("up", "down"):
        linear = model.get_submodule(layer)
        parts, plain = pack(linear.weight.detach().clone())
        state |= {
            f"{layer}.{last}": part.contiguous()
            for last, part in parts.items()
            if last not in ("weight_shape", "g_idx")
        }
        linear.weight.data = plain.float()
    x = rows(96)
    wanted = model(x)
    for layer in ("up", "down"):
        shape = tuple(model.get_submodule(layer).weight.shape)
        held = {
            key.rpartition(".")[2]: SimpleNamespace(shape=one.shape, dtype=one.dtype)
            for key, one in state.items()
            if key.startswith(f"{layer}.")
        }
        hold_packed(model, f"{layer}.weight", PackedWeight(shape, held, unpack(shape)))
    model.load_state_dict(state, assign=True)
    with torch.no_grad():
        return torch.export.export(model, (x,)), x, wanted


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
