"""Convert modules to half precision that holds: some stay FP32, the rest is kept inside the range of FP16.

FP16 ends at 65504 and loses bits below 6e-5. The generator is safe by construction: its normalised weights and
styles keep every tensor at the size of the activations (`deploy/generator.py`). The encoder has no such structure:
trained batch normalisation gains decide how large its features are. But convolutions are linear, and ReLU-like
activations positively homogeneous, so every channel can be stored at a scale of our choice and the scale folded into
the weights on both sides. Powers of two make that exact. The scales come from the peaks the FP32 encoder reaches on a
few pictures; `TARGET_PEAK` leaves a factor of a thousand above and 20 bits below.
"""

import torch
from torch import nn

from psp_export.deploy.encoder import DeployedBlock, DeployedEncoder, DeployedUnit, Gate, Prepare
from psp_export.deploy.generator import Demodulation, DeployedMapping, DeployedToRGB, Style
from psp_export.deploy.heads import Heads, LastMap, NaiveWPlusHead, Pyramid, WHead
from psp_export.deploy.layers import BatchedLinear
from psp_export.deploy.refinement import Feedback, RefiningEncoder
from psp_export.deploy.resnet import DeployedBottleneck, ResNetHead

#: Largest magnitude every channel of the encoder is scaled to on the calibration pictures.
TARGET_PEAK = 64.0

#: What stays FP32 in an FP16 engine, and why.
FP32_ISLANDS: dict[type[nn.Module], str] = {
    Prepare: "class ids and pixel values, exact before the first convolution",
    Style: "styles of published weights reach hundreds; their peak is divided out before FP16",
    Demodulation: "sums of squares over 512 channels overflow, and epsilon 1e-8 vanishes, in FP16",
    DeployedMapping: "a megabyte that runs once per style; its 8 layers would accumulate rounding",
    Gate: "means over up to 128x128 values; vectors after that",
    BatchedLinear: "latents feed every layer of the generator: an error here is an error everywhere",
    WHead: "pooled features, then a linear layer",
    NaiveWPlusHead: "pooled features, then two linear layers",
    ResNetHead: "pooled features, then linear layers",
    Feedback: "the picture a step goes on from, neither clipped nor rounded; few operations",
}
#: Parameters that stay FP32 inside modules that do not: the RGB skip sum, the average w and its picture.
FP32_PARAMETERS = {
    DeployedToRGB: ("bias", "fir"),
    DeployedEncoder: ("latent_avg",),
    RefiningEncoder: ("latent_avg", "average"),
}


def to_half(module: nn.Module) -> nn.Module:
    """Convert parameters and buffers to FP16 in place, the islands excepted."""
    if isinstance(module, tuple(FP32_ISLANDS)):
        return module
    keep = FP32_PARAMETERS.get(type(module), ())
    for name, parameter in module.named_parameters(recurse=False):
        if name not in keep:
            parameter.data = parameter.data.half()
    for name, buffer in module.named_buffers(recurse=False):
        if buffer.is_floating_point():
            setattr(module, name, buffer.half())
    for child in module.children():
        to_half(child)
    return module


@torch.no_grad()
def balance_encoder(encoder: DeployedEncoder, *inputs: torch.Tensor) -> None:
    """Rescale every channel of an FP32 encoder to a peak of about `TARGET_PEAK` on `inputs` (of `forward`), in place.

    The function of the encoder is unchanged, bit for bit where FP32 itself neither over- nor underflows.
    """
    peaks = channel_peaks(encoder, *inputs)
    streams = [_stream_scale(encoder, peaks, stage) for stage in range(4)]
    stem = power_of_two(peaks["stem.0"], peaks["stem.1"]) if _own_stem(encoder) else streams[0]
    _scale_conv(encoder.stem[0], None, stem)
    for index, (stage, before) in enumerate(zip(encoder.stages, (stem, *streams))):
        for number, unit in enumerate(stage):
            balance = _BALANCES[type(unit)]
            balance(unit, before if number == 0 else streams[index], streams[index], peaks, f"stages.{index}.{number}")
    _balance_head(encoder.head, streams, peaks)


def _own_stem(encoder: DeployedEncoder) -> bool:
    """Tell whether the first unit's shortcut projects what the stem gives, rather than adding it to the first stage."""
    return encoder.stages[0][0].shortcut is not None


def channel_peaks(encoder: DeployedEncoder, *inputs: torch.Tensor) -> dict[str, torch.Tensor]:
    """Measure the largest magnitude of every channel at the output of every module, in FP32: name -> [C]."""
    peaks: dict[str, torch.Tensor] = {}

    def record(name: str):
        def hook(_module, _inputs, output):
            if output.ndim == 4:
                peaks[name] = output.abs().amax((0, 2, 3))

        return hook

    handles = [m.register_forward_hook(record(name)) for name, m in encoder.named_modules() if name]
    encoder(*inputs)
    for handle in handles:
        handle.remove()
    return peaks


