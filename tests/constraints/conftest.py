"""Tiny discriminators, and what a penalty is given, that the constraint tests share."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from gan_mhe.constraints.penalty import PenaltyInputs
from gan_mhe.networks.build import build_discriminator


@pytest.fixture(scope="session")
def make_discriminator() -> Callable[..., nn.Module]:
    """A discriminator of width 1/32 in float64 and training mode."""

    def make(architecture: str = "cnn_miyato", *, width: float = 1 / 32, seed: int = 0) -> nn.Module:
        rng = torch.Generator().manual_seed(seed)
        return build_discriminator(architecture, image_size=32, width=width, generator=rng).double().train()

    return make


@pytest.fixture(scope="session")
def mixed_network() -> Callable[[], nn.Sequential]:
    """Layers with more and with fewer neurons than inputs, a transposed convolution and five outputs, in float64."""

    def make() -> nn.Sequential:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            return nn.Sequential(
                nn.Linear(3, 7), nn.Conv2d(4, 5, 3), nn.ConvTranspose2d(6, 4, 2), nn.Linear(9, 5)
            ).double()

    return make


@pytest.fixture(scope="session")
def make_inputs() -> Callable[..., PenaltyInputs]:
    """Random images for `network`, uniform in [-1, 1], and mixing numbers in [0, 1)."""

    def make(network: nn.Module, *, batch: int = 4, side: int = 32, seed: int = 0) -> PenaltyInputs:
        rng = torch.Generator().manual_seed(seed)
        real, fake = (torch.rand(2, batch, 3, side, side, generator=rng, dtype=torch.float64) * 2 - 1).unbind()
        mix = torch.rand(batch, 1, 1, 1, generator=rng, dtype=torch.float64)
        return PenaltyInputs(network, real, fake, mix)

    return make
