"""The two StyleGAN2 operations against their definitions in float64 NumPy."""

import numpy as np
import pytest
import torch

from psp_train.ops import fused_bias_leaky_relu, upfirdn2d


def upfirdn_by_definition(x, fir, up, down, pad, gain):
    """One channel [H,W]: insert zeros, pad or crop, convolve (kernel flipped), decimate."""
    wide = np.zeros((x.shape[0] * up, x.shape[1] * up))
    wide[::up, ::up] = x
    before, after = pad
    wide = np.pad(wide, ((max(before, 0), max(after, 0)),) * 2)
    wide = wide[max(-before, 0) :, max(-before, 0) :]
    wide = wide[: wide.shape[0] - max(-after, 0), : wide.shape[1] - max(-after, 0)]
    height, width = (wide.shape[axis] - fir.shape[axis] + 1 for axis in (0, 1))
    flipped = fir[::-1, ::-1]
    full = np.zeros((height, width))
    for i, j in np.ndindex(height, width):
        full[i, j] = (wide[i : i + fir.shape[0], j : j + fir.shape[1]] * flipped).sum()
    return full[::down, ::down] * gain


@pytest.mark.parametrize("up", [1, 2, 3])
@pytest.mark.parametrize("down", [1, 2])
@pytest.mark.parametrize("pad", [(0, 0), (2, 1), (3, 3), (-1, 2), (-1, -2)])
def test_upfirdn2d(up, down, pad):
    rng = np.random.default_rng(0)
    x, fir = rng.standard_normal((2, 3, 9, 7)), rng.standard_normal((4, 3))
    y = upfirdn2d(torch.from_numpy(x), torch.from_numpy(fir), up, down, pad, gain=1.5).numpy()
    for b in range(2):
        for c in range(3):
            np.testing.assert_allclose(y[b, c], upfirdn_by_definition(x[b, c], fir, up, down, pad, 1.5), atol=1e-12)


def test_flip_says_the_filter_is_already_flipped():
    x, fir = torch.randn(1, 1, 8, 8), torch.randn(3, 3)
    assert torch.equal(upfirdn2d(x, fir), upfirdn2d(x, fir.flip(0, 1), flip=True))


def test_fused_bias_leaky_relu():
    rng = np.random.default_rng(0)
    x, bias = rng.standard_normal((2, 5, 3, 4)), rng.standard_normal(5)
    shifted = x + bias[None, :, None, None]
    expected = np.where(shifted > 0, shifted, 0.2 * shifted) * np.sqrt(2)
    y = fused_bias_leaky_relu(torch.from_numpy(x), torch.from_numpy(bias))
    np.testing.assert_allclose(y.numpy(), expected, atol=1e-12)
