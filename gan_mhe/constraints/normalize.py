"""Normalisations of a discriminator, as Miyato et al. 2018 set them for their comparison.

The multiplicative parameter gamma is left out everywhere: it would undo the bound that the method puts on the
network's slope. The shift stays.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from gan_mhe.constraints.select import WeightLayer, neuron_axis, rows, weight_layers
from gan_mhe.networks.layers import NormSlot

_SMALLEST_LENGTH = 1e-12


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
        self._axes = tuple(axis for axis in range(layer.weight.dim()) if axis != neuron_axis(layer))

    def forward(self, weight: Tensor) -> Tensor:
        norms: Tensor = torch.linalg.vector_norm(weight, dim=self._axes, keepdim=True)
        return weight / norms

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight


class SpectralNorm(nn.Module):
    """Parametrization W / sigma(W) with sigma = u^T W v, Miyato et al. 2018: one power iteration at each access in
    training mode, u and v constants of the gradient.

    The method of PyTorch's parametrization, in the weight's own precision inside autocast too, without its copies of
    weights that are laid out channels last, and such that a compiler can follow.
    """

    _u: Tensor
    _v: Tensor

    def __init__(self, layer: WeightLayer, generator: torch.Generator) -> None:
        """Draw u and v on the CPU, and take the 15 first iterations."""
        super().__init__()
        self._axis = neuron_axis(layer)
        matrix_ND = rows(layer.weight.detach(), self._axis)
        for name, size in zip(("_u", "_v"), matrix_ND.shape, strict=True):
            start = torch.randn(size, generator=generator).to(matrix_ND)
            self.register_buffer(name, F.normalize(start, dim=0, eps=_SMALLEST_LENGTH))
        for _ in range(15):
            self._iterate(matrix_ND)

    def forward(self, weight: Tensor) -> Tensor:
        with torch.autocast(weight.device.type, enabled=False):
            matrix_ND = rows(weight, self._axis)
            if self.training:
                self._iterate(matrix_ND.detach())
            # Copies: the next forward pass moves the vectors, perhaps before the backward pass of this one.
            u_N, v_D = self._u.clone(), self._v.clone()
            return weight * torch.dot(u_N, matrix_ND @ v_D).reciprocal()  # a division costs two more passes backward

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight

    @torch.no_grad()
    def _iterate(self, matrix_ND: Tensor) -> None:
        self._u.copy_(F.normalize(matrix_ND @ self._v, dim=0, eps=_SMALLEST_LENGTH))
        self._v.copy_(F.normalize(matrix_ND.T @ self._u, dim=0, eps=_SMALLEST_LENGTH))


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


def spectral_norm(discriminator: nn.Module, generator: torch.Generator) -> None:
    """W / sigma(W) in every layer, one power iteration at each forward pass in training."""
    for _, layer in list(weight_layers(discriminator)):
        parametrize.register_parametrization(layer, "weight", SpectralNorm(layer, generator))


def _fill_slots(discriminator: nn.Module, make: Callable[[NormSlot], nn.Module]) -> None:
    slots = [(name, module) for name, module in discriminator.named_modules() if isinstance(module, NormSlot)]
    for name, slot in slots:
        discriminator.set_submodule(name, make(slot))
