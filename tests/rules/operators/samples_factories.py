"""Sample calls for every operator of `shardwright.rules.operators.factories`."""

from tests.support.harness import aten, t, unary

SAMPLES = {
    "aten::arange": [(aten.arange.default, (7,), {})],
    "aten::arange.start": [(aten.arange.start, (1, 9), {})],
    "aten::arange.start_step": [(aten.arange.start_step, (1, 9, 2), {})],
    "aten::bartlett_window": [
        (aten.bartlett_window.default, (8,), {}),
        (aten.bartlett_window.periodic, (7, False), {}),
    ],
    "aten::blackman_window": [
        (aten.blackman_window.default, (8,), {}),
        (aten.blackman_window.periodic, (7, False), {}),
    ],
    "aten::eye": [(aten.eye.default, (4,), {})],
    "aten::fft_fftfreq": [(aten.fft_fftfreq.default, (8,), {})],
    "aten::fft_rfftfreq": [(aten.fft_rfftfreq.default, (8,), {})],
    "aten::full": [(aten.full.default, ([4, 6], 2.5), {}), (aten.full.default, ([3, 5], 1), {})],
    "aten::full_like": unary(aten.full_like.default, 3.0),
    "aten::hamming_window": [(aten.hamming_window.default, (8,), {}), (aten.hamming_window.periodic, (7, False), {})],
    "aten::hann_window": [(aten.hann_window.default, (8,), {}), (aten.hann_window.periodic, (7, False), {})],
    "aten::kaiser_window": [(aten.kaiser_window.default, (8,), {}), (aten.kaiser_window.periodic, (7, False), {})],
    "aten::linspace": [(aten.linspace.default, (0.0, 1.0, 5), {})],
    "aten::logspace": [(aten.logspace.default, (0, 2, 5), {})],
    "aten::new_full": [(aten.new_full.default, (t(3), [4, 6], 2.0), {})],
    "aten::new_ones": [(aten.new_ones.default, (t(4, 4), [4, 6]), {})],
    "aten::new_zeros": [(aten.new_zeros.default, (t(3), [5, 6]), {})],
    "aten::ones": [(aten.ones.default, ([4, 6],), {})],
    "aten::ones_like": unary(aten.ones_like.default),
    "aten::range": [(aten.range.step, (1, 9, 2), {})],
    "aten::scalar_tensor": [(aten.scalar_tensor.default, (2.0,), {})],
    "aten::tril_indices": [(aten.tril_indices.default, (4, 3), {})],
    "aten::triu_indices": [(aten.triu_indices.default, (4, 3), {})],
    "aten::zeros": [(aten.zeros.default, ([5, 6],), {})],
    "aten::zeros_like": unary(aten.zeros_like.default),
}

UNCHECKED = {
    "aten::empty.memory_format": "the result is uninitialised memory",
    "aten::empty_like": "the result is uninitialised memory",
    "aten::empty_permuted": "the result is uninitialised memory",
    "aten::empty_strided": "the result is uninitialised memory",
    "aten::new_empty": "the result is uninitialised memory",
    "aten::new_empty_strided": "the result is uninitialised memory",
}
