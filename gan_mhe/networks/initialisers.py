"""Initial weights of generators and discriminators."""

import math
from collections.abc import Callable

import torch
from torch import nn

from gan_mhe.networks.layers import FirstResBlock, ResBlock, UpResBlock, WeightLayer

WEIGHT_STD = 0.02


def initialise_truncated_normal(network: nn.Module, generator: torch.Generator, *, width: float = 1.0) -> None:
    """Draw every weight from N(0, sigma²) cut at two sigma; biases 0, batch norm fresh.

    sigma is 0.02 at width 1, as in the authors' code of MHE, and 0.02 / sqrt(width) in every layer whose fan-in
    the width scales, that is all but the first: a narrow network starts with the signal of the full one, where a
    fixed sigma would leave it silent (logits of 1e-7 at width 1/8). Cutting leaves 0.88 sigma as the effective
    standard deviation. `generator` and `network` share a device.
    """
    # One uniform a weight through the inverse distribution function: torch's own trunc_normal_ changed its
    # algorithm between versions, and so would the networks of a given seed.
    inside = math.erf(2 / math.sqrt(2))
    first = next(layer for layer in network.modules() if isinstance(layer, WeightLayer))

    def draw(layer: WeightLayer) -> None:
        sigma = WEIGHT_STD if layer is first else WEIGHT_STD / math.sqrt(width)
        uniform = layer.weight.uniform_(-inside, inside, generator=generator)
        uniform.erfinv_().mul_(sigma * math.sqrt(2)).clamp_(-2 * sigma, 2 * sigma)

    _reset(network, draw)


def initialise_glorot(network: nn.Module, generator: torch.Generator) -> None:
    """Draw every weight from U[-a, a], a = gain sqrt(6 / (fan_in + fan_out)); biases 0, batch norm fresh.

    As in the SN-GAN code the gain is sqrt(2) on residual paths, for their ReLUs, and 1 for shortcuts, dense
    layers and the image convolution. `generator` and `network` share a device.
    """
    blocks = [m for m in network.modules() if isinstance(m, UpResBlock | ResBlock | FirstResBlock)]
    residual = {conv for block in blocks for conv in (block.conv1, block.conv2)}

    def draw(layer: WeightLayer) -> None:
        gain = math.sqrt(2) if layer in residual else 1.0
        nn.init.xavier_uniform_(layer.weight, gain, generator=generator)

    _reset(network, draw)


@torch.no_grad()
def _reset(network: nn.Module, draw: Callable[[WeightLayer], None]) -> None:
    for layer in network.modules():
        if isinstance(layer, WeightLayer):
            draw(layer)
            if layer.bias is not None:
                layer.bias.zero_()
        elif isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            layer.reset_parameters()
