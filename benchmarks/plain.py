"""The reference of the step benchmark: an eager GAN loop as well-known code bases write it.

Float32, channels first, real and generated images in separate discriminator passes, PyTorch's spectral normalization,
MHE by autograd from its formula, `loss.backward()` into `.grad`, discriminator gradients computed in the generator's
step too, ordinary Adam, both losses read back at every step. PyTorch's settings keep their defaults, which on CUDA
means TensorFloat-32 in convolutions. The networks are the project's own.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm
from torch.utils.data import DataLoader, TensorDataset

from gan_mhe.networks.build import build_discriminator, build_generator
from gan_mhe.rng import generator

LATENT_DIM = 128
LEARNING_RATE = 2e-4
BETAS = (0.5, 0.999)


class PlainLoop:
    """Generator and discriminator for 32 x 32 images, standard loss, spectral normalization, and MHE if `mhe`.

    images: uint8 (M, 3, 32, 32) on the CPU, M >= batch_size. width: factor of both networks' channels. mhe: adds
    the energy of the convolutions, lambda 1. Draws from torch's global generators.
    """

    def __init__(self, images: Tensor, batch_size: int, device: torch.device, *, mhe: bool, width: float = 1.0) -> None:
        self.batch_size = batch_size
        self.device = device
        self.mhe = mhe
        stream = generator("cpu", 0, "benchmark/plain")
        self.generator = build_generator("cnn", image_size=32, latent_dim=LATENT_DIM, width=width, generator=stream)
        self.discriminator = build_discriminator("cnn_official", image_size=32, width=width, generator=stream)
        for module in list(self.discriminator.modules()):
            if isinstance(module, nn.Conv2d | nn.Linear):
                spectral_norm(module)
        self.generator.to(device).train()
        self.discriminator.to(device).train()
        self.adam_generator = torch.optim.Adam(self.generator.parameters(), lr=LEARNING_RATE, betas=BETAS)
        self.adam_discriminator = torch.optim.Adam(self.discriminator.parameters(), lr=LEARNING_RATE, betas=BETAS)
        loader = DataLoader(TensorDataset(images), batch_size=batch_size, shuffle=True, drop_last=True, num_workers=0)
        self._batches = _for_ever(loader)

    def step(self) -> tuple[float, float]:
        """Update the discriminator and the generator once; return their losses, the energy included."""
        real = self._next_real()
        self.adam_discriminator.zero_grad()
        fake = self.generator(self._latents()).detach()
        d_loss = F.softplus(-self.discriminator(real)).mean() + F.softplus(self.discriminator(fake)).mean()
        if self.mhe:
            d_loss = d_loss + self.energy()
        d_loss.backward()  # type: ignore[no-untyped-call]
        self.adam_discriminator.step()

        self.adam_generator.zero_grad()
        g_loss = F.softplus(-self.discriminator(self.generator(self._latents()))).mean()
        g_loss.backward()  # type: ignore[no-untyped-call]
        self.adam_generator.step()
        return d_loss.item(), g_loss.item()

    def energy(self) -> Tensor:
        """Sum over convolutions of the mean over pairs of log(1 / ||u_i - u_j||), u the filters' directions."""
        total = torch.zeros((), device=self.device)
        for module in self.discriminator.modules():
            if isinstance(module, nn.Conv2d):
                weight: Any = module.parametrizations.weight.original  # type: ignore[union-attr]
                u = F.normalize(weight.flatten(1), dim=1)
                squared = 2 - 2 * u @ u.t()
                i, j = torch.triu_indices(len(u), len(u), 1, device=self.device)
                total = total + (-0.5 * torch.log(squared[i, j].clamp(min=1e-12))).mean()
        return total

    def _latents(self) -> Tensor:
        return torch.randn(self.batch_size, LATENT_DIM, device=self.device)

    def _next_real(self) -> Tensor:
        return next(self._batches).to(self.device).float() / 127.5 - 1


def _for_ever(loader: DataLoader[tuple[Tensor, ...]]) -> Iterator[Tensor]:
    while True:
        for (batch,) in loader:
            yield batch
