"""Compressive MHE (Lin et al. 2020): the energy of a network's neurons after projection to few dimensions.

There are four kinds of projection, each a `CompressiveEnergy`: random matrices, a matrix trained to preserve angles, a
matrix trained to raise the energy, and blocks of coordinates. As in the authors' code, the first layer keeps its full
energy unless configured otherwise, and the output layer is never projected.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from gan_mhe.config.constraints import ComheConfig
from gan_mhe.constraints.hyperspherical import check_layer_factors, output_penalties, weighted_sum
from gan_mhe.constraints.penalty import Penalty, PenaltyInputs, PenaltyModule
from gan_mhe.constraints.select import hidden_weights, single_neuron_layers
from gan_mhe.rng import derive_seed, generator
from gan_mhe.sphere import hyperspherical_energies
from gan_mhe.sphere.projection import adversarial_step, angle_preserving_step, group_energies, projected_energies

_MATRIX_DECAY = 1e-3 * 5e-4  # of a trained matrix, in the authors' code
_ADVERSARY_S = 2.0  # Riesz power of the full-space energy that an adversarial matrix raises, in the authors' code


def comhe_penalties(config: ComheConfig, network: nn.Module, seed: int) -> list[Penalty]:
    """lambda_h times the sum of the hidden layers' projected energies; lambda_o times the output layer's full energy.

    Raises ConfigError for a wrong number of layer factors.
    """
    check_layer_factors("comhe", config, network)
    function, skipped = _KINDS[config.projection](config, network, seed), single_neuron_layers(network)
    return [
        Penalty.timed("comhe", function, config.lambda_hidden, config, skipped_layers=skipped),
        *output_penalties("comhe_output", config),
    ]


class CompressiveEnergy(PenaltyModule):
    """Sum of the hidden layers' energies: the first layer's depends on `first_layer`, the others' on `compress`."""

    def __init__(self, config: ComheConfig, network: nn.Module, seed: int) -> None:
        super().__init__()
        self.config = config
        self.seed = seed
        self.num_unprojected = 0 if config.first_layer == "projected" else 1
        self.fan_ins = [weight_ND.shape[1] for weight_ND in hidden_weights(network)[self.num_unprojected :]]

    def compress(self, weights: Sequence[Tensor]) -> Tensor:
        """Energies (L,) of the projected layers, whose weights are (N, D) each."""
        raise NotImplementedError

    def forward(self, inputs: PenaltyInputs) -> Tensor:
        weights, factors = hidden_weights(inputs.discriminator), self.config.layer_factors
        energies = [self.compress(weights[self.num_unprojected :])]
        if self.config.first_layer == "full":
            energies = [self._full(weights[:1]), *energies]
        elif self.config.first_layer == "none":
            factors = factors[1:]
        return weighted_sum(torch.cat(energies), factors)

    def _full(self, weights: Sequence[Tensor]) -> Tensor:
        config = self.config
        return hyperspherical_energies(weights, s=config.s, distance=config.distance, half_space=config.half_space)

    def project(self, weights: Sequence[Tensor], projections: Sequence[Tensor]) -> Tensor:
        """Energies (L,) of weights (N, D) under projections (C, K, D), one stack per weight."""
        config = self.config
        return projected_energies(
            weights, projections, s=config.s, distance=config.distance, half_space=config.half_space
        )


class _Redrawn(CompressiveEnergy):
    """A projection that is drawn again every `redraw_every_steps` steps.

    It depends only on the seed and the step, so checkpoints do not contain it.
    """

    def __init__(self, config: ComheConfig, network: nn.Module, seed: int) -> None:
        super().__init__(config, network, seed)
        self._period = -1

    def draw(self, rng: torch.Generator) -> None:
        """Fill the buffers with random values from `rng`, which is on their device."""
        raise NotImplementedError

    def set_step(self, step: int) -> None:
        period = step // self.config.redraw_every_steps
        if period != self._period:
            device = next(self.buffers()).device
            self.draw(torch.Generator(device).manual_seed(derive_seed(self.seed, "comhe", period)))
            self._period = period