def power_of_two(*peaks: torch.Tensor) -> torch.Tensor:
    """Choose the power of two that takes the largest of the peaks [C] to (TARGET_PEAK / 2, TARGET_PEAK], per channel.

    Small channels are raised by 2^10 at most: one that slept through the calibration pictures may wake up later.
    """
    peak = torch.stack(peaks).amax(0).clamp(1e-30, 1e30)
    return torch.exp2(torch.ceil(torch.log2(peak / TARGET_PEAK)).clamp(min=-10))


def _stream_scale(encoder: DeployedEncoder, peaks: dict[str, torch.Tensor], stage: int) -> torch.Tensor:
    """Choose the scale [C] of the residual stream of a stage: every tensor that is added to it must share it."""
    last = {DeployedUnit: ".conv2", DeployedBlock: ".conv2", DeployedBottleneck: ".conv3"}
    units = [f"stages.{stage}.{number}" for number in range(len(encoder.stages[stage]))]
    names = [unit + part for unit in units for part in ("", last[type(encoder.stages[stage][0])], ".shortcut")]
    if stage == 0 and not _own_stem(encoder):
        names += ["stem.0", "stem.1"]
    if stage == 3:  # the pyramid adds to the last features
        names += [f"head.{part}" for part in ("lateral1", "double16", "lateral2", "double32")]
    return power_of_two(*(peaks[name] for name in names if name in peaks))


def _balance_unit(unit, before, after, peaks, name: str) -> None:
    normed, inner = power_of_two(peaks[f"{name}.norm"]), power_of_two(peaks[f"{name}.conv1"], peaks[f"{name}.prelu"])
    unit.norm.scale.mul_((before / normed)[:, None, None])
    unit.norm.shift.div_(normed[:, None, None])
    _scale_conv(unit.conv1, normed, inner)
    _scale_conv(unit.conv2, inner, after)
    unit.gate.fc1.mul_(after[:, None, None])
    if unit.shortcut is not None:
        _scale_conv(unit.shortcut, before, after)


def _balance_bottleneck(unit, before, after, peaks, name: str) -> None:
    inner1, inner2 = (power_of_two(peaks[f"{name}.{conv}"]) for conv in ("conv1", "conv2"))
    _scale_conv(unit.conv1, before, inner1)
    _scale_conv(unit.conv2, inner1, inner2)
    _scale_conv(unit.conv3, inner2, after)
    if unit.shortcut is not None:
        _scale_conv(unit.shortcut, before, after)


def _balance_block(unit, before, after, peaks, name: str) -> None:
    inner = power_of_two(peaks[f"{name}.conv1"])
    _scale_conv(unit.conv1, before, inner)
    _scale_conv(unit.conv2, inner, after)
    if unit.shortcut is not None:
        _scale_conv(unit.shortcut, before, after)


_BALANCES = {DeployedUnit: _balance_unit, DeployedBottleneck: _balance_bottleneck, DeployedBlock: _balance_block}


def _balance_head(head: nn.Module, streams: list[torch.Tensor], peaks: dict[str, torch.Tensor]) -> None:
    last = streams[3]
    if isinstance(head, Pyramid):
        _scale_conv(head.lateral1, streams[2], last)
        _scale_conv(head.lateral2, streams[1], last)
        for level, heads in enumerate(head.heads):
            _balance_heads(heads, last, peaks, f"head.heads.{level}")
    elif isinstance(head, LastMap):
        _balance_heads(head.heads, last, peaks, "head.heads")
    elif isinstance(head, (WHead, ResNetHead)):
        head.linear.weight.mul_(last[:, None])
    elif isinstance(head, NaiveWPlusHead):
        head.norm.scale.mul_(last[:, None, None])


def _balance_heads(heads: Heads, before: torch.Tensor, peaks: dict[str, torch.Tensor], name: str) -> None:
    for depth, conv in enumerate(heads.convs):
        after = power_of_two(peaks[f"{name}.convs.{depth}"])
        _scale_conv(conv, before, after)
        before = after
    count, width, _ = heads.linear.weight.shape
    heads.linear.weight.mul_(before.view(count, width, 1))


def _scale_conv(conv: nn.Conv2d, before: torch.Tensor | None, after: torch.Tensor) -> None:
    """Take inputs stored as x / before [I] and give outputs stored as y / after [O]."""
    if before is not None:
        rows = conv.weight.view(conv.groups, -1, *conv.weight.shape[1:])
        rows.mul_(before.view(conv.groups, 1, -1, 1, 1))
    conv.weight.div_(after[:, None, None, None])
    if conv.bias is not None:
        conv.bias.div_(after)
