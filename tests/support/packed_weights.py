"""Tiny checkpoints with packed weights, and what is asked of every format: right, cut, and without more messages."""

import copy
import json
from collections import Counter

import numpy as np
import torch
from safetensors.torch import load_file, save_file

import shardwright as sw
from shardwright.layout.box import Region
from shardwright.program.write import replace_weights
from shardwright.sources.checkpoint import open_checkpoint
from tests.support.models import relative_error
from tests.support.tiny import write_checkpoint

PLAN = {"**.[q,k,v,gate,up]_proj": "colwise", "**.[o,down]_proj": "rowwise"}
IDS = torch.tensor([[5, 17, 200, 31, 9, 64, 3], [7, 90, 12, 12, 250, 1, 44]])


def write_packed(folder, pack, quantization, **changes):
    """A tiny checkpoint whose projections ``pack(weight)`` packs; the model, with the weights that this stands for.

    ``pack`` gives the stored tensors by the last token of their names, and the plain weight. ``quantization``: what the
    configuration says.
    """
    changes = {"num_hidden_layers": 1, "tie_word_embeddings": False, **changes}
    model = write_checkpoint(folder, max_shard_size="1GB", **changes).double()
    file = folder / "model.safetensors"
    stored, plain = {}, {}
    for name, weight in load_file(file).items():
        if "_proj" not in name:
            stored[name] = weight
            continue
        parts, plain[name] = pack(weight)
        stored |= {f"{name.removesuffix('weight')}{last}": part.contiguous() for last, part in parts.items()}
    save_file(stored, file, {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": quantization}))
    assert plain, "something is packed"
    assert not model.load_state_dict({name: one.double() for name, one in plain.items()}, strict=False).unexpected_keys
    return model


def quantize(weight, bits, block, *, symmetric=True, dtype=torch.float32):
    """Numbers (integers, or 8-bit floats for ``bits="fp8"``), the scale and zero point of each block, and what they
    stand for, in float64. ``block``: rows and columns; 0: all.
    """
    rows, columns = (torch.arange(size) // (step or size) for size, step in zip(weight.shape, block, strict=True))
    at = (rows[:, None], columns[None, :])
    shape = tuple(int(one.max()) + 1 for one in at)
    flat = (at[0] * shape[1] + at[1]).flatten()

    def extreme(values, kind):
        start = torch.zeros(shape[0] * shape[1])
        return start.scatter_reduce(0, flat, values.flatten(), kind, include_self=True).view(shape)

    if bits == "fp8":
        scale, zeros = (extreme(weight.abs(), "amax") / 448).to(dtype), None
        numbers = (weight / scale[at]).to(torch.float8_e4m3fn)
        return numbers, scale, zeros, numbers.double() * scale.double()[at]
    most = 2 ** (bits - 1)
    if symmetric:
        scale, zeros = (extreme(weight.abs(), "amax") / (most - 0.5)).to(dtype), torch.zeros(shape)
    else:
        low = extreme(weight, "amin")
        scale = ((extreme(weight, "amax") - low) / (2 * most - 1)).to(dtype)
        zeros = (-most - low / scale).round().clamp(-most, most - 1)
    numbers = (weight / scale[at] + zeros[at]).round().clamp(-most, most - 1)
    plain = (numbers.double() - zeros.double()[at]) * scale.double()[at]
    return numbers.to(torch.int8), scale, None if symmetric else zeros.to(torch.int8), plain


def words_of(numbers, bits, dim):
    """Unsigned numbers as int32 words along a dim: bit after bit, the lowest first."""
    rows = np.moveaxis(numbers.numpy().astype(np.uint8), dim, -1)
    stream = np.unpackbits(rows[..., None], axis=-1, bitorder="little")[..., :bits].reshape(len(rows), -1)
    stream = np.pad(stream, ((0, 0), (0, -stream.shape[1] % 32)))
    found = np.packbits(stream, axis=-1, bitorder="little").view("<i4")
    return torch.from_numpy(np.moveaxis(found, -1, dim).copy())


def pack_ints(weight, bits, block, *, symmetric=True):
    """Integers in words along columns, their zero points in words along rows, both shifted to be unsigned."""
    numbers, scale, zeros, plain = quantize(weight, bits, block, symmetric=symmetric)
    half = 2 ** (bits - 1)
    parts = {"weight_packed": words_of(numbers.int() + half, bits, 1), "weight_scale": scale}
    parts["weight_shape"] = torch.tensor(weight.shape)
    if zeros is not None:
        parts["weight_zero_point"] = words_of(zeros.int() + half, bits, 0)
    return parts, plain


def pack_plain(weight, bits, block, *, symmetric=True):
    """One number a byte."""
    numbers, scale, zeros, plain = quantize(weight, bits, block, symmetric=symmetric)
    scale = scale.reshape(1) if block == (0, 0) else scale
    return {"weight": numbers, "weight_scale": scale, **({} if zeros is None else {"weight_zero_point": zeros})}, plain


def said_compressed(bits, block, form, *, symmetric=True):
    """What the configuration says of it."""
    is_float = bits == "fp8"
    weights = {"num_bits": 8 if is_float else bits, "type": "float" if is_float else "int", "symmetric": symmetric}
    if block[0] > 1:
        weights |= {"strategy": "block", "block_structure": list(block)}
    else:
        weights |= {"strategy": "tensor" if not block[0] else "group" if block[1] else "channel"}
        weights |= {"group_size": block[1]} if block[1] else {}
    groups = {"group_0": {"targets": ["Linear"], "weights": weights}}
    return {"quant_method": "compressed-tensors", "format": form, "config_groups": groups, "ignore": ["lm_head"]}


def pack_blocks(weight, block=(20, 20)):
    """Floats of eight bits with a scale a block, which DeepSeek calls inverse and multiplies by."""
    numbers, scale, _, plain = quantize(weight, "fp8", block)
    return {"weight": numbers, "weight_scale_inv": scale if block[0] else scale.reshape(())}, plain


BLOCKS = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [20, 20]}
"""What the configuration says of it."""


def opened_packed(folder, **options):
    """A checkpoint as a program of whole sequences in float64, and the same program with its weights read."""
    opened = open_checkpoint(folder, **{"dtype": torch.float64, "cache_length": 0, **options})

    def read(name, tensor):
        whole = Region.whole(tensor.shape)
        return opened.source.read(name, whole, tensor.dtype) if name in opened.source.holders else tensor

    return opened, replace_weights(copy.deepcopy(opened.exported), read)


def same_numbers(real, model):
    """Whether a program gives what the dequantised model gives."""
    with torch.no_grad():
        wanted = model(input_ids=IDS, use_cache=False).logits
    return relative_error(real.module()(input_ids=IDS), wanted) < 1e-12


def cut_right(real, num_ranks, plan="auto"):
    """The sharding of a program with its weights, whose ranks give what one gives."""
    sharded = sw.shard(real, mesh=num_ranks, plan=plan)
    assert not sharded.fallbacks
    assert not sharded.gathered_weights
    assert sw.verify(sharded, real, (), {"input_ids": IDS}).max_error < 1e-9
    return sharded


def stays_packed(folder, opened, num_ranks, tmp_path):
    """Whether a package, streamed from the checkpoint, holds what that holds, bit for bit."""
    sharded = sw.shard(opened.exported, mesh=num_ranks)
    opened.save(sharded, tmp_path / "p")
    sw.gather(tmp_path / "p", tmp_path / "gathered.safetensors")
    stored, found = load_file(folder / "model.safetensors"), load_file(tmp_path / "gathered.safetensors")
    packed = [one.name for one in sharded.weights if one.name in stored and one.dtype != torch.float64]
    assert packed
    return all(torch.equal(found[name].view(torch.uint8), stored[name].view(torch.uint8)) for name in packed)


def packed_bytes(sharded):
    """The bytes of packed weights on the busiest rank, and of all."""
    packed = [one for one in sharded.weights if one.dtype != torch.float64]
    held = [sum(one.rank_bytes[rank] for one in packed) for rank in range(sharded.mesh.num_ranks)]
    return max(held), sum(one.num_bytes for one in packed)


def sends(sharded):
    """How many collectives of each kind."""
    return Counter(one.kind for one in sharded.collectives)
