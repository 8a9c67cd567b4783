"""Generators: (B, latent_dim) latents to (B, C, H, W) float images in [-1, 1]."""

from collections import OrderedDict

import torch
from torch import nn

from gan_mhe.networks.initializers import initialize_glorot, initialize_truncated_normal
from gan_mhe.networks.layers import BATCH_NORM_EPS, UpResBlock, check_image_size, check_latent_dim, conv3x3, scaled


class CnnGenerator(nn.Sequential):
    """The DCGAN-like generator of Miyato et al. 2018, Table 3, with the details of the authors' code of MHE.

    Dense layer without bias to (image_size/8)² x 512, batch norm over these outputs before they are reshaped to a
    feature map, ReLU; three transposed 4x4/2 convolutions to 256, 128 and 64 channels, each with batch norm and ReLU;
    3x3 convolution, tanh. 3,820,547 parameters at 32 pixels and width 1. width: factor on every hidden channel count.
    Raises ConfigError for sizes out of range.
    """

    def __init__(self, *, image_size: int = 32, latent_dim: int = 128, width: float = 1.0, channels: int = 3) -> None:
        check_image_size(image_size)
        check_latent_dim(latent_dim)
        base = image_size // 8
        first, *rest = (scaled(hidden, width) for hidden in (512, 256, 128, 64))
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        layers["dense"] = nn.Linear(latent_dim, base * base * first, bias=False)
        layers["norm0"] = nn.BatchNorm1d(base * base * first, eps=BATCH_NORM_EPS)
        layers["relu0"] = nn.ReLU()
        layers["unflatten"] = nn.Unflatten(1, (first, base, base))
        previous = first
        for index, hidden in enumerate(rest, start=1):
            layers[f"deconv{index}"] = nn.ConvTranspose2d(previous, hidden, 4, stride=2, padding=1)
            layers[f"norm{index}"] = nn.BatchNorm2d(hidden, eps=BATCH_NORM_EPS)
            layers[f"relu{index}"] = nn.ReLU()
            previous = hidden
        # In the authors' code this convolution is transposed too; at stride 1 that only permutes its weights.
        layers["image"] = conv3x3(previous, channels)
        layers["tanh"] = nn.Tanh()
        super().__init__(layers)
        self._width = width

    def initialize(self, generator: torch.Generator) -> None:
        """Draw all weights from a truncated normal distribution, as in the authors' code of MHE."""
        initialize_truncated_normal(self, generator, width=self._width)


class ResNetGenerator(nn.Sequential):
    """The residual generator of Miyato et al. 2018, Table 4: 4,276,739 parameters at 32 pixels and width 1.

    Dense layer to (image_size/8)² x 256, three residual blocks that double the size, batch norm, ReLU, 3x3
    convolution, tanh. width: factor on every hidden channel count. Raises ConfigError for sizes out of range.
    """

    def __init__(self, *, image_size: int = 32, latent_dim: int = 128, width: float = 1.0, channels: int = 3) -> None:
        check_image_size(image_size)
        check_latent_dim(latent_dim)
        base = image_size // 8
        hidden = scaled(256, width)
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        layers["dense"] = nn.Linear(latent_dim, base * base * hidden)
        layers["unflatten"] = nn.Unflatten(1, (hidden, base, base))
        for index in (1, 2, 3):
            layers[f"block{index}"] = UpResBlock(hidden)
        layers["norm"] = nn.BatchNorm2d(hidden, eps=BATCH_NORM_EPS)
        layers["relu"] = nn.ReLU()
        layers["image"] = conv3x3(hidden, channels)
        layers["tanh"] = nn.Tanh()
        super().__init__(layers)

    def initialize(self, generator: torch.Generator) -> None:
        """Draw all weights from the Glorot uniform distribution, as in the SN-GAN code."""
        initialize_glorot(self, generator)
