"""Packed weights count as what they unpack to, and their scales not at all."""

from types import SimpleNamespace

import torch
from torch import nn

from shardwright.assign.unpacked import unpacked_factors
from shardwright.program.read import read
from shardwright.sources.quantized.compressed_tensors import UnpackCompressed
from shardwright.sources.quantized.gguf_packed import UnpackGguf
from shardwright.sources.quantized.mxfp4 import UnpackMxfp4
from shardwright.sources.quantized.weight import PackedWeight, hold_packed
from tests.support.models import redraw
from tests.support.packed_weights import pack_ints, pack_plain
from tests.support.quantized import DYNAMIC, WEIGHT_ONLY, Block, quantized, rows


def factors(exported):
    """What is counted of each tensor, by name."""
    program = read(exported)
    names = {item.name: item.target for item in program.inputs}
    return {names[name]: factor for name, factor in unpacked_factors(program).items()}


def with_parts(module, parts, shape, unpack, x, **facts):
    """The program of a module that holds these parts in place of its weight."""
    held = {last: SimpleNamespace(shape=one.shape, dtype=one.dtype) for last, one in parts.items()}
    hold_packed(module, "weight", PackedWeight(shape, held, unpack, **facts))
    module.load_state_dict(parts, assign=True)
    with torch.no_grad():
        return torch.export.export(module, (x,))


def test_plain_weights_count_as_they_are_stored():
    assert factors(torch.export.export(redraw(Block()), (rows(),))) == {}


def test_eight_numbers_of_a_word_count_as_eight():
    linear = nn.Linear(64, 48, bias=False)
    parts, _ = pack_ints(linear.weight.detach(), 4, (1, 16), symmetric=False)
    del parts["weight_shape"]
    found = factors(with_parts(linear, parts, (48, 64), UnpackCompressed((48, 64), 4, (1, 16)), rows()))
    # In words of as many bytes as a plain number; scales are floats, zero points words.
    assert found == {"weight_packed": 8, "weight_scale": 0, "weight_zero_point": 0}


def test_numbers_are_as_wide_as_the_model():
    linear = nn.Linear(64, 48, bias=False, dtype=torch.bfloat16)
    parts, _ = pack_plain(linear.weight.detach().float(), 8, (1, 0))
    unpack = UnpackCompressed((48, 64), 8, (1, 0))
    exported = with_parts(linear, parts, (48, 64), unpack, rows(dtype=torch.bfloat16), by_row=tuple(parts))
    # The scale is multiplied behind the matmul, and no part of the weight there.
    assert factors(exported) == {"weight": 2}


def test_rows_that_are_looked_up_count_as_the_whole_table():
    table = nn.Embedding(96, 64)
    blocks = torch.zeros(96, 2, 34, dtype=torch.uint8)
    unpack = UnpackGguf({"weight_gguf": "Q8_0"}, False)
    exported = with_parts(table, {"weight_gguf": blocks}, (96, 64), unpack, torch.arange(6).view(2, 3), rows_alone=True)
    assert factors(exported) == {"weight_gguf": 96 * 64 * 4 / blocks.nbytes}


class Looked(nn.Module):
    """A packed table whose rows go through a norm into a packed layer, and into a head that may be the table."""

    def __init__(self):
        super().__init__()
        self.table, self.norm = nn.Embedding(96, 64), nn.RMSNorm(64)
        self.inner, self.head = nn.Linear(64, 32, bias=False), nn.Linear(64, 96, bias=False)

    def forward(self, ids):
        x = self.norm(self.table(ids))
        return self.inner(x), self.head(x)


def looked(*, tied):
    model, blocks = Looked(), torch.zeros(96, 2, 34, dtype=torch.uint8)
    for module, rows_alone in ((model.table, True), (model.inner, False), (model.head, False)):
        own = blocks if module is not model.inner else torch.zeros(32, 2, 34, dtype=torch.uint8)
        held = {"weight_gguf": SimpleNamespace(shape=own.shape, dtype=own.dtype)}
        shape, unpack = (own.shape[0], 64), UnpackGguf({"weight_gguf": "Q8_0"}, False)
        hold_packed(module, "weight", PackedWeight(shape, held, unpack, rows_alone=rows_alone))
        module.load_state_dict({"weight_gguf": own.clone()}, assign=True)
    if tied:
        model.head.weight_gguf = model.table.weight_gguf
    with torch.no_grad():
        return torch.export.export(model, (torch.arange(6).view(2, 3),))


def test_weights_behind_rows_that_are_looked_up_count_by_themselves():
    plain = 64 * 4 / (2 * 34)
    assert factors(looked(tied=False)) == dict.fromkeys(
        ("table.weight_gguf", "inner.weight_gguf", "head.weight_gguf"), plain
    )


def test_all_names_of_a_tensor_count_alike():
    found = factors(looked(tied=True))
    assert found["inner.weight_gguf"] == found["table.weight_gguf"] == found["head.weight_gguf"] == 64 * 4 / (2 * 34)


class Two(nn.Module):
    """A weight (experts, columns, rows) of two stacks, laid end to end along its rows."""

    def __init__(self):
        super().__init__()
        for name in ("gate", "up"):
            self.register_buffer(f"{name}_blocks", torch.zeros(4, 48, 2, 16, dtype=torch.uint8))
            self.register_buffer(f"{name}_scales", torch.zeros(4, 48, 2, dtype=torch.uint8))

    def forward(self, x):
        held = dict(self.named_buffers())
        return x @ torch.cat([UnpackMxfp4(name)(held, x.dtype) for name in ("gate", "up")], -1)


def test_a_weight_of_two_parts_is_shared_by_both():
    exported = torch.export.export(Two(), (torch.randn(4, 3, 64),))
    # Two numbers a byte, of four bytes each.
    assert factors(exported) == {"gate_blocks": 8, "up_blocks": 8, "gate_scales": 0, "up_scales": 0}


def test_numbers_that_are_multiplied_as_they_are_count_as_floats():
    exported, _ = quantized(DYNAMIC["int8 activations"])
    found = factors(exported)
    assert {found[f"{layer}.weight.qdata"] for layer in ("up", "down")} == {4}


def test_groups_have_their_scales_beside_them():
    exported, _ = quantized(WEIGHT_ONLY["int8 by group"])
    found = factors(exported)
    assert {name: found[f"up.weight.{name}"] for name in ("qdata", "scale")} == {"qdata": 4, "scale": 0}
