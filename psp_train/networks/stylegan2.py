"""The StyleGAN2 generator: mapping network z -> w and synthesis network W+ -> picture.

"Analyzing and Improving the Image Quality of StyleGAN" (Karras et al. 2020), in the layout rosinality's PyTorch
version made common: that is what pSp checkpoints hold. Modulated convolution is computed by scaling activations
instead of weights (same function, no per-sample weights):

    y = conv(x * s, W) * d,    s = A w + a,    d = 1 / sqrt(sum_i s_i^2 * sum_k W[o,i,k]^2 + 1e-8)
"""

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import nn

from psp_train.ops import fused_bias_leaky_relu, upfirdn2d

#: Channels at 4, 8, ... 1024 of the published config-f generators (channel multiplier 2).
PUBLISHED_CHANNELS = (512, 512, 512, 512, 512, 256, 128, 64, 32)


@dataclass(frozen=True)
class GeneratorConfig:
    """Shape of a generator; the defaults are the published FFHQ one. `channels` starts at resolution 4.

    NVIDIA's generators may limit what each convolution and toRGB layer gives to -`conv_clamp`…`conv_clamp`.
    """

    size: int = 1024
    style_dim: int = 512
    mapping_layers: int = 8
    channels: tuple[int, ...] = PUBLISHED_CHANNELS
    conv_clamp: float | None = None

    @property
    def doublings(self) -> int:
        """How often the 4x4 start is upsampled."""
        return int(math.log2(self.size)) - 2

    @property
    def styles(self) -> int:
        """L, the number of W+ vectors: 2 log2(size) - 2."""
        return 2 * self.doublings + 2


