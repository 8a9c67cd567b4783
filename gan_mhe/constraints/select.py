"""The weights of a network as matrices with one row per neuron.

Reading `.weight` of a spectrally normalized layer in training mode runs another power iteration. All code that inspects
weights therefore uses the functions here, which return the parameter before the parametrization.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.utils import parametrize

WeightLayer = nn.Conv2d | nn.ConvTranspose2d | nn.Linear


@dataclass(frozen=True)
class LayerWeight:
    """The original weight of a layer."""

    name: str
    """Name of the layer in its network."""
    weight_ND: Tensor
    """Differentiable view or copy of the weight, (N neurons, D fan-in)."""
    is_output: bool
    """Whether the layer is the last one defined."""


def weight_layers(network: nn.Module) -> Iterator[tuple[str, WeightLayer]]:
    """Names and modules of the convolutional and linear layers, in the order of their definition."""
    for name, module in network.named_modules():
        if isinstance(module, WeightLayer):
            yield name, module


def original_weight(layer: WeightLayer) -> Tensor:
    """The trained parameter behind `layer.weight`; the parametrization is not evaluated."""
    if parametrize.is_parametrized(layer, "weight"):
        return layer.parametrizations.weight.original  # type: ignore[union-attr, return-value]
    return layer.weight


def neuron_axis(layer: WeightLayer) -> int:
    """The axis of the weight that indexes neurons: 1 in a transposed convolution, else 0."""
    return 1 if isinstance(layer, nn.ConvTranspose2d) else 0


def rows(weight: Tensor, axis: int = 0) -> Tensor:
    """The weight as (N neurons, D fan-in), where `axis` indexes neurons; input channels vary fastest within a row.

    The order within a row does not affect any energy. This order makes the result a view of weights in channels-last
    layout, which the trainer uses; the order of the axes would require a copy in every step.
    """
    first = weight.movedim(axis, 0)
    return first.movedim(1, -1).flatten(1) if first.dim() == 4 else first


def layer_weights(network: nn.Module) -> list[LayerWeight]:
    """The original weights of all layers; the layer defined last is the output layer."""
    layers = list(weight_layers(network))
    return [
        LayerWeight(name, rows(original_weight(layer), neuron_axis(layer)), is_output=index == len(layers) - 1)
        for index, (name, layer) in enumerate(layers)
    ]


def hidden_weights(network: nn.Module) -> list[Tensor]:
    """The original weights of all layers but the output layer, each (N neurons, D fan-in)."""
    return [layer.weight_ND for layer in layer_weights(network) if not layer.is_output]


def single_neuron_layers(network: nn.Module) -> tuple[str, ...]:
    """Names of the layers with one neuron, which have no pair of neurons and therefore no energy."""
    return tuple(layer.name for layer in layer_weights(network) if len(layer.weight_ND) == 1)
