"""Discriminators: (B, C, H, W) float images in [-1, 1] to (B,) logits, high for real images.

They contain no normalization, but a `NormSlot` between each convolution and its activation.
"""

from collections import OrderedDict
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gan_mhe.networks.initializers import initialize_glorot, initialize_truncated_normal
from gan_mhe.networks.layers import ConvBlock, FirstResBlock, NormSlot, ResBlock, check_image_size, scaled


class ConvRow(NamedTuple):
    """One convolution of a table."""

    name: str
    """Name of the layer in metrics."""
    channels: int
    """Output channels at width 1."""
    kernel: int
    """Side of the square kernel."""
    stride: int


# Miyato et al. 2018, Table 3: the channels double at the 3x3 convolutions.
MIYATO_TABLE = (
    ConvRow("c0_0", 64, 3, 1),
    ConvRow("c0_1", 64, 4, 2),
    ConvRow("c1_0", 128, 3, 1),
    ConvRow("c1_1", 128, 4, 2),
    ConvRow("c2_0", 256, 3, 1),
    ConvRow("c2_1", 256, 4, 2),
    ConvRow("c3_0", 512, 3, 1),
)

# The authors' code of Liu et al. 2018 (MHE): the channels double at the 4x4 convolutions.
OFFICIAL_TABLE = (
    ConvRow("c0_0", 64, 3, 1),
    ConvRow("c0_1", 128, 4, 2),
    ConvRow("c1_0", 128, 3, 1),
    ConvRow("c1_1", 256, 4, 2),
    ConvRow("c2_0", 256, 3, 1),
    ConvRow("c2_1", 512, 4, 2),
    ConvRow("c3_0", 512, 3, 1),
)


class _CnnDiscriminator(nn.Sequential):
    """The convolutions of a table, each with leaky ReLU, and a dense layer on the flattened feature map."""

    def __init__(
        self, table: tuple[ConvRow, ...], *, dense_bias: bool, image_size: int, width: float, channels: int
    ) -> None:
        check_image_size(image_size)
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        previous = channels
        for row in table:
            hidden = scaled(row.channels, width)
            layers[row.name] = ConvBlock(previous, hidden, row.kernel, row.stride, first=not layers)
            previous = hidden
        layers["flatten"] = nn.Flatten()
        layers["dense"] = nn.Linear((image_size // 8) ** 2 * previous, 1, bias=dense_bias)
        super().__init__(layers)
        self._width = width

    def forward(self, x_BCHW: Tensor) -> Tensor:
        h = x_BCHW
        for layer in self:
            h = layer(h)
        return h.squeeze(1)

    def initialize(self, generator: torch.Generator) -> None:
        """Draw all weights from a truncated normal distribution, as in the authors' code of MHE."""
        initialize_truncated_normal(self, generator, width=self._width)


class MiyatoDiscriminator(_CnnDiscriminator):
    """The CNN discriminator of Miyato et al. 2018, Table 3: 2,935,873 parameters at 32 pixels and width 1.

    width: factor on every hidden channel count. Raises ConfigError for sizes out of range.
    """

    def __init__(self, *, image_size: int = 32, width: float = 1.0, channels: int = 3) -> None:
        super().__init__(MIYATO_TABLE, dense_bias=True, image_size=image_size, width=width, channels=channels)


class OfficialDiscriminator(_CnnDiscriminator):
    """The wider CNN discriminator of the authors' code of MHE: 5,860,864 parameters at 32 pixels and width 1.

    Its dense layer has no bias. width: factor on every hidden channel count. Raises ConfigError for sizes out of range.
    """

    def __init__(self, *, image_size: int = 32, width: float = 1.0, channels: int = 3) -> None:
        super().__init__(OFFICIAL_TABLE, dense_bias=False, image_size=image_size, width=width, channels=channels)


class ResNetDiscriminator(nn.Module):
    """The residual discriminator of Miyato et al. 2018, Table 4: 1,053,824 parameters at width 1.

    Two residual blocks that halve the size, two that keep it, ReLU, sum over all pixels, and a dense layer without bias
    (as in the SN-GAN code). width: factor on the hidden channel count. Raises ConfigError for sizes out of range.
    """

    def __init__(self, *, image_size: int = 32, width: float = 1.0, channels: int = 3) -> None:
        check_image_size(image_size)
        super().__init__()
        hidden = scaled(128, width)
        self.block1 = FirstResBlock(channels, hidden)
        self.block2 = ResBlock(hidden, downsample=True)
        self.block3 = ResBlock(hidden, downsample=False)
        self.block4 = ResBlock(hidden, downsample=False)
        self.norm: nn.Module = NormSlot(hidden)
        self.dense = nn.Linear(hidden, 1, bias=False)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        h_BCHW = self.block4(self.block3(self.block2(self.block1(x_BCHW))))
        pooled_BC = F.relu(self.norm(h_BCHW)).sum(dim=(2, 3))
        logits: Tensor = self.dense(pooled_BC)
        return logits.squeeze(1)

    def initialize(self, generator: torch.Generator) -> None:
        """Draw all weights from the Glorot uniform distribution, as in the SN-GAN code."""
        initialize_glorot(self, generator)