class EqualLinear(nn.Module):
    """Linear layer whose weights are N(0, 1/lr_mul) and are scaled at run time (equalized learning rate)."""

    def __init__(self, inputs: int, outputs: int, lr_mul: float = 1.0, bias_init: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs).div_(lr_mul))
        self.bias = nn.Parameter(torch.full((outputs,), bias_init))
        self.scale = lr_mul / math.sqrt(inputs)
        self.lr_mul = lr_mul

    def effective(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the weight [O,I] and bias [O] that are really applied."""
        return self.weight * self.scale, self.bias * self.lr_mul

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map x [B,I] to [B,O]."""
        return F.linear(x, *self.effective())


class PixelNorm(nn.Module):
    """Scale every vector to RMS 1."""

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """Scale the rows of z [B,S]."""
        return z * torch.rsqrt(z.square().mean(dim=1, keepdim=True) + 1e-8)


class MappingLayer(EqualLinear):
    """Equalized linear layer with the fused activation; the mapping network learns 100 times slower."""

    def __init__(self, style_dim: int) -> None:
        super().__init__(style_dim, style_dim, lr_mul=0.01)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map x [B,S] to [B,S]."""
        weight, bias = self.effective()
        return fused_bias_leaky_relu(F.linear(x, weight), bias)


class FIR(nn.Module):
    """Holds the [1,3,3,1] filter as the buffer `kernel`; its gain of 4 makes up for the inserted zeros."""

    def __init__(self) -> None:
        super().__init__()
        taps = (0.25, 0.75, 0.75, 0.25)  # plain numbers: to multiply tensors on "meta" imports torch's compiler
        self.register_buffer("kernel", torch.tensor([[row * column for column in taps] for row in taps]))


class ModulatedConv(nn.Module):
    """Convolution modulated by a style; `demodulate` restores unit variance, `upsample` doubles the size."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, style_dim: int, demodulate: bool = True, upsample: bool = False
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1, outputs, inputs, kernel, kernel))
        self.modulation = EqualLinear(style_dim, inputs, bias_init=1.0)
        if upsample:
            self.blur = FIR()
        self.demodulate, self.upsample = demodulate, upsample

    def effective_weight(self) -> torch.Tensor:
        """Return the equalized weight [O,I,k,k]."""
        weight = self.weight[0]
        return weight / math.sqrt(weight[0].numel())

    def forward(self, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        """Map x [B,I,H,W] and w [B,S] to [B,O,H,W], or to [B,O,2H,2W] when upsampling."""
        weight = self.effective_weight()
        with torch.autocast(x.device.type, enabled=False):
            style, scale = self.scales(w.to(weight.dtype), weight)
        x = x * style[:, :, None, None].to(x.dtype)
        if self.upsample:
            # [B,O,2H+1,2W+1]: the filter is applied after the transposed convolution.
            y = F.conv_transpose2d(x, weight.transpose(0, 1), stride=2)
            y = upfirdn2d(y, self.blur.kernel, pad=(1, 1))
        else:
            y = F.conv2d(x, weight, padding=weight.shape[-1] // 2)
        scale = scale[:, :, None, None]
        # Without demodulation the scale has the size of the style, which half precision need not hold.
        return y * scale.to(y.dtype) if self.demodulate else y.to(scale.dtype) * scale

    def scales(self, w: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute the factors of the inputs [B,I] and of the outputs, [B,O] where demodulated, else [B,1].

        Styles are at most 1 here, so that they and their products fit into half precision; demodulation cancels their
        size, elsewhere the outputs get it back.
        """
        style = self.modulation(w)
        size = style.detach().abs().amax(1, keepdim=True).clamp_min(1e-8)
        style = style / size
        if not self.demodulate:
            return style, size
        return style, torch.rsqrt(style.square() @ weight.square().sum((2, 3)).T + 1e-8 / size.square())


class NoiseWeight(nn.Module):
    """Strength of a layer's noise; the noise itself is a buffer of the generator."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))


class ActivationBias(nn.Module):
    """Bias of the fused activation."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))


class StyledConv(nn.Module):
    """Modulated convolution, noise, bias, leaky ReLU, and the clamp of `config`."""

    def __init__(self, inputs: int, outputs: int, config: GeneratorConfig, upsample: bool = False) -> None:
        super().__init__()
        self.clamp = config.conv_clamp
        self.conv = ModulatedConv(inputs, outputs, 3, config.style_dim, upsample=upsample)
        self.noise = NoiseWeight()
        self.activate = ActivationBias(outputs)

    def forward(self, x: torch.Tensor, w: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Map x [B,I,H,W], w [B,S] and noise [1,1,H',W'] to [B,O,H',W'], of twice the size when upsampling."""
        y = self.conv(x, w)
        y = y + (self.noise.weight * noise).to(y.dtype)
        return clamped(fused_bias_leaky_relu(y, self.activate.bias), self.clamp)


def clamped(x: torch.Tensor, limit: float | None) -> torch.Tensor:
    """Limit x to -limit…limit, where there is a limit."""
    return x if limit is None else x.clamp(-limit, limit)


class ToRGB(nn.Module):
    """1x1 modulated convolution to RGB, added to the upsampled picture so far."""

    def __init__(self, inputs: int, config: GeneratorConfig, upsample: bool = True) -> None:
        super().__init__()
        self.clamp = config.conv_clamp
        if upsample:
            self.upsample = FIR()
        self.conv = ModulatedConv(inputs, 3, 1, config.style_dim, demodulate=False)
        self.bias = nn.Parameter(torch.zeros(1, 3, 1, 1))

    def forward(self, x: torch.Tensor, w: torch.Tensor, rgb: torch.Tensor | None = None) -> torch.Tensor:
        """Map x [B,I,H,W] and w [B,S] to a picture [B,3,H,W], and add `rgb` [B,3,H/2,W/2], the picture so far."""
        y = clamped(self.conv(x, w) + self.bias, self.clamp)
        if rgb is None:
            return y
        return y + upfirdn2d(rgb, self.upsample.kernel, up=2, pad=(2, 1))


class Noises(nn.Module):
    """Fixed noise pictures, one per styled convolution, as buffers `noise_0`, `noise_1`, ..."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count
        for layer in range(count):
            side = 4 * 2 ** ((layer + 1) // 2)
            self.register_buffer(f"noise_{layer}", torch.randn(1, 1, side, side))

    def tensors(self) -> list[torch.Tensor]:
        """Return the noise pictures [1,1,H,W] in layer order."""
        return [getattr(self, f"noise_{layer}") for layer in range(self.count)]


class Generator(nn.Module):
    """StyleGAN2 with fixed noise; attribute names are those of the published state dicts."""

    def __init__(self, config: GeneratorConfig = GeneratorConfig()) -> None:
        super().__init__()
        self.config = config
        dim, widths = config.style_dim, config.channels
        self.style = nn.Sequential(PixelNorm(), *(MappingLayer(dim) for _ in range(config.mapping_layers)))
        self.input = ConstantInput(widths[0])
        self.conv1 = StyledConv(widths[0], widths[0], config)
        self.to_rgb1 = ToRGB(widths[0], config, upsample=False)
        self.convs, self.to_rgbs = nn.ModuleList(), nn.ModuleList()
        for inputs, outputs in zip(widths, widths[1 : config.doublings + 1], strict=False):
            self.convs += [StyledConv(inputs, outputs, config, upsample=True), StyledConv(outputs, outputs, config)]
            self.to_rgbs.append(ToRGB(outputs, config))
        self.noises = Noises(2 * config.doublings + 1)

    def map(self, z: torch.Tensor) -> torch.Tensor:
        """Map z [B,S], normally distributed, to w [B,S]: the mapping network."""
        return self.style(z)

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        """Map W+ latents [B,L,S] to a picture [B,3,H,W], roughly in [-1,1]: the synthesis network."""
        w, noises = latents.unbind(1), self.noises.tensors()
        x = self.input.input.expand(len(latents), -1, -1, -1)
        x = self.conv1(x, w[0], noises[0])
        rgb = self.to_rgb1(x, w[1])
        for i, to_rgb in enumerate(self.to_rgbs):
            x = self.convs[2 * i](x, w[2 * i + 1], noises[2 * i + 1])
            x = self.convs[2 * i + 1](x, w[2 * i + 2], noises[2 * i + 2])
            rgb = to_rgb(x, w[2 * i + 3], rgb)
        return rgb


class ConstantInput(nn.Module):
    """The learned 4x4 start of the synthesis network."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.input = nn.Parameter(torch.randn(1, channels, 4, 4))


def first_layers(generator: Generator, size: int) -> Generator:
    """Take the part of a generator that makes its picture at a smaller `size` (a power of 2); it shares the weights.

    Its latents [B,L,S], with a smaller L, are the first ones of the whole generator's.
    """
    with torch.device("meta"):
        part = Generator(replace(generator.config, size=size))
    state = generator.state_dict(keep_vars=True)
    part.load_state_dict({key: state[key] for key in part.state_dict()}, assign=True)
    return part
