"""Gradient penalty between real and generated images, Gulrajani et al. 2017."""

from functools import partial

import torch
from torch import Tensor

from gan_mhe.config import GradientPenaltyConfig
from gan_mhe.constraints.penalty import Penalty, PenaltyInputs


def gradient_penalty(config: GradientPenaltyConfig) -> Penalty:
    """E[(||grad_x D(x)|| - target)^2] at x = e real + (1 - e) fake, e ~ U[0, 1] for each image."""
    return Penalty.timed("gradient_penalty", partial(_slope, target=config.target), config.coefficient, config)


def _slope(inputs: PenaltyInputs, *, target: float) -> Tensor:
    real, fake = inputs.real, inputs.fake
    mix = torch.rand((len(real), 1, 1, 1), generator=inputs.noise, device=real.device, dtype=real.dtype)
    between = (mix * real + (1 - mix) * fake).requires_grad_()
    (slope,) = torch.autograd.grad(inputs.discriminator(between).sum(), between, create_graph=True)
    norms_B: Tensor = torch.linalg.vector_norm(slope.flatten(1), dim=1)
    return (norms_B - target).square().mean()
