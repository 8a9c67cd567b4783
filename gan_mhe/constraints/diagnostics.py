"""Geometry of a discriminator's weights, to explain how a constraint changes the scores."""

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from gan_mhe.constraints.select import LayerWeight, layer_weights, neuron_axis, rows, weight_layers
from gan_mhe.sphere import energy_and_angle


@torch.no_grad()
def layer_geometry(network: nn.Module) -> dict[str, float]:
    """Diagnostics of each layer: `energy/<layer>` (pair mean, s = 0, full space), `angle/<layer>` (smallest angle of a
    pair, radians) and `sigma/<layer>` (largest singular value of the weight that the forward pass uses).

    Layers with one neuron have no energy and no angle. All values are copied to the host at once, and no power
    iteration is run.
    """
    values: dict[str, Tensor] = {}
    for layer in layer_weights(network):
        values |= _pair_geometry(layer)
    for name, sigma in _largest_singular_values(network).items():
        values[f"sigma/{name}"] = sigma
    numbers = torch.stack([value.double() for value in values.values()]).tolist()
    return dict(zip(values, numbers, strict=True))


def _pair_geometry(layer: LayerWeight) -> dict[str, Tensor]:
    if len(layer.weight_ND) < 2:
        return {}
    energy, angle = energy_and_angle(layer.weight_ND)
    return {f"energy/{layer.name}": energy, f"angle/{layer.name}": angle}


def _largest_singular_values(network: nn.Module) -> dict[str, Tensor]:
    was_training = network.training
    network.eval()  # reading a spectrally normalized weight then runs no power iteration
    try:
        with parametrize.cached():
            return {
                name: _largest_singular_value(rows(layer.weight, neuron_axis(layer)).double())
                for name, layer in weight_layers(network)
            }
    finally:
        network.train(was_training)


def _largest_singular_value(weight_ND: Tensor) -> Tensor:
    """Square root of the largest eigenvalue of the smaller Gram matrix, which is accurate enough in float64."""
    gram = weight_ND @ weight_ND.T if weight_ND.shape[0] <= weight_ND.shape[1] else weight_ND.T @ weight_ND
    eigenvalues: Tensor = torch.linalg.eigvalsh(gram)
    return eigenvalues[-1].clamp(min=0).sqrt()
