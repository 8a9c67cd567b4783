"""Minimum hyperspherical energy over the layers of a network."""

from functools import partial

import torch
from torch import Tensor, nn

from gan_mhe.config import MheConfig, OfficialMheConfig, WeightDecayConfig
from gan_mhe.constraints.penalty import Penalty, PenaltyInputs
from gan_mhe.constraints.select import LayerWeight, layer_weights
from gan_mhe.sphere import hyperspherical_energies, official_gan_energy


def mhe_penalties(config: MheConfig) -> list[Penalty]:
    """lambda_h sum_j E_s(layer j) / (N_j (N_j - 1)) over hidden layers, and lambda_o times the output layer's.

    Liu et al. 2018 (MHE): hidden layers are summed, not averaged; half space is for hidden layers only. A layer
    with one neuron has no pair and adds exactly 0.
    """
    hidden = partial(_energy, config=config, output=False)
    output = partial(_energy, config=config, output=True)
    return [
        Penalty.timed("mhe", hidden, config.lambda_hidden, config),
        *([Penalty.timed("mhe_output", output, config.lambda_output, config)] if config.lambda_output else []),
    ]


def _energy(inputs: PenaltyInputs, *, config: MheConfig, output: bool) -> Tensor:
    energies = hyperspherical_energies(
        [layer.weight_ND for layer in layer_weights(inputs.discriminator) if layer.is_output == output],
        s=config.s,
        distance=config.distance,
        half_space=config.half_space and not output,
    )
    return energies.sum()


def official_penalty(config: OfficialMheConfig) -> Penalty:
    """The authors' GAN code: its energy of every layer, summed, and counted twice."""
    return Penalty.timed("official_mhe", partial(_official, config=config), config.coefficient, config)


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


def weight_decay_penalty(config: WeightDecayConfig) -> Penalty:
    """lambda_w / (sum_j N_j) sum_ij ||w_ij||: the MHE objective's hold on magnitudes, as energies hold directions.

    The objective prints the norm itself; power 2 takes half its square, the ordinary L2 decay of the authors' code.
    """
    return Penalty.timed("weight_decay", partial(_magnitude, power=config.power), config.coefficient, config)


def _magnitude(inputs: PenaltyInputs, *, power: int) -> Tensor:
    layers = layer_weights(inputs.discriminator)
    norms_N = torch.cat([torch.linalg.vector_norm(layer.weight_ND, dim=1) for layer in layers])
    return norms_N.mean() if power == 1 else norms_N.square().mean() / 2


def single_neuron_layers(network: nn.Module) -> list[LayerWeight]:
    """The layers that have no pair of neurons, and therefore no energy."""
    return [layer for layer in layer_weights(network) if len(layer.weight_ND) == 1]
