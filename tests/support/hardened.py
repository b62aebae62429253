"""Weights that overflow a plain half, and how to compare what they give."""

import math

import torch
from models import inputs

from psp_export.verify import parity


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    """Compare uint8 pictures; a picture with NaN never gets here, its uint8 is just wrong."""
    return parity.psnr((a.int() - b.int()).numpy())


def spread(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Factors from 10 to 100, log-uniform."""
    u = inputs(name, shape) / math.sqrt(12) + 0.5
    return 10 ** (1 + u)


def harden_generator(model) -> None:
    """Scale styles and every output channel's weights by 10 to 100: demodulation cancels both."""
    decoder = model.decoder
    for index, layer in enumerate([decoder.conv1, *decoder.convs]):
        conv = layer.conv
        factor = spread(f"style{index}", (1,))
        conv.modulation.weight.data *= factor
        conv.modulation.bias.data *= factor
        conv.weight.data *= spread(f"weight{index}", (1, conv.weight.shape[1], 1, 1, 1))


def harden_encoder(model) -> None:
    """Scale gains of the encoder by 10 to 100 wherever batch normalisation statistics or the next layer cancel it.

    The residual stream and the pyramid carry a factor per channel; inside a unit, the gain of the first normalisation
    and the weights behind it multiply up to 10,000 before the second normalisation takes it back.
    """
    encoder = model.encoder
    streams = [spread(f"stream{stage}", (width,)) for stage, width in enumerate(encoder.config.widths)]
    scale_norm(encoder.input_layer[1], 1, streams[0])
    units = iter(encoder.body)
    for stage, count in enumerate(encoder.config.units):
        for number in range(count):
            before = streams[max(stage - 1, 0)] if number == 0 else streams[stage]
            harden_unit(next(units), before, streams[stage], f"{stage}.{number}")
    for lateral, before in ((encoder.latlayer1, streams[2]), (encoder.latlayer2, streams[1])):
        lateral.weight.data *= streams[3][:, None, None, None] / before[:, None, None]
        lateral.bias.data *= streams[3]
    for head in encoder.styles:
        head.convs[0].weight.data /= streams[3][:, None, None]


def scale_norm(norm, before, after) -> None:
    """Make a batch normalisation take inputs scaled by `before` and give outputs scaled by `after`."""
    norm.running_mean *= before
    norm.running_var *= before**2
    norm.weight.data *= after
    norm.bias.data *= after


def harden_unit(unit, before, after, name: str) -> None:
    norm1, conv1, _, _, norm2, se = unit.res_layer
    gain, weight = spread(f"gain{name}", (1,)), spread(f"inner{name}", (1,))
    scale_norm(norm1, before, gain)
    conv1.weight.data *= weight
    scale_norm(norm2, gain * weight, after)
    se.fc1.weight.data /= after[:, None, None]
    if isinstance(unit.shortcut_layer, torch.nn.Sequential):
        scale_norm(unit.shortcut_layer[1], 1, after)
        unit.shortcut_layer[0].weight.data /= before[:, None, None]
