"""Normalizations of a discriminator, as Miyato et al. 2018 configured them for their comparison.

None of them has the multiplicative parameter gamma, which would undo the method's bound on the Lipschitz constant. The
additive shift is kept.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from gan_mhe.constraints.select import WeightLayer, neuron_axis, rows, weight_layers
from gan_mhe.networks.layers import NormSlot
from gan_mhe.sphere.precision import without_autocast

_SMALLEST_LENGTH = 1e-12


class ShiftedNorm(nn.Module):
    """A normalization without scale, followed by one trained shift per channel: (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, norm: nn.Module, channels: int) -> None:
        super().__init__()
        self.norm = norm
        self.shift = nn.Parameter(torch.zeros(channels))

    def forward(self, features: Tensor) -> Tensor:
        normalized: Tensor = self.norm(features)
        return normalized + self.shift[:, None, None].to(normalized.dtype)


class UnitRows(nn.Module):
    """Parametrization w_i / ||w_i||, Salimans and Kingma 2016 with gamma fixed to 1."""

    def __init__(self, layer: WeightLayer) -> None:
        super().__init__()
        self._axes = tuple(axis for axis in range(layer.weight.dim()) if axis != neuron_axis(layer))

    def forward(self, weight: Tensor) -> Tensor:
        norms: Tensor = torch.linalg.vector_norm(weight, dim=self._axes, keepdim=True)
        return weight / norms

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight


class SpectralNorm(nn.Module):
    """Parametrization W / sigma(W) with sigma = u^T W v, Miyato et al. 2018.

    Each access in training mode runs one power iteration. The gradient treats u and v as constants.

    The method is that of PyTorch's own parametrization, which however copies weights in channels-last layout, cannot be
    traced by torch.compile, and follows autocast: on a CPU its iterations stay in float32 all the same, because
    autocast has no matrix-vector products there (PyTorch 2.15); its documentation lists them for CUDA.
    """

    _u: Tensor
    _v: Tensor

    def __init__(self, layer: WeightLayer, generator: torch.Generator) -> None:
        """Draw u and v on the CPU from `generator`, and run 15 power iterations."""
        super().__init__()
        self._axis = neuron_axis(layer)
        matrix_ND = rows(layer.weight.detach(), self._axis)
        for name, size in zip(("_u", "_v"), matrix_ND.shape, strict=True):
            start = torch.randn(size, generator=generator).to(matrix_ND)
            self.register_buffer(name, F.normalize(start, dim=0, eps=_SMALLEST_LENGTH))
        for _ in range(0 if matrix_ND.is_meta else 15):  # the memory estimate needs no values
            self._iterate(matrix_ND)

    def forward(self, weight: Tensor) -> Tensor:
        with without_autocast(weight):
            matrix_ND = rows(weight, self._axis)
            if self.training:
                self._iterate(matrix_ND.detach())
            # Copies, because the next forward pass changes the vectors, possibly before the backward pass of this one.
            u_N, v_D = self._u.clone(), self._v.clone()
            # A product: a quotient would need two more passes over the weight in the backward pass.
            return weight * torch.dot(u_N, matrix_ND @ v_D).reciprocal()

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight

    @torch.no_grad()
    def _iterate(self, matrix_ND: Tensor) -> None:
        self._u.copy_(F.normalize(matrix_ND @ self._v, dim=0, eps=_SMALLEST_LENGTH))
        self._v.copy_(F.normalize(matrix_ND.T @ self._u, dim=0, eps=_SMALLEST_LENGTH))


def batch_norm(discriminator: nn.Module) -> None:
    """Put batch normalization into every slot except the one after the first layer, as in the SN-GAN code."""
    _fill_slots(
        discriminator,
        lambda slot: (
            nn.Identity() if slot.first else ShiftedNorm(nn.BatchNorm2d(slot.channels, affine=False), slot.channels)
        ),
    )


def layer_norm(discriminator: nn.Module) -> None:
    """Put layer normalization over channels and pixels into every slot."""
    _fill_slots(discriminator, lambda slot: ShiftedNorm(nn.GroupNorm(1, slot.channels, affine=False), slot.channels))


def weight_norm(discriminator: nn.Module) -> None:
    """Scale the filters of every layer to unit norm."""
    for _, layer in list(weight_layers(discriminator)):
        parametrize.register_parametrization(layer, "weight", UnitRows(layer))


def spectral_norm(discriminator: nn.Module, generator: torch.Generator) -> None:
    """Divide the weight of every layer by its largest singular value; see `SpectralNorm`."""
    for _, layer in list(weight_layers(discriminator)):
        parametrize.register_parametrization(layer, "weight", SpectralNorm(layer, generator))


def _fill_slots(discriminator: nn.Module, make: Callable[[NormSlot], nn.Module]) -> None:
    slots = [(name, module) for name, module in discriminator.named_modules() if isinstance(module, NormSlot)]
    for name, slot in slots:
        discriminator.set_submodule(name, make(slot))
