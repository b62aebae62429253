"""Turn the StyleGAN2 generator into its deployable form (see `psp_export.deploy`)."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from psp_export.deploy.convolution import conv2d, conv_transpose2d
from psp_export.deploy.custom_ops import fused_bias_leaky_relu, upfirdn2d
from psp_export.deploy.layers import frozen
from psp_train.networks import Generator
from psp_train.networks.psp import to_picture
from psp_train.networks.stylegan2 import EqualLinear, StyledConv, ToRGB, clamped


class DeployedGenerator(nn.Module):
    """The generator: W+ latents [B,L,S] FP32 -> uint8 [B,H,W,3], the `rows` of its pictures that are kept.

    With `feedback`, of a step of ReStyle, also what that makes of the picture before it is clipped.
    """

    def __init__(
        self, generator: Generator, rows: tuple[int, int] | None = None, feedback: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.rows, self.feedback = rows, feedback
        noises = generator.noises.tensors()
        self.register_buffer("constant", generator.input.input.detach().clone())
        self.convs = nn.ModuleList(
            DeployedStyledConv(conv, noise)
            for conv, noise in zip([generator.conv1, *generator.convs], noises, strict=True)
        )
        self.to_rgbs = nn.ModuleList(DeployedToRGB(t) for t in [generator.to_rgb1, *generator.to_rgbs])

    def forward(self, w: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        x = self.convs[0](self.constant, w[:, 0])
        rgb = self.to_rgbs[0](x, w[:, 1])
        for i, to_rgb in enumerate(self.to_rgbs[1:]):
            x = self.convs[2 * i + 1](x, w[:, 2 * i + 1])
            x = self.convs[2 * i + 2](x, w[:, 2 * i + 2])
            rgb = to_rgb(x, w[:, 2 * i + 3]) + to_rgb.upsample(rgb)
        if self.rows:
            rgb = rgb[:, :, slice(*self.rows)]
        return to_picture(rgb) if self.feedback is None else (to_picture(rgb), self.feedback(rgb))


class Style(nn.Module):
    """Style affine, FP32: w [B,S] -> the style scaled to a peak of 1 [B,I], and that peak [B,1]."""

    def __init__(self, modulation: EqualLinear) -> None:
        super().__init__()
        weight, bias = modulation.effective()
        self.weight, self.bias = frozen(weight), frozen(bias)

    def forward(self, w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        style = F.linear(w, self.weight, self.bias)
        peak = style.abs().amax(1, keepdim=True).clamp(min=1e-12)
        return style / peak, peak


class Demodulation(nn.Module):
    """Demodulation: √2 / sqrt(sum_i s² W2 + eps), FP32, for a normalised style and weight.

    With s = m s' and W = g W' the factors m g leave the fraction as an epsilon of 1e-8 / (m g)²: the result is
    exactly the reference's. √2 is the gain of the activation, which is positively homogeneous.
    """

    def __init__(self, weight: torch.Tensor, gain: torch.Tensor) -> None:
        super().__init__()
        self.energy = frozen(weight.square().sum((2, 3)).T)
        self.epsilon = frozen(1e-8 / gain.square())

    def forward(self, style: torch.Tensor, peak: torch.Tensor) -> torch.Tensor:
        return math.sqrt(2) * torch.rsqrt(style.square() @ self.energy + self.epsilon / peak.square())


class DeployedStyledConv(nn.Module):
    """A styled convolution: x [B,I,H,W], w [B,S] -> [B,O,H,W], or [B,O,2H,2W] for an upsampling layer."""

    def __init__(self, layer: StyledConv, noise: torch.Tensor) -> None:
        super().__init__()
        weight = layer.conv.effective_weight()
        # Peak |weight| of 1/√fan-in: the sum over the inputs cannot outgrow them.
        gain = weight.abs().amax((1, 2, 3)).clamp(min=1e-30) * math.sqrt(weight[0].numel())
        weight = weight / gain[:, None, None, None]
        self.style = Style(layer.conv.modulation)
        self.demodulation = Demodulation(weight, gain)
        self.upsample, self.outputs = layer.conv.upsample, len(weight)
        if self.upsample:
            self.fir = frozen(layer.conv.blur.kernel.flip(0, 1).repeat(self.outputs, 1, 1, 1))
        self.weight = frozen(weight.transpose(0, 1) if self.upsample else weight)
        bias = math.sqrt(2) * layer.activate.bias
        self.bias = frozen(bias if self.upsample else bias[:, None, None])
        strength = math.sqrt(2) * layer.noise.weight.detach()
        self.noise = frozen(strength * noise) if strength != 0 else None
        self.clamp = layer.clamp
        self.custom_ops = False

    def use_custom_ops(self) -> None:
        """Compute FIR and activation by custom operations from now on; theirs takes the FIR as it is, not turned."""
        self.custom_ops = True
        if self.upsample:
            self.fir = frozen(self.fir.flip(2, 3))

    def forward(self, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        style, peak = self.style(w)
        demodulation = self.demodulation(style, peak)
        x = x * style[:, :, None, None].to(x.dtype)
        demodulation = demodulation[:, :, None, None].to(x.dtype)
        y = self._by_custom_ops(x, demodulation) if self.custom_ops else self._by_own_ops(x, demodulation)
        return clamped(y, self.clamp)

    def _by_own_ops(self, x: torch.Tensor, demodulation: torch.Tensor) -> torch.Tensor:
        if self.upsample:
            # Scaled before the FIR, which is linear: the bias is then the FIR's own, and no pass of its own.
            y = conv_transpose2d(x, self.weight, stride=2) * demodulation
            y = conv2d(y, self.fir, self.bias, padding=1, groups=self.outputs)
        else:
            y = conv2d(x, self.weight, padding=1) * demodulation + self.bias
        return F.leaky_relu(y if self.noise is None else y + self.noise, 0.2)

    def _by_custom_ops(self, x: torch.Tensor, demodulation: torch.Tensor) -> torch.Tensor:
        if self.upsample:
            y = conv_transpose2d(x, self.weight, stride=2) * demodulation
            y = upfirdn2d(y, self.fir, up=1, crop=2)
        else:
            y = conv2d(x, self.weight, padding=1) * demodulation
        y = y if self.noise is None else y + self.noise
        return fused_bias_leaky_relu(y, self.bias.reshape(-1, 1, 1))


class DeployedToRGB(nn.Module):
    """A toRGB layer: x [B,I,H,W], w [B,S] -> [B,3,H,W] FP32. Nothing demodulates: the scale is put back in FP32."""

    def __init__(self, layer: ToRGB) -> None:
        super().__init__()
        weight = layer.conv.effective_weight()
        gain = weight.detach().abs().max().clamp(min=1e-30) * math.sqrt(weight[0].numel())
        self.style = Style(layer.conv.modulation)
        self.weight = frozen(weight / gain)
        self.gain = gain.item()
        self.bias = frozen(layer.bias)
        if hasattr(layer, "upsample"):
            self.fir = frozen(layer.upsample.kernel.repeat(3, 1, 1, 1))
        self.clamp = layer.clamp
        self.custom_ops = False

    def use_custom_ops(self) -> None:
        """Compute the FIR by a custom operation from now on."""
        self.custom_ops = True

    def forward(self, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        style, peak = self.style(w)
        y = conv2d(x * style[:, :, None, None].to(x.dtype), self.weight)
        return clamped(y.float() * (peak * self.gain)[:, :, None, None] + self.bias, self.clamp)

    def upsample(self, rgb: torch.Tensor) -> torch.Tensor:
        """Insert zeros and filter in one depthwise transposed convolution: [B,3,H,W] -> [B,3,2H,2W], FP32."""
        if self.custom_ops:
            return upfirdn2d(rgb, self.fir, up=2, crop=1)
        return conv_transpose2d(rgb, self.fir, stride=2, padding=1, groups=3)


class DeployedMapping(nn.Module):
    """The mapping network, FP32: z [B,S] -> w [B,S]."""

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        layers = [layer.effective() for layer in generator.style if isinstance(layer, EqualLinear)]
        self.weights = nn.ParameterList(frozen(weight) for weight, _ in layers)
        self.biases = nn.ParameterList(frozen(bias) for _, bias in layers)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        w = z / (z.square().mean(1, keepdim=True) + 1e-8).sqrt()
        for weight, bias in zip(self.weights, self.biases, strict=True):
            w = F.leaky_relu(F.linear(w, weight, bias), 0.2) * math.sqrt(2)
        return w
