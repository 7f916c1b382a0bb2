"""Sample calls for every operator of `shardwright.rules.operators.transforms`."""

import torch

from tests.support.harness import aten, t


def spectrum(*shape):
    return torch.complex(t(*shape), t(*shape, seed=4))


def one(op, make=t):
    return [(op, (make(4, 6, 8),), {}), (op, (make(5, 6), None, 0), {})]


def several(op, make=t, dims=(-2, -1)):
    return [(op, (make(4, 6, 8), None, list(dims)), {}), (op, (make(3, 5, 6), [4], [1]), {}), (op, (make(4, 6),), {})]


def shift(op):
    return [(op, (t(4, 6, 8), [1]), {}), (op, (t(5, 6),), {})]


SAMPLES = {
    "aten::_fft_c2c": [(aten._fft_c2c.default, (spectrum(4, 6, 5), [1], 0, True), {})],
    "aten::_fft_c2r": [(aten._fft_c2r.default, (spectrum(4, 6, 5), [2], 2, 8), {})],
    "aten::_fft_r2c": [(aten._fft_r2c.default, (t(4, 6, 8), [1, 2], 0, True), {})],
    "aten::diff": [
        (aten.diff.default, (t(4, 6, 8), 1, 1), {}),
        (aten.diff.default, (t(5, 7), 1, -1, t(5, 1), t(5, 2)), {}),
    ],
    "aten::fft_fft": one(aten.fft_fft.default),
    "aten::fft_fft2": several(aten.fft_fft2.default),
    "aten::fft_fftn": several(aten.fft_fftn.default),
    "aten::fft_fftshift": shift(aten.fft_fftshift.default),
    "aten::fft_hfft": one(aten.fft_hfft.default, spectrum),
    "aten::fft_hfft2": several(aten.fft_hfft2.default, spectrum),
    "aten::fft_hfftn": several(aten.fft_hfftn.default, spectrum),
    "aten::fft_ifft": one(aten.fft_ifft.default, spectrum),
    "aten::fft_ifft2": several(aten.fft_ifft2.default, spectrum),
    "aten::fft_ifftn": several(aten.fft_ifftn.default, spectrum),
    "aten::fft_ifftshift": shift(aten.fft_ifftshift.default),
    "aten::fft_ihfft": one(aten.fft_ihfft.default),
    "aten::fft_ihfft2": several(aten.fft_ihfft2.default),
    "aten::fft_ihfftn": several(aten.fft_ihfftn.default),
    "aten::fft_irfft": one(aten.fft_irfft.default, spectrum),
    "aten::fft_irfft2": several(aten.fft_irfft2.default, spectrum),
    "aten::fft_irfftn": several(aten.fft_irfftn.default, spectrum),
    "aten::fft_rfft": one(aten.fft_rfft.default),
    "aten::fft_rfft2": several(aten.fft_rfft2.default),
    "aten::fft_rfftn": several(aten.fft_rfftn.default),
    "aten::gradient": [
        (aten.gradient.scalarint, (t(4, 6),), {"dim": 1}),
        (aten.gradient.scalarint, (t(4, 6),), {"spacing": 0.5}),
        (aten.gradient.array, (t(4, 6, 5),), {"dim": [0, 2]}),
        (aten.gradient.scalararray, (t(4, 6, 5),), {"spacing": 2.0, "dim": [-1]}),
        (aten.gradient.scalarrayint, (t(4, 6, 5),), {"spacing": [2.0], "dim": 0}),
        (aten.gradient.scalarrayarray, (t(4, 6, 5),), {"spacing": [2.0, 0.5], "dim": [0, 1]}),
        (aten.gradient.tensorarrayint, (t(4, 6),), {"spacing": [t(6).cumsum(0)], "dim": 1}),
        (aten.gradient.tensorarray, (t(4, 6),), {"spacing": [t(4), t(6)], "dim": [0, 1]}),
    ],
}