class RandomProjection(_Redrawn):
    """The mean energy over Gaussian random matrices (RP-CoMHE)."""

    def __init__(self, config: ComheConfig, network: nn.Module, seed: int) -> None:
        super().__init__(config, network, seed)
        fan_ins, self._basis_of = self.fan_ins, list(range(len(self.fan_ins)))
        if config.shared_basis:
            fan_ins = list(dict.fromkeys(self.fan_ins))
            self._basis_of = [fan_ins.index(fan_in) for fan_in in self.fan_ins]
        for index, fan_in in enumerate(fan_ins):
            self.register_buffer(
                f"basis_{index}", torch.zeros(config.count, config.dimension, fan_in), persistent=False
            )

    def draw(self, rng: torch.Generator) -> None:
        for basis_CKD in self.buffers():
            basis_CKD.normal_(generator=rng)

    def compress(self, weights: Sequence[Tensor]) -> Tensor:
        bases = list(self.buffers())
        return self.project(weights, [bases[index] for index in self._basis_of])


class Groups(_Redrawn):
    """The mean energy over equal blocks of randomly ordered coordinates: our interpretation of group CoMHE.

    A block has at least two coordinates, because in one dimension all directions coincide or are opposite. Layers with
    a small fan-in therefore have fewer blocks than configured.
    """

    def __init__(self, config: ComheConfig, network: nn.Module, seed: int) -> None:
        super().__init__(config, network, seed)
        for index, fan_in in enumerate(self.fan_ins):
            self.register_buffer(f"order_{index}", torch.arange(fan_in), persistent=False)

    def draw(self, rng: torch.Generator) -> None:
        for order_D in self.buffers():
            torch.randperm(len(order_D), generator=rng, out=order_D)

    def compress(self, weights: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(map(self._energy, weights, self.buffers())))

    def _energy(self, weight_ND: Tensor, order_D: Tensor) -> Tensor:
        config = self.config
        return group_energies(
            [weight_ND],
            [order_D],
            groups=max(1, min(config.count, len(order_D) // 2)),
            s=config.s,
            distance=config.distance,
            half_space=config.half_space,
        )


class TrainedProjection(CompressiveEnergy):
    """One trained matrix per layer, which takes gradient steps of its own before each use (AP- and adversarial CoMHE).

    As in the authors' code, the steps are kept in the matrix, and the energy is computed with a matrix one further step
    ahead, which is not kept. If `unrolled`, the gradient reaches the neurons through that step as well.

    Starting from N(0, 1), an adversarial step changes the matrix by 3e-5 of its norm for 16 x 72 weights and by 6e-7
    for 256 x 1024, so the adversary needs thousands of steps to have an effect.
    """

    def __init__(
        self, config: ComheConfig, network: nn.Module, seed: int, *, aim: Literal["preserve", "oppose"]
    ) -> None:
        super().__init__(config, network, seed)
        step: Callable[..., Tensor] = angle_preserving_step
        if aim == "oppose":
            step = partial(adversarial_step, s=_ADVERSARY_S)
        self._advance = partial(step, lr=config.inner_lr, weight_decay=_MATRIX_DECAY)
        rng = generator("cpu", seed, "comhe/matrix")
        for index, fan_in in enumerate(self.fan_ins):
            self.register_buffer(f"matrix_{index}", torch.randn(config.dimension, fan_in, generator=rng))

    def compress(self, weights: Sequence[Tensor]) -> Tensor:
        return self.project(
            weights,
            [
                self._step_ahead(matrix_KD, weight)[None]
                for matrix_KD, weight in zip(self.buffers(), weights, strict=True)
            ],
        )

    def _step_ahead(self, matrix_KD: Tensor, weight_ND: Tensor) -> Tensor:
        constant_ND = weight_ND.detach()
        with torch.no_grad():
            for _ in range(self.config.inner_steps):
                matrix_KD.copy_(self._advance(matrix_KD, constant_ND))
        # A copy, because autograd saves the matrix for the backward pass and the next update changes it in place.
        return self._advance(matrix_KD.clone(), weight_ND if self.config.unrolled else constant_ND)


_KINDS: dict[str, Callable[[ComheConfig, nn.Module, int], CompressiveEnergy]] = {
    "random": RandomProjection,
    "angle_preserving": partial(TrainedProjection, aim="preserve"),
    "adversarial": partial(TrainedProjection, aim="oppose"),
    "group": Groups,
}
