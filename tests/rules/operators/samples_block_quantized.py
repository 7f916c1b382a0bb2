"""Sample calls for every operator of `shardwright.rules.operators.block_quantized`."""

import torch
import torchao.quantization.quant_primitives  # noqa: F401 - it registers the operators

from tests.support.harness import float8, int8, ints, positive, t

ops = torch.ops.torchao
BLOCKS = {
    # block sizes → the scales of a tensor of 4 × 6 × 8
    (1, 1, 8): ((4, 6), (4, 6, 1)),
    (1, 1, 2): ((4, 6, 4),),
    (1, 6, 8): ((4,), (4, 1, 1)),
    (4, 6, 8): ((), (1, 1, 1)),
    (2, 1, 4): ((2, 6, 2),),
    (4, 1, 8): ((6,), (1, 6, 1)),
}
TO_INT8 = (torch.int8, -128, 127)


def blocked(op, data):
    """The call for every block size and every shape that its scales may have."""
    for block, shapes in BLOCKS.items():
        for shape in shapes:
            yield op, (data, [*block], positive(*shape), ints(5, *shape).to(torch.int8), *TO_INT8), {}


def chosen():
    for block in BLOCKS:
        for mapping in ("SYMMETRIC", "ASYMMETRIC"):
            for keepdim in (False, True):
                given = (t(4, 6, 8), mapping, [*block], *TO_INT8, None, torch.float32, torch.int8, keepdim)
                yield ops.choose_qparams_affine.default, given, {}


def scaled(op, data):
    for shape in ((4, 6, 1), (4, 6, 4), (1, 1, 1), (2, 3, 2), ()):
        yield op, (data, positive(*shape)), {}


SAMPLES = {
    "torchao::choose_qparams_affine": list(chosen()),
    "torchao::choose_scale_float8": [(ops.choose_scale_float8.default, (t(4, 6, 8), [*block]), {}) for block in BLOCKS],
    "torchao::dequantize_affine": [
        *blocked(ops.dequantize_affine.default, int8(4, 6, 8)),
        (ops.dequantize_affine.default, (int8(4, 6, 8), [1, 1, 2], positive(4, 6, 4), None, torch.int8), {}),
    ],
    "torchao::dequantize_affine_float8_non_decomposed": list(
        scaled(ops.dequantize_affine_float8_non_decomposed.default, float8(4, 6, 8))
    ),
    "torchao::quantize_affine": list(blocked(ops.quantize_affine.default, t(4, 6, 8))),
    "torchao::quantize_affine_float8_non_decomposed": list(
        scaled(ops.quantize_affine_float8_non_decomposed.default, t(4, 6, 8))
    ),
}
