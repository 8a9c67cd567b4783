"""Penalties from minimum hyperspherical energy (MHE): energies of the directions, decay of the norms."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from gan_mhe.config.constraints import EnergyConfig, MheConfig, MinibatchConfig, OfficialMheConfig, WeightDecayConfig
from gan_mhe.constraints.penalty import Penalty, PenaltyFunction, PenaltyInputs, PenaltyModule
from gan_mhe.constraints.select import hidden_weights, layer_weights, single_neuron_layers
from gan_mhe.errors import ConfigError
from gan_mhe.rng import derive_seed
from gan_mhe.sphere import hyperspherical_energies, official_gan_energy
from gan_mhe.sphere.minibatch import draw_partners, draw_subset, partner_energies, subset_energies


def mhe_penalties(config: MheConfig, network: nn.Module, seed: int) -> list[Penalty]:
    """MHE, Liu et al. 2018: lambda_h sum_j E_s(j) / (N_j (N_j - 1)) over hidden layers j; lambda_o E_s of the output.

    The hidden layers are summed, not averaged. Only hidden layers use the half space. A layer with one neuron has no
    pair and contributes exactly 0.

    Raises ConfigError for a wrong number of layer factors, or for partners in a hidden layer with one neuron.
    """
    check_layer_factors("mhe", config, network)
    hidden: PenaltyFunction = partial(_hidden_energy, config=config)
    if config.minibatch:
        hidden = MinibatchEnergy(config, config.minibatch, hidden_weights(network), seed)
    skipped = single_neuron_layers(network)
    return [
        Penalty.timed("mhe", hidden, config.lambda_hidden, config, skipped_layers=skipped),
        *output_penalties("mhe_output", config),
    ]


def check_layer_factors(section: str, config: EnergyConfig, network: nn.Module) -> None:
    """Raise ConfigError unless `layer_factors` is empty or has one factor per hidden layer."""
    hidden = [layer.name for layer in layer_weights(network) if not layer.is_output]
    if config.layer_factors and len(config.layer_factors) != len(hidden):
        raise ConfigError(
            f"constraints.{section}.layer_factors: expected {len(hidden)} numbers, one per hidden layer "
            f"({', '.join(hidden)}), got {len(config.layer_factors)}"
        )


def _hidden_energy(inputs: PenaltyInputs, *, config: MheConfig) -> Tensor:
    return weighted_sum(
        hyperspherical_energies(
            hidden_weights(inputs.discriminator), s=config.s, distance=config.distance, half_space=config.half_space
        ),
        config.layer_factors,
    )


def weighted_sum(energies: Tensor, factors: Sequence[float]) -> Tensor:
    """sum_j factor_j E_j of energies (L,); without factors, their sum."""
    if not factors:
        return energies.sum()
    # One scalar at a time: a vector of factors would be copied from the host in every step.
    return torch.stack([factor * energy for factor, energy in zip(factors, energies.unbind(), strict=True)]).sum()


def output_penalties(name: str, config: EnergyConfig) -> list[Penalty]:
    """The full-space energy of the output layer; nothing if its factor is 0."""
    if not config.lambda_output:
        return []
    return [Penalty.timed(name, partial(_output_energy, config=config), config.lambda_output, config)]


def _output_energy(inputs: PenaltyInputs, *, config: EnergyConfig) -> Tensor:
    weights = [layer.weight_ND for layer in layer_weights(inputs.discriminator) if layer.is_output]
    return hyperspherical_energies(weights, s=config.s, distance=config.distance).sum()


class MinibatchEnergy(PenaltyModule):
    """The hidden layers' energies, each an unbiased estimate from a random sample of the layer's pairs."""

    def __init__(self, config: MheConfig, minibatch: MinibatchConfig, weights: Sequence[Tensor], seed: int) -> None:
        super().__init__()
        if minibatch.of == "partners" and any(len(weight_ND) == 1 for weight_ND in weights):
            raise ConfigError(
                "constraints.mhe.minibatch.of: expected 'neurons', because a hidden layer has only one neuron; "
                "got 'partners'"
            )
        self._config, self._of, self._seed = config, minibatch.of, seed
        for index, weight_ND in enumerate(weights):
            count = len(weight_ND)
            shape = (min(count, minibatch.size),) if minibatch.of == "neurons" else (count, minibatch.size)
            self.register_buffer(f"drawn_{index}", torch.zeros(shape, dtype=torch.int64), persistent=False)
        self._counts = [len(weight_ND) for weight_ND in weights]

    def set_step(self, step: int) -> None:
        drawn = list(self.buffers())
        generator = torch.Generator(drawn[0].device).manual_seed(derive_seed(self._seed, "mhe/minibatch", step))
        draw = draw_subset if self._of == "neurons" else draw_partners
        for count, out in zip(self._counts, drawn, strict=True):
            draw(count, out.shape[-1], generator, out)

    def forward(self, inputs: PenaltyInputs) -> Tensor:
        config = self._config
        estimate = subset_energies if self._of == "neurons" else partner_energies
        energies = estimate(
            hidden_weights(inputs.discriminator),
            list(self.buffers()),
            s=config.s,
            distance=config.distance,
            half_space=config.half_space,
        )
        return weighted_sum(energies, config.layer_factors)


def official_mhe_penalties(config: OfficialMheConfig, network: nn.Module, seed: int) -> list[Penalty]:
    """The energy as in the authors' GAN code: summed over the layers and added twice."""
    return [Penalty.timed("official_mhe", partial(_official, config=config), config.coefficient, config)]


def _official(inputs: PenaltyInputs, *, config: OfficialMheConfig) -> Tensor:
    energies = [
        official_gan_energy(
            layer.weight_ND,
            mirror_on_feature_axis=config.mirror_on_feature_axis,
            norm_eps=config.norm_eps,
            log_eps=config.log_eps,
            squared_distance=config.squared_distance,
            average_over_all_entries=config.average_over_all_entries,
        )
        for layer in layer_weights(inputs.discriminator)
        if config.include_output_layer or not layer.is_output
    ]
    return torch.stack(energies).sum() * (2 if config.counted_twice else 1)


def weight_decay_penalties(config: WeightDecayConfig, network: nn.Module, seed: int) -> list[Penalty]:
    """lambda_w / (sum_j N_j) sum_ij ||w_ij||: the term of the MHE objective for norms, next to that for directions.

    The paper has the norm itself. Power 2 uses half the squared norm, the ordinary L2 decay of the authors' code.
    """
    return [Penalty.timed("weight_decay", partial(_magnitude, power=config.power), config.coefficient, config)]


def _magnitude(inputs: PenaltyInputs, *, power: int) -> Tensor:
    layers = layer_weights(inputs.discriminator)
    norms_N = torch.cat([torch.linalg.vector_norm(layer.weight_ND, dim=1) for layer in layers])
    return norms_N.mean() if power == 1 else norms_N.square().mean() / 2
