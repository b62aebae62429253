"""A distance of codes in the units of the layers that read them."""

import torch
from torch import Tensor, nn

from psp_train.networks import Generator
from psp_train.networks.stylegan2 import ModulatedConv

SAMPLES = 10_000


class StyleDistance(nn.Module):
    """Mean squared difference of the styles that codes lead to, layer by layer, as a share of their variance.

    A direction of w that no layer looks at costs nothing, and one that moves many channels a lot: 0 is equal, 1 is as
    far as the average w is from a face.
    """

    metric: Tensor

    @torch.no_grad()
    def __init__(self, generator: Generator, average: Tensor) -> None:
        super().__init__()
        offsets = (
            generator.map(torch.randn(SAMPLES, len(average), generator=torch.Generator().manual_seed(1))) - average
        )
        metric = torch.zeros(generator.config.styles, len(average), len(average))
        for code, convolution in readers(generator):
            matrix = convolution.modulation.effective()[0]
            variance = (offsets @ matrix.T).square().sum(1).mean()
            metric[code] += matrix.T @ matrix / variance
        readers_of_a_code = torch.tensor([code for code, _ in readers(generator)]).bincount()
        self.register_buffer("metric", metric / readers_of_a_code[:, None, None])

    def forward(self, codes: Tensor, others: Tensor) -> Tensor:
        """Codes [B,L,S] -> their mean distance."""
        difference = codes - others
        return torch.einsum("bls,lst,blt->bl", difference, self.metric, difference).mean()


def readers(generator: Generator) -> list[tuple[int, ModulatedConv]]:
    """The convolutions, each with the number of the code that styles it."""
    layers = [(0, generator.conv1.conv), (1, generator.to_rgb1.conv)]
    layers += [(index + 1, layer.conv) for index, layer in enumerate(generator.convs)]
    return layers + [(2 * index + 3, layer.conv) for index, layer in enumerate(generator.to_rgbs)]
