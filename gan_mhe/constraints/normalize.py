"""Normalisations of a discriminator, as Miyato et al. 2018 set them for their comparison.

The multiplicative parameter gamma is left out everywhere: it would undo the bound that the method puts on the
network's slope. The shift stays.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from gan_mhe.constraints.select import WeightLayer, weight_layers
from gan_mhe.networks.layers import NormSlot


class ShiftedNorm(nn.Module):
    """A normalisation without scale, followed by one trained shift a channel: (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, norm: nn.Module, channels: int) -> None:
        super().__init__()
        self.norm = norm
        self.shift = nn.Parameter(torch.zeros(channels))

    def forward(self, features: Tensor) -> Tensor:
        normalised: Tensor = self.norm(features)
        return normalised + self.shift[:, None, None].to(normalised.dtype)


class UnitRows(nn.Module):
    """Parametrization w_i / ||w_i||: Salimans and Kingma 2016 with gamma fixed to 1."""

    def __init__(self, layer: WeightLayer) -> None:
        super().__init__()
        self._axes = tuple(axis for axis in range(layer.weight.dim()) if axis != isinstance(layer, nn.ConvTranspose2d))

    def forward(self, weight: Tensor) -> Tensor:
        norms: Tensor = torch.linalg.vector_norm(weight, dim=self._axes, keepdim=True)
        return weight / norms

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight


def batch_norm(discriminator: nn.Module) -> None:
    """Batch normalisation in every slot but the one after the first layer, as the SN-GAN code has it."""
    _fill_slots(
        discriminator,
        lambda slot: (
            nn.Identity() if slot.first else ShiftedNorm(nn.BatchNorm2d(slot.channels, affine=False), slot.channels)
        ),
    )


def layer_norm(discriminator: nn.Module) -> None:
    """Layer normalisation over channels and pixels in every slot."""
    _fill_slots(discriminator, lambda slot: ShiftedNorm(nn.GroupNorm(1, slot.channels, affine=False), slot.channels))


def weight_norm(discriminator: nn.Module) -> None:
    """Unit-norm filters in every layer."""
    for _, layer in list(weight_layers(discriminator)):
        parametrize.register_parametrization(layer, "weight", UnitRows(layer))


def spectral_norm(discriminator: nn.Module, seed: int) -> None:
    """W / sigma(W) in every layer, by PyTorch's parametrization: one power iteration at each forward pass in training.

    PyTorch draws the first singular vectors from its global generator; the draw is fenced off and seeded here.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for _, layer in list(weight_layers(discriminator)):
            parametrizations.spectral_norm(layer)


def _fill_slots(discriminator: nn.Module, make: Callable[[NormSlot], nn.Module]) -> None:
    slots = [(name, module) for name, module in discriminator.named_modules() if isinstance(module, NormSlot)]
    for name, slot in slots:
        discriminator.set_submodule(name, make(slot))
