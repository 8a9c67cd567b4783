"""A network's weights as neurons: one traversal, the original parameters, one row a neuron.

Reading `.weight` of a spectrally normalised layer in training mode runs another power iteration. Everything that
looks at weights therefore goes through here and sees the parameter beneath the parametrization.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.utils import parametrize

WeightLayer = nn.Conv2d | nn.ConvTranspose2d | nn.Linear


@dataclass(frozen=True)
class LayerWeight:
    """One layer's original weight as (N neurons, D fan-in), differentiable, with the layer's name in its network."""

    name: str
    weight_ND: Tensor
    is_output: bool


def weight_layers(network: nn.Module) -> Iterator[tuple[str, WeightLayer]]:
    """The convolutional and linear layers in the order they were defined."""
    for name, module in network.named_modules():
        if isinstance(module, WeightLayer):
            yield name, module


def original_weight(layer: WeightLayer) -> Tensor:
    """The trained parameter behind `layer.weight`, without touching the parametrization."""
    if parametrize.is_parametrized(layer, "weight"):
        return layer.parametrizations.weight.original  # type: ignore[union-attr, return-value]
    return layer.weight


def neuron_axis(layer: WeightLayer) -> int:
    """The axis of the weight along which its neurons lie: 0, but 1 in a transposed convolution."""
    return 1 if isinstance(layer, nn.ConvTranspose2d) else 0


def rows(weight: Tensor, axis: int = 0) -> Tensor:
    """The weight, with its neurons along `axis`, as (N neurons, D fan-in): each row a neuron's inputs, channels last.

    The order of inputs means nothing to a sphere; this one is how the trainer lays convolutions out, so that for them
    it is a view, where the order of the names would copy every weight at every step.
    """
    first = weight.movedim(axis, 0)
    return first.movedim(1, -1).flatten(1) if first.dim() == 4 else first


def hidden_weights(network: nn.Module) -> list[Tensor]:
    """The original weights of all layers but the output, (N neurons, D fan-in) each."""
    return [layer.weight_ND for layer in layer_weights(network) if not layer.is_output]


def layer_weights(network: nn.Module) -> list[LayerWeight]:
    """Every layer's original weight; the layer defined last is the output."""
    layers = list(weight_layers(network))
    return [
        LayerWeight(name, rows(original_weight(layer), neuron_axis(layer)), is_output=index == len(layers) - 1)
        for index, (name, layer) in enumerate(layers)
    ]
