"""Hyperspherical uniformity (Liu et al. 2021) of the hidden layers: one penalty with five measures."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from gan_mhe.config.constraints import UniformityConfig
from gan_mhe.constraints.penalty import Penalty, PenaltyFunction, PenaltyInputs, PenaltyModule
from gan_mhe.constraints.select import hidden_weights, single_neuron_layers
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


def uniformity_penalties(config: UniformityConfig, network: nn.Module, seed: int) -> list[Penalty]:
    """The sum of the chosen measure over the hidden layers; lower values are more uniform."""
    of_pairs: dict[str, Measure] = {
        "separation": partial(separation, half_space=config.half_space),
        "gram_determinant": partial(gram_determinant, half_space=config.half_space),
    }
    measures = of_pairs | {"relaxed_polarization": relaxed_polarization}
    function: PenaltyFunction
    if config.measure in measures:
        function = partial(_sum, measure=measures[config.measure])
    else:
        function = PoleUniformity(config, network, seed)
    skipped = single_neuron_layers(network) if config.measure in of_pairs else ()
    return [Penalty.timed("uniformity", function, config.coefficient, config, skipped_layers=skipped)]


def _sum(inputs: PenaltyInputs, *, measure: Measure) -> Tensor:
    return torch.stack([measure(weight_ND) for weight_ND in hidden_weights(inputs.discriminator)]).sum()


class PoleUniformity(PenaltyModule):
    """Polarization or covering, each measured at one pole per layer that is optimized against the neurons.

    In each update the pole takes `inner_steps` steps of gradient descent with momentum. Starting from N(0, 1), as in
    the authors' code, ten steps turn it by 2e-5 rad (polarization of 256 x 1024 weights) to 0.05 rad (covering of
    16 x 72 weights).
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
        return torch.stack([self._step_and_measure(*layer) for layer in layers]).sum()

    def _step_and_measure(self, pole_D: Tensor, momentum_D: Tensor, weight_ND: Tensor) -> Tensor:
        with torch.no_grad():
            for state, new in zip((pole_D, momentum_D), self._step(weight_ND, pole_D, momentum_D), strict=True):
                state.copy_(new)
        # A copy, because autograd saves the pole for the backward pass and the next update changes it in place.
        return self._measure(weight_ND, pole_D.clone())
