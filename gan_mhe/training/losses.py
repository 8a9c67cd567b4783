"""Adversarial losses: pure functions of logits of any shape, averaged to a scalar.

Discriminator losses take the logits of real and of generated images, generator losses only the latter. Logits below
float32 are converted to float32 first, so that a bfloat16 network has a float32 loss; float64 stays float64.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class AdversarialLoss:
    """The losses that the two networks minimize."""

    discriminator: Callable[[Tensor, Tensor], Tensor]
    """(real_logits, fake_logits) -> loss."""
    generator: Callable[[Tensor], Tensor]
    """fake_logits -> loss."""


def non_saturating_discriminator(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """-mean log σ(D(x)) - mean log(1 - σ(D(G(z)))) (Goodfellow et al. 2014, eq. 1), with softplus."""
    return F.softplus(-_at_least_float32(real_logits)).mean() + F.softplus(_at_least_float32(fake_logits)).mean()


def non_saturating_generator(fake_logits: Tensor) -> Tensor:
    """-mean log σ(D(G(z))) (Goodfellow et al. 2014, section 3), with softplus."""
    return F.softplus(-_at_least_float32(fake_logits)).mean()


def hinge_discriminator(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """mean max(0, 1 - D(x)) + mean max(0, 1 + D(G(z))) (Lim & Ye 2017; Miyato et al. 2018)."""
    return F.relu(1 - _at_least_float32(real_logits)).mean() + F.relu(1 + _at_least_float32(fake_logits)).mean()


def hinge_generator(fake_logits: Tensor) -> Tensor:
    """-mean D(G(z)) (Lim & Ye 2017; Miyato et al. 2018)."""
    return -_at_least_float32(fake_logits).mean()


def wasserstein_discriminator(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """mean D(G(z)) - mean D(x) (Arjovsky et al. 2017, Algorithm 1); unbounded unless D is Lipschitz."""
    return _at_least_float32(fake_logits).mean() - _at_least_float32(real_logits).mean()


def wasserstein_generator(fake_logits: Tensor) -> Tensor:
    """-mean D(G(z)) (Arjovsky et al. 2017, Algorithm 1)."""
    return -_at_least_float32(fake_logits).mean()


def least_squares_discriminator(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """1/2 mean (D(x) - 1)² + 1/2 mean D(G(z))² (Mao et al. 2017, eq. 9)."""
    return 0.5 * ((_at_least_float32(real_logits) - 1).square().mean() + _at_least_float32(fake_logits).square().mean())


def least_squares_generator(fake_logits: Tensor) -> Tensor:
    """1/2 mean (D(G(z)) - 1)² (Mao et al. 2017, eq. 9)."""
    return 0.5 * (_at_least_float32(fake_logits) - 1).square().mean()


LOSSES: Mapping[str, AdversarialLoss] = MappingProxyType(
    {
        "non_saturating": AdversarialLoss(non_saturating_discriminator, non_saturating_generator),
        "hinge": AdversarialLoss(hinge_discriminator, hinge_generator),
        "wasserstein": AdversarialLoss(wasserstein_discriminator, wasserstein_generator),
        "least_squares": AdversarialLoss(least_squares_discriminator, least_squares_generator),
    }
)
"""The losses by the names of `gan_mhe.config.names.LOSSES`."""


def _at_least_float32(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
