"""Adversarial losses: pure functions on logits of any shape, averaged to a scalar.

A discriminator loss takes the logits of real and of generated images, a generator loss the latter alone.
Logits below float32 are widened first, so a bfloat16 network still has a float32 loss; float64 stays float64.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class AdversarialLoss:
    """A pair of losses to minimise: discriminator(real_logits, fake_logits) and generator(fake_logits)."""

    discriminator: Callable[[Tensor, Tensor], Tensor]
    generator: Callable[[Tensor], Tensor]


def non_saturating_discriminator(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """-mean log σ(D(x)) - mean log(1 - σ(D(G(z)))) (Goodfellow et al. 2014, eq. 1), through softplus."""
    return F.softplus(-_widen(real_logits)).mean() + F.softplus(_widen(fake_logits)).mean()


def non_saturating_generator(fake_logits: Tensor) -> Tensor:
    """-mean log σ(D(G(z))) (Goodfellow et al. 2014, section 3), through softplus."""
    return F.softplus(-_widen(fake_logits)).mean()


def hinge_discriminator(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """mean max(0, 1 - D(x)) + mean max(0, 1 + D(G(z))) (Lim & Ye 2017; Miyato et al. 2018)."""
    return F.relu(1 - _widen(real_logits)).mean() + F.relu(1 + _widen(fake_logits)).mean()


def hinge_generator(fake_logits: Tensor) -> Tensor:
    """-mean D(G(z)) (Lim & Ye 2017; Miyato et al. 2018)."""
    return -_widen(fake_logits).mean()


def wasserstein_discriminator(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """mean D(G(z)) - mean D(x) (Arjovsky et al. 2017, Algorithm 1); unbounded unless D is Lipschitz."""
    return _widen(fake_logits).mean() - _widen(real_logits).mean()


def wasserstein_generator(fake_logits: Tensor) -> Tensor:
    """-mean D(G(z)) (Arjovsky et al. 2017, Algorithm 1)."""
    return -_widen(fake_logits).mean()


def least_squares_discriminator(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """1/2 mean (D(x) - 1)² + 1/2 mean D(G(z))² (Mao et al. 2017, eq. 9)."""
    return 0.5 * ((_widen(real_logits) - 1).square().mean() + _widen(fake_logits).square().mean())


def least_squares_generator(fake_logits: Tensor) -> Tensor:
    """1/2 mean (D(G(z)) - 1)² (Mao et al. 2017, eq. 9)."""
    return 0.5 * (_widen(fake_logits) - 1).square().mean()


LOSSES: Mapping[str, AdversarialLoss] = MappingProxyType(
    {
        "non_saturating": AdversarialLoss(non_saturating_discriminator, non_saturating_generator),
        "hinge": AdversarialLoss(hinge_discriminator, hinge_generator),
        "wasserstein": AdversarialLoss(wasserstein_discriminator, wasserstein_generator),
        "least_squares": AdversarialLoss(least_squares_discriminator, least_squares_generator),
    }
)


def _widen(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
