"""Upsample, FIR filter, downsample: the resampling primitive of StyleGAN2."""

import torch
import torch.nn.functional as F


def upfirdn2d(
    x: torch.Tensor,
    fir: torch.Tensor,
    up: int = 1,
    down: int = 1,
    pad: tuple[int, int] = (0, 0),
    flip: bool = False,
    gain: float = 1.0,
) -> torch.Tensor:
    """Insert `up - 1` zeros after every sample, pad (crop where negative), filter, keep every `down`-th sample.

    x [B,C,H,W], fir [kh,kw]; `pad` = (before, after) of both axes. The filter is a convolution, so `fir` is
    flipped against torch's correlation, unless `flip` says it already is.
    Output height: (H * up + before + after - kh) // down + 1.
    """
    channels = x.shape[1]
    x = _insert_zeros(x, up)
    before, after = pad
    x = F.pad(x, (before, after, before, after))
    kernel = (fir if flip else fir.flip(0, 1)).to(x.dtype) * gain
    return F.conv2d(x, kernel.expand(channels, 1, -1, -1), stride=down, groups=channels)


def _insert_zeros(x: torch.Tensor, up: int) -> torch.Tensor:
    if up == 1:
        return x
    batch, channels, height, width = x.shape
    x = F.pad(x.reshape(batch, channels, height, 1, width, 1), (0, up - 1, 0, 0, 0, up - 1))
    return x.reshape(batch, channels, height * up, width * up)
