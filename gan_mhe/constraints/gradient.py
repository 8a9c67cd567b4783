"""Gradient penalty between real and generated images, Gulrajani et al. 2017."""

from functools import partial

import torch
from torch import Tensor

from gan_mhe.config.constraints import GradientPenaltyConfig
from gan_mhe.constraints.penalty import Penalty, PenaltyInputs


def gradient_penalty(config: GradientPenaltyConfig) -> Penalty:
    """E[(||grad_x D(x)|| - target)^2] at x = e real + (1 - e) fake, e ~ U[0, 1] for each image."""
    return Penalty.timed("gradient_penalty", partial(_slope, target=config.target), config.coefficient, config)


def _slope(inputs: PenaltyInputs, *, target: float) -> Tensor:
    between = (inputs.mix * inputs.real + (1 - inputs.mix) * inputs.fake).requires_grad_()
    (slope,) = torch.autograd.grad(inputs.discriminator(between).sum(), between, create_graph=True)
    norms_B: Tensor = torch.linalg.vector_norm(slope.flatten(1), dim=1)
    return (norms_B - target).square().mean()
