"""Hyperspherical uniformity (Liu et al. 2021) of a network's hidden layers: five measures, one penalty."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from gan_mhe.config.constraints import UniformityConfig
from gan_mhe.constraints.penalty import Penalty, PenaltyInputs, PenaltyModule
from gan_mhe.constraints.select import hidden_weights
from gan_mhe.rng import generator
from gan_mhe.sphere.uniformity import (
    covering,
    covering_step,
    gram_determinant,
    polarization,
    polarization_step,
    relaxed_polarization,
    separation,
)

_MOMENTUM = 0.9

Measure = Callable[[Tensor], Tensor]


def uniformity_penalty(config: UniformityConfig, network: nn.Module, seed: int) -> Penalty:
    """The chosen measure of every hidden layer, summed; lower is more uniform."""
    plain: dict[str, Measure] = {
        "separation": partial(separation, half_space=config.half_space),
        "relaxed_polarization": relaxed_polarization,
        "gram_determinant": partial(gram_determinant, half_space=config.half_space),
    }
    if config.measure in plain:
        function: Callable[[PenaltyInputs], Tensor] = partial(_sum, measure=plain[config.measure])
    else:
        function = PoleUniformity(config, network, seed)
    return Penalty.timed("uniformity", function, config.coefficient, config)


def _sum(inputs: PenaltyInputs, *, measure: Measure) -> Tensor:
    return torch.stack([measure(weight_ND) for weight_ND in hidden_weights(inputs.discriminator)]).sum()


class PoleUniformity(PenaltyModule):
    """Polarization or covering: a pole a layer seeks the worst direction by momentum steps, the neurons answer it.

    From its N(0, 1) start, that of the authors' code, it moves by 0.05 rad in an update of ten steps (covering of
    16 x 72 weights) to 2e-5 rad (polarization of 256 x 1024).
    """

    def __init__(self, config: UniformityConfig, network: nn.Module, seed: int) -> None:
        super().__init__()
        measure, step = (covering, covering_step) if config.measure == "covering" else (polarization, polarization_step)
        self._measure: Callable[..., Tensor] = partial(measure, half_space=config.half_space)
        self._step: Callable[..., tuple[Tensor, Tensor]] = partial(
            step, lr=config.inner_lr, momentum=_MOMENTUM, steps=config.inner_steps, half_space=config.half_space
        )
        rng = generator("cpu", seed, "uniformity/pole")
        for index, weight_ND in enumerate(hidden_weights(network)):
            self.register_buffer(f"pole_{index}", torch.randn(weight_ND.shape[1], generator=rng))
            self.register_buffer(f"momentum_{index}", torch.zeros(weight_ND.shape[1]))

    def forward(self, inputs: PenaltyInputs) -> Tensor:
        buffers = list(self.buffers())
        layers = zip(buffers[::2], buffers[1::2], hidden_weights(inputs.discriminator), strict=True)
        return torch.stack([self._seek_and_measure(*layer) for layer in layers]).sum()

    def _seek_and_measure(self, pole_D: Tensor, momentum_D: Tensor, weight_ND: Tensor) -> Tensor:
        with torch.no_grad():
            for kept, moved in zip((pole_D, momentum_D), self._step(weight_ND, pole_D, momentum_D), strict=True):
                kept.copy_(moved)
        # A copy: autograd keeps it for the backward pass, and the next update moves the pole.
        return self._measure(weight_ND, pole_D.clone())
