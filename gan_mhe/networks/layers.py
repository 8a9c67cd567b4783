"""Building blocks of generators and discriminators, slots for normalization, and size checks.

Shape suffixes: B batch, C channels, H and W pixels. Images are float NCHW in [-1, 1].
"""

import math

import torch.nn.functional as F
from torch import Tensor, nn

from gan_mhe.errors import ConfigError

IMAGE_SIZES = (32, 48, 64)  # those of gan_mhe.config.names.IMAGE_SIZES
LEAKY_SLOPE = 0.1
BATCH_NORM_EPS = 2e-5

WeightLayer = nn.Conv2d | nn.ConvTranspose2d | nn.Linear


class NormSlot(nn.Identity):
    """A position in a discriminator for a normalization layer; the identity until it is replaced.

    channels: size of dimension 1 of the input. first: whether it follows the first convolution, which has no batch norm
    in the SN-GAN code.
    """

    def __init__(self, channels: int, *, first: bool = False) -> None:
        super().__init__()
        self.channels = channels
        self.first = first


class ConvBlock(nn.Module):
    """Convolution with bias, slot, leaky ReLU. With padding 1, 3x3/1 keeps H and W and 4x4/2 halves them."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int, *, first: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding=1)
        self.norm: nn.Module = NormSlot(out_channels, first=first)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return F.leaky_relu(self.norm(self.conv(x_BCHW)), LEAKY_SLOPE)


class UpResBlock(nn.Module):
    """Pre-activation residual block of the generator, doubling H and W (Miyato et al. 2018, Figure 9).

    Residual path: batch norm, ReLU, nearest upsampling, 3x3, batch norm, ReLU, 3x3.
    Shortcut: nearest upsampling, 1x1.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(channels, eps=BATCH_NORM_EPS)
        self.conv1 = conv3x3(channels, channels)
        self.norm2 = nn.BatchNorm2d(channels, eps=BATCH_NORM_EPS)
        self.conv2 = conv3x3(channels, channels)
        self.shortcut = nn.Conv2d(channels, channels, 1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        residual: Tensor = self.conv1(_upsample(F.relu(self.norm1(x_BCHW))))
        residual = self.conv2(F.relu(self.norm2(residual)))
        # A 1x1 convolution commutes with nearest upsampling and costs a quarter at the lower resolution.
        return residual + _upsample(self.shortcut(x_BCHW))


class ResBlock(nn.Module):
    """Pre-activation residual block of the discriminator (Miyato et al. 2018, Figure 9).

    Residual path: slot, ReLU, 3x3, slot, ReLU, 3x3. The shortcut is the identity. With `downsample`, both paths end in
    2x2 average pooling and the shortcut has a 1x1 convolution.
    """

    def __init__(self, channels: int, *, downsample: bool) -> None:
        super().__init__()
        self.norm1: nn.Module = NormSlot(channels)
        self.conv1 = conv3x3(channels, channels)
        self.norm2: nn.Module = NormSlot(channels)
        self.conv2 = conv3x3(channels, channels)
        self.shortcut = nn.Conv2d(channels, channels, 1) if downsample else None

    def forward(self, x_BCHW: Tensor) -> Tensor:
        residual: Tensor = self.conv1(F.relu(self.norm1(x_BCHW)))
        residual = self.conv2(F.relu(self.norm2(residual)))
        if self.shortcut is None:
            return residual + x_BCHW
        return _pool_both(residual, x_BCHW, self.shortcut)


class FirstResBlock(nn.Module):
    """First block of the discriminator, halving H and W (the "optimized" block of the SN-GAN code).

    Residual path: 3x3, slot, ReLU, 3x3, 2x2 average pooling. Shortcut: 2x2 average pooling, 1x1. There is no leading
    ReLU, because it would discard half of the image. The slot has the same position, and therefore the same name, as
    `norm2` of the other blocks.
    """

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.conv1 = conv3x3(in_channels, channels)
        self.norm2: nn.Module = NormSlot(channels, first=True)
        self.conv2 = conv3x3(channels, channels)
        self.shortcut = nn.Conv2d(in_channels, channels, 1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return _pool_both(self.conv2(F.relu(self.norm2(self.conv1(x_BCHW)))), x_BCHW, self.shortcut)


def conv3x3(in_channels: int, out_channels: int) -> nn.Conv2d:
    """A 3x3 convolution with bias that keeps H and W."""
    return nn.Conv2d(in_channels, out_channels, 3, padding=1)


def _upsample(x_BCHW: Tensor) -> Tensor:
    return F.interpolate(x_BCHW, scale_factor=2.0, mode="nearest")


def _pool_both(residual_BCHW: Tensor, x_BCHW: Tensor, shortcut: nn.Conv2d) -> Tensor:
    # A 1x1 convolution commutes with average pooling and costs a quarter at the lower resolution.
    short: Tensor = shortcut(F.avg_pool2d(x_BCHW, 2))
    return F.avg_pool2d(residual_BCHW, 2) + short


def scaled(channels: int, width: float) -> int:
    """`channels * width` rounded to the nearest integer (ties to even), but at least 1.

    Raises ConfigError unless `width` is finite and above 0.
    """
    if not (math.isfinite(width) and width > 0):
        raise ConfigError(f"width: expected a finite number above 0, got {width!r}")
    return max(1, round(channels * width))


def check_image_size(image_size: int) -> None:
    """Raise ConfigError unless the networks support square images of `image_size` pixels a side."""
    if image_size not in IMAGE_SIZES:
        expected = ", ".join(map(str, IMAGE_SIZES))
        raise ConfigError(f"data.image_size: expected one of {expected}, got {image_size!r}")


def check_latent_dim(latent_dim: int) -> None:
    """Raise ConfigError unless the latent vector has at least one entry."""
    if latent_dim < 1:
        raise ConfigError(f"generator.latent_dim: expected an integer of at least 1, got {latent_dim!r}")
