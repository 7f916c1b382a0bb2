"""What holds 8-bit numbers and scales of its own dtype in a bfloat16 model is compiled, and gives eager's numbers."""

from types import SimpleNamespace

import pytest
import torch

import shardwright as sw
from shardwright.layout.alignment import ALIGNMENT
from shardwright.run.aligned import aligned_weight
from shardwright.sources.quantized.compressed_tensors import UnpackCompressed
from shardwright.sources.quantized.weight import PackedWeight, hold_packed
from tests.support.models import redraw, relative_error
from tests.support.packed_weights import pack_plain
from tests.support.quantized import PLAN, Block, rows

SCALES = {"by row": (1, 0), "in a row": (1, 0), "one in all": (0, 0)}
ROUNDING = 0.02
"""Of sums in bfloat16, where scales are applied before the sum is rounded or after."""


@pytest.fixture(scope="module")
def packed():
    """A bfloat16 program of a block for each layout of float32 scales, and its input."""
    blocks = {}
    for name, block in SCALES.items():
        model = redraw(Block(64, 96, bias=True)).bfloat16()
        for layer in (model.up, model.down):
            parts, _ = pack_plain(layer.weight.detach().float(), 8, block)
            parts["weight_scale"] = parts["weight_scale"].flatten() if name == "in a row" else parts["weight_scale"]
            held = {last: SimpleNamespace(shape=one.shape, dtype=one.dtype) for last, one in parts.items()}
            shape = tuple(layer.weight.shape)
            hold_packed(layer, "weight", PackedWeight(shape, held, UnpackCompressed(shape, 8, block), tuple(parts)))
            layer.load_state_dict({**parts, "bias": layer.bias.detach()}, assign=True)
        blocks[name.replace(" ", "_")] = model
    x = rows(64, torch.bfloat16)
    with torch.no_grad():
        return torch.export.export(Blocks(blocks), (x,)), x


class Blocks(torch.nn.Module):
    def __init__(self, blocks):
        super().__init__()
        self.blocks = torch.nn.ModuleDict(blocks)

    def forward(self, x):
        return [block(x) for block in self.blocks.values()]


@pytest.fixture(scope="module")
def package(packed, tmp_path_factory):
    """A package of one rank, compiled ahead of time: what that takes does not grow with ranks."""
    folder = tmp_path_factory.mktemp("packages") / "p"
    sw.shard(packed[0], mesh=1).save(folder)
    sw.compile_package(folder)
    return folder


@pytest.mark.parametrize("backend", ["compile", "aoti"])
def test_a_compiled_package_gives_eagers_numbers(backend, packed, package):
    exported, x = packed
    wanted = exported.module()(x)
    with torch.no_grad():
        found = sw.load(package, backend=backend)(x)
    for name, one, other in zip(SCALES, found, wanted, strict=True):
        assert relative_error(one.float(), other.float()) < ROUNDING, name


def off_by_one(value):
    """The same values, one element behind where vectors begin."""
    return torch.empty(value.numel() + 1, dtype=value.dtype)[1:].view(value.shape).copy_(value)


def test_what_a_program_is_given_begins_where_vectors_do(packed, package):
    """Here one that calls no kernel which asks for it."""
    x = packed[1]
    loaded, given = sw.load(package), []
    loaded.module.register_forward_pre_hook(lambda module, args: given.extend(args))
    odd = off_by_one(x)
    loaded(odd)
    assert odd.data_ptr() % ALIGNMENT
    assert [one.data_ptr() % ALIGNMENT for one in given] == [0]
    torch.testing.assert_close(given[0], x, rtol=0, atol=0)


def test_weights_of_8_bits_are_aligned_and_others_stay():
    numbers, scales = off_by_one(torch.ones(4, 8, dtype=torch.int8)), off_by_one(torch.ones(4, 8))
    assert aligned_weight(numbers).data_ptr() % ALIGNMENT == 0
    assert torch.equal(aligned_weight(numbers), numbers)
    assert aligned_weight(scales) is scales


def test_ranks_scale_before_they_sum(packed):
    """Inductor finds a matmul of 8-bit numbers by the product behind it."""
    plan = {f"**.{key}": style for key, style in PLAN.items()}
    sharded = sw.shard(packed[0], mesh=2, plan=plan, lean=False)
    assert sw.verify(sharded, packed[0], (packed[1],)).ok
    assert len(sharded.collectives) == len(SCALES)
    sums = [node for node in sharded.exported(0).graph.nodes if "all_reduce" in str(node.target)]
    assert [node.args[0].target for node in sums] == [torch.ops.aten.mul.Tensor] * len(SCALES)
