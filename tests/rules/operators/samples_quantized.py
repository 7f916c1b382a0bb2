"""Sample calls for every operator of `shardwright.rules.operators.quantized`."""

import torch
import torch.ao.quantization.fx._decomposed

from tests.support.harness import aten, float8, int8, ints, positive, t

decomposed = torch.ops.quantized_decomposed
BOUNDS = (-128, 127, torch.int8)


def int4(n, k):
    weight = aten._convert_weight_to_int4pack_for_cpu.default(ints(16, n, k).to(torch.int32), 1)
    return t(4, k), weight, 32, positive(k // 32, n, 2)


def scaled(m, k, n, *scales, **kwargs):
    return aten._scaled_mm.default, (float8(m, k), float8(n, k).mT, *scales), {"out_dtype": torch.float32, **kwargs}


GROUPED = (positive(6, 4), ints(3, 6, 4), *BOUNDS, 8)

SAMPLES = {
    "aten::_int_mm": [(aten._int_mm.default, (int8(32, 16), int8(16, 24)), {})],
    "aten::_scaled_mm": [
        scaled(32, 16, 48, torch.tensor(0.5), torch.tensor(2.0)),
        scaled(7, 16, 5, torch.tensor(0.5), torch.tensor(2.0)),
    ],
    "aten::_weight_int4pack_mm_for_cpu": [
        (aten._weight_int4pack_mm_for_cpu.default, int4(256, 64), {}),
        (aten._weight_int4pack_mm_for_cpu.default, int4(192, 32), {}),
    ],
    "aten::_weight_int8pack_mm": [(aten._weight_int8pack_mm.default, (t(4, 32), int8(48, 32), positive(48)), {})],
    "aten::fake_quantize_per_channel_affine": [
        (aten.fake_quantize_per_channel_affine.default, (t(4, 6, 3), positive(6), ints(3, 6).int(), 1, -128, 127), {})
    ],
    "aten::fake_quantize_per_tensor_affine": [
        (aten.fake_quantize_per_tensor_affine.default, (t(4, 6), 0.1, 2, -128, 127), {}),
        (
            aten.fake_quantize_per_tensor_affine.tensor_qparams,
            (t(4, 6), torch.tensor(0.1), torch.tensor(2, dtype=torch.int32), -128, 127),
            {},
        ),
    ],
    "quantized_decomposed::_choose_qparams_per_token_asymmetric_impl": [
        (decomposed._choose_qparams_per_token_asymmetric_impl.default, (t(4, 6, 5), torch.int8), {}),
    ],
    "quantized_decomposed::choose_qparams": [
        (decomposed.choose_qparams.tensor, (t(6, 5), 0, 255, 2**-12, torch.uint8), {}),
    ],
    "quantized_decomposed::choose_qparams_per_token": [
        (decomposed.choose_qparams_per_token.default, (t(4, 6, 5), torch.int8), {}),
    ],
    "quantized_decomposed::choose_qparams_per_token_asymmetric": [
        (decomposed.choose_qparams_per_token_asymmetric.default, (t(4, 6, 5), torch.int8), {}),
    ],
    "quantized_decomposed::choose_qparams_symmetric": [
        (decomposed.choose_qparams_symmetric.tensor, (t(6, 5), *BOUNDS[:2], 2**-12, torch.int8), {}),
    ],
    "quantized_decomposed::convert_element_type": [
        (decomposed.convert_element_type.no_fuse, (t(6, 5), torch.float64), {}),
        (decomposed.convert_element_type.no_fuse, (t(6, 5), torch.bfloat16), {}),
    ],
    "quantized_decomposed::dequantize_per_channel": [
        (decomposed.dequantize_per_channel.default, (int8(6, 5, 4), positive(5), ints(3, 5), 1, *BOUNDS), {}),
    ],
    "quantized_decomposed::dequantize_per_channel_group": [
        (decomposed.dequantize_per_channel_group.default, (int8(6, 32), *GROUPED, torch.float32), {}),
        (
            decomposed.dequantize_per_channel_group.default,
            (int8(6, 24), positive(18), None, *BOUNDS, 8, torch.float32),
            {},
        ),
        (
            decomposed.dequantize_per_channel_group.default,
            (int8(6, 5), positive(6, 1), None, *BOUNDS, 8, torch.float32),
            {},
        ),
    ],
    "quantized_decomposed::dequantize_per_tensor": [
        (decomposed.dequantize_per_tensor.default, (int8(6, 5), 0.1, 3, *BOUNDS), {}),
        (decomposed.dequantize_per_tensor.tensor, (int8(6, 5), torch.tensor(0.1), torch.tensor(3), *BOUNDS), {}),
    ],
    "quantized_decomposed::dequantize_per_token": [
        (
            decomposed.dequantize_per_token.default,
            (int8(4, 6, 5), positive(4, 6, 1), ints(3, 4, 6, 1), *BOUNDS, torch.float32),
            {},
        ),
    ],
    "quantized_decomposed::fake_quant_per_channel": [
        (
            decomposed.fake_quant_per_channel.default,
            (t(6, 5), positive(6), ints(3, 6).int(), 0, *BOUNDS[:2]),
            {},
        ),
    ],
    "quantized_decomposed::quantize_per_channel": [
        (decomposed.quantize_per_channel.default, (t(6, 5, 4), positive(6), ints(3, 6), 0, *BOUNDS), {}),
    ],
    "quantized_decomposed::quantize_per_channel_group": [
        (decomposed.quantize_per_channel_group.default, (t(6, 32), *GROUPED), {}),
    ],
    "quantized_decomposed::quantize_per_tensor": [
        (decomposed.quantize_per_tensor.default, (t(6, 5), 0.1, 3, *BOUNDS), {}),
        (decomposed.quantize_per_tensor.tensor, (t(6, 5), positive(1).double(), ints(3, 1), *BOUNDS), {}),
    ],
    "quantized_decomposed::quantize_per_token": [
        (decomposed.quantize_per_token.default, (t(4, 6, 5), positive(4, 6, 1), ints(3, 4, 6, 1), *BOUNDS), {}),
    ],
}
