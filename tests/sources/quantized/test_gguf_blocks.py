"""Every kind of block is unpacked to the bit as gguf unpacks it."""

import gguf
import pytest
import torch
from gguf.constants import GGML_QUANT_SIZES

from shardwright.sources.quantized.gguf_blocks import KEPT_KINDS
from tests.support.gguf_files import numbers_of, random_blocks


@pytest.mark.parametrize("kind", KEPT_KINDS)
def test_blocks_are_what_gguf_unpacks(kind):
    size, num_bytes = GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    data = random_blocks((40, 3 * size), kind)
    wanted = torch.from_numpy(numbers_of(data, kind).copy())
    found = KEPT_KINDS[kind](torch.from_numpy(data).unflatten(-1, (3, num_bytes))).flatten(-2)
    assert wanted.std() > 0
    assert torch.equal(found.contiguous().view(torch.int32), wanted.view(torch.int32)), "zeros have a sign"


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "MXFP4", "TQ2_0"])
def test_what_gguf_quantises_is_unpacked(kind):
    """Those kinds that it packs itself: their extremes, zeros among them."""
    size, num_bytes = GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    weight = torch.randn(6, 2 * size, generator=torch.Generator().manual_seed(0))
    weight[0] = 0
    data = gguf.quants.quantize(weight.numpy(), gguf.GGMLQuantizationType[kind])
    wanted = torch.from_numpy(numbers_of(data, kind).copy())
    found = KEPT_KINDS[kind](torch.from_numpy(data).unflatten(-1, (2, num_bytes))).flatten(-2)
    assert torch.equal(found.contiguous().view(torch.int32), wanted.view(torch.int32))
