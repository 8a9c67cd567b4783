"""Weight initialization of generators and discriminators."""

import math
from collections.abc import Callable

import torch
from torch import nn

from gan_mhe.networks.layers import FirstResBlock, ResBlock, UpResBlock, WeightLayer

WEIGHT_STD = 0.02


def initialize_truncated_normal(network: nn.Module, generator: torch.Generator, *, width: float = 1.0) -> None:
    """Draw every weight from N(0, sigma²) truncated at two sigma; reset biases to 0 and batch norm to its defaults.

    sigma is 0.02 at width 1, as in the authors' code of MHE, and 0.02 / sqrt(width) in every layer whose fan-in scales
    with the width, that is all but the first. A narrow network then starts with activations as large as those of the
    full one; with a fixed sigma they would vanish (logits of 1e-7 at width 1/8). The truncated distribution has a
    standard deviation of 0.88 sigma. `generator` and `network` must be on one device.
    """
    # Inverse transform sampling, because the algorithm of torch's own trunc_normal_, and with it the weights of a given
    # seed, changed between versions.
    inside = math.erf(2 / math.sqrt(2))
    first = next(layer for layer in network.modules() if isinstance(layer, WeightLayer))

    def draw(layer: WeightLayer) -> None:
        sigma = WEIGHT_STD if layer is first else WEIGHT_STD / math.sqrt(width)
        uniform = layer.weight.uniform_(-inside, inside, generator=generator)
        uniform.erfinv_().mul_(sigma * math.sqrt(2)).clamp_(-2 * sigma, 2 * sigma)

    _reset(network, draw)


def initialize_glorot(network: nn.Module, generator: torch.Generator) -> None:
    """Draw every weight from U[-a, a], a = gain sqrt(6 / (fan_in + fan_out)); reset biases to 0 and batch norm.

    As in the SN-GAN code, the gain is sqrt(2) on residual paths, because of their ReLUs, and 1 for shortcuts, dense
    layers and the image convolution. `generator` and `network` must be on one device.
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
