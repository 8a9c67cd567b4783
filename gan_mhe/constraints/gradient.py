"""Gradient penalty between real and generated images, Gulrajani et al. 2017."""

from functools import partial

import torch
from torch import Tensor, nn

from gan_mhe.config.constraints import GradientPenaltyConfig
from gan_mhe.constraints.penalty import Penalty, PenaltyInputs


def gradient_penalties(config: GradientPenaltyConfig, network: nn.Module, seed: int) -> list[Penalty]:
    """E[(||grad_x D(x)|| - target)^2] at x = e real + (1 - e) fake, where e ~ U[0, 1) per image."""
    function = partial(_squared_excess, target=config.target)
    return [Penalty.timed("gradient_penalty", function, config.coefficient, config)]


def _squared_excess(inputs: PenaltyInputs, *, target: float) -> Tensor:
    mixed = (inputs.mix * inputs.real + (1 - inputs.mix) * inputs.fake).requires_grad_()
    (gradient,) = torch.autograd.grad(inputs.discriminator(mixed).sum(), mixed, create_graph=True)
    norms_B: Tensor = torch.linalg.vector_norm(gradient.flatten(1), dim=1)
    return (norms_B - target).square().mean()
