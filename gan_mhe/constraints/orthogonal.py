"""Orthonormal weights: the initialization and the penalty of Brock et al. 2017."""

import torch
from torch import Tensor, nn

from gan_mhe.config.constraints import OrthonormalConfig
from gan_mhe.constraints.penalty import Penalty, PenaltyInputs
from gan_mhe.constraints.select import layer_weights, neuron_axis, original_weight, weight_layers


@torch.no_grad()
def orthonormal_init(network: nn.Module, generator: torch.Generator) -> None:
    """Initialize every weight with orthonormal rows, or columns if the layer has more neurons than inputs."""
    for _, layer in weight_layers(network):
        weight = original_weight(layer).movedim(neuron_axis(layer), 0)
        weight.copy_(nn.init.orthogonal_(torch.empty(weight.shape, dtype=weight.dtype), generator=generator))


def orthonormal_penalties(config: OrthonormalConfig, network: nn.Module, seed: int) -> list[Penalty]:
    """Sum over layers of ||W W^T - I||_F^2, or of ||W^T W - I||_F^2 if the layer has more neurons than inputs.

    The paper has W^T W for every layer. For N < D that differs from W W^T by the constant D - N, so the gradient is the
    same, and the smaller Gram matrix is cheaper.
    """
    return [Penalty.timed("orthonormal", _distance_from_orthonormal, config.coefficient, config)]


def _distance_from_orthonormal(inputs: PenaltyInputs) -> Tensor:
    return torch.stack([_layer_distance(layer.weight_ND) for layer in layer_weights(inputs.discriminator)]).sum()


def _layer_distance(weight_ND: Tensor) -> Tensor:
    neurons, fan_in = weight_ND.shape
    gram = weight_ND @ weight_ND.T if neurons <= fan_in else weight_ND.T @ weight_ND
    return (gram - torch.eye(len(gram), dtype=gram.dtype, device=gram.device)).square().sum()
