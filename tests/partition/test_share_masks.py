"""A mask of booleans is turned into numbers once, however many layers read it."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from shardwright.partition.share_masks import share_masks
from shardwright.program.read import read
from shardwright.program.write import write

aten = torch.ops.aten


class Layers(nn.Module):
    """Attention of some layers over one mask, whose first row allows nothing."""

    def __init__(self, count):
        super().__init__()
        self.count = count

    def forward(self, x, mask):
        mask = mask[None, None]
        for _ in range(self.count):
            x = F.scaled_dot_product_attention(x, x, x, attn_mask=mask)
        return x, mask.sum()


def masks(program):
    """The masks that attentions read, and their dtypes."""
    read_by = [node.args[3] for node in program.graph.nodes if node.target is aten.scaled_dot_product_attention.default]
    return set(read_by), {node.meta["val"].dtype for node in read_by}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_numbers_stay(dtype):
    x = torch.randn(2, 3, 5, 4, generator=torch.Generator().manual_seed(0)).to(dtype)
    mask = torch.ones(5, 5, dtype=torch.bool).tril(-1)
    program = read(torch.export.export(Layers(3), (x, mask)))
    made = share_masks(program)
    assert masks(program)[1] == {torch.bool}
    assert len(masks(made)[0]) == 1
    assert masks(made)[1] == {dtype}
    for before, after in zip(write(program).module()(x, mask), write(made).module()(x, mask), strict=True):
        torch.testing.assert_close(after, before, rtol=0, atol=0, equal_nan=True)


def test_a_mask_of_one_layer_stays():
    x, mask = torch.randn(2, 3, 5, 4), torch.ones(5, 5, dtype=torch.bool).tril()
    program = read(torch.export.export(Layers(1), (x, mask)))
    assert masks(share_masks(program))[1] == {torch.bool}
