"""Tiny checkpoints with packed weights, and what is asked of every format: right, cut, and without more messages."""

import copy
import json
from collections import Counter

import numpy as np
import torch
import transformers
from safetensors.torch import load_file, save_file

import shardwright as sw
from shardwright.layout.box import Region
from shardwright.program.write import replace_weights
from shardwright.sources.checkpoint import open_checkpoint
from tests.support.models import relative_error
from tests.support.tiny import write_checkpoint

PLAN = {"**.[q,k,v,gate,up]_proj": "colwise", "**.[o,down]_proj": "rowwise"}
IDS = torch.tensor([[5, 17, 200, 31, 9, 64, 3], [7, 90, 12, 12, 250, 1, 44]])


def write_packed(folder, pack, quantization, kind="llama", *, dtype=torch.float64, **changes):
    """A tiny checkpoint whose projections and experts ``pack(weight)`` packs; the model with the weights it stands for.

    ``pack`` gives the stored tensors by the last token of their names, and the plain weight. ``quantization``: what the
    configuration says.
    """
    changes = {"num_hidden_layers": 1, "tie_word_embeddings": False, **changes}
    write_checkpoint(folder, kind, max_shard_size="1GB", **changes)
    file, config = folder / "model.safetensors", (folder / "config.json").read_text()
    stored, plain = {}, {}
    for name, weight in load_file(file).items():
        if "_proj" in name or ".experts." in name:
            parts, plain[name] = pack(weight)
            stored |= {f"{name.removesuffix('weight')}{last}": part.contiguous() for last, part in parts.items()}
        else:
            stored[name] = plain[name] = weight
    dense = folder.with_name(f"{folder.name}-dense")
    dense.mkdir()
    save_file({name: one.double().contiguous() for name, one in plain.items()}, dense / file.name, {"format": "pt"})
    (dense / "config.json").write_text(config)
    save_file(stored, file, {"format": "pt"})
    (folder / "config.json").write_text(json.dumps({**json.loads(config), "quantization_config": quantization}))
    return transformers.AutoModelForCausalLM.from_pretrained(dense, dtype=dtype, attn_implementation="sdpa")


def replace(folder, last, make):
    """The tensors of this last name, made anew of what they were; None: dropped."""
    file = folder / "model.safetensors"
    made = {name: make(one) if name.endswith(last) else one for name, one in load_file(file).items()}
    save_file({name: one for name, one in made.items() if one is not None}, file, {"format": "pt"})


def renamed(tensors, old, new):
    """Tensors whose names end in ``old`` under names that end in ``new``."""
    return {f"{name.removesuffix(old)}{new}" if name.endswith(old) else name: one for name, one in tensors.items()}


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


LESS_ONE = {4: 0x11111111, 8: 0x01010101}
"""A one in each place of a word."""


def pack_gptq(weight, bits, *, form="gptq", is_ordered=True):
    """Integers along columns in words; zero points along rows in words, less one a place in the older format."""
    # Rows without a negative weight have the zero point 0, which less one is a borrow.
    weight = torch.cat([weight[:3].abs(), weight[3:]])
    columns = weight.shape[1]
    order = torch.arange(columns) if is_ordered else torch.randperm(columns, generator=torch.Generator().manual_seed(0))
    half = 2 ** (bits - 1)
    numbers, scale, zeros, plain = quantize(weight[:, order], bits, (1, 16), symmetric=False)
    groups, back = torch.empty(columns, dtype=torch.int32), order.argsort()
    groups[order] = torch.arange(columns, dtype=torch.int32) // 16
    unsigned = zeros.int().t() + half
    assert (unsigned == 0).any()
    words = words_of(unsigned, bits, 1)
    if form == "gptq":
        words = (words.long() - LESS_ONE[bits]).to(torch.int32)
    parts = {
        "qweight": words_of(numbers.int()[:, back].t() + half, bits, 0),
        "qzeros": words,
        "scales": scale.t(),
        "g_idx": groups,
    }
    return parts, plain[:, back]


AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]
"""Which number each place of a word holds."""


def pack_awq(weight):
    """Integers and zero points along rows in words, the eight of a word in AWQ's order."""
    numbers, scale, zeros, plain = quantize(weight, 4, (1, 16), symmetric=False)

    def words(values):
        return words_of((values.int().t() + 8).unflatten(1, (-1, 8))[:, :, AWQ_ORDER].flatten(1), 4, 1)

    return {"qweight": words(numbers), "qzeros": words(zeros), "scales": scale.t()}, plain


def opened_packed(folder, **options):
    """A checkpoint as a program of whole sequences in float64, and the same program with its weights read."""
    opened = open_checkpoint(folder, **{"dtype": torch.float64, "cache_length": 0, **options})

    def read(name, tensor):
        whole = Region.whole(tensor.shape)
        return opened.source.read(name, whole, tensor.dtype) if name in opened.source.holders else tensor

    return opened, replace_weights(copy.deepcopy(opened.exported), read)


def same_numbers(real, model, *, within=1e-12):
    """Whether a program gives what the dequantised model gives."""
    with torch.no_grad():
        wanted = model(input_ids=IDS, use_cache=False).logits
    return relative_error(real.module()(input_ids=IDS), wanted) < within


def cut_right(real, num_ranks, plan="auto", *, within=1e-9, ids=IDS):
    """The sharding of a program with its weights, whose ranks give what one gives."""
    sharded = sw.shard(real, mesh=num_ranks, plan=plan)
    assert not sharded.fallbacks
    assert not sharded.gathered_weights
    assert sw.verify(sharded, real, (), {"input_ids": ids}).max_error < within
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


def packed_bytes(sharded, dtype=None):
    """The bytes of packed weights on the busiest rank, and of all. ``dtype``: theirs; absent: any but float64."""
    packed = [one for one in sharded.weights if (one.dtype == dtype if dtype else one.dtype != torch.float64)]
    held = [sum(one.rank_bytes[rank] for one in packed) for rank in range(sharded.mesh.num_ranks)]
    return max(held), sum(one.num_bytes for one in packed)


def sends(sharded):
    """How many collectives of each kind."""
    return Counter(one.kind for one in sharded.collectives)
