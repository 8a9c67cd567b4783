"""One traversal of a network's weights: the trained parameters, a row a neuron, nothing disturbed."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from gan_mhe.constraints import normalize
from gan_mhe.constraints.select import layer_weights, original_weight, weight_layers

NORMALISE: dict[str, Callable[[nn.Module], None]] = {
    "spectral": lambda network: normalize.spectral_norm(network, torch.Generator().manual_seed(0)),
    "weight": normalize.weight_norm,
}


@pytest.mark.parametrize("kind", NORMALISE)
def test_layer_weights_are_the_trained_parameters_beneath_a_parametrization(
    make_discriminator: Callable[..., nn.Module], kind: str
) -> None:
    network, plain = make_discriminator(), make_discriminator()
    NORMALISE[kind](network)
    for layer, bare in zip(layer_weights(network), layer_weights(plain), strict=True):
        trained = network.get_submodule(layer.name).parametrizations.weight.original
        assert torch.equal(layer.weight_ND, bare.weight_ND)
        assert torch.equal(trained, plain.get_submodule(layer.name).weight)


def test_layer_weights_of_a_network_laid_out_channels_last_are_views(
    make_discriminator: Callable[..., nn.Module],
) -> None:
    network = make_discriminator().to(memory_format=torch.channels_last)
    for layer, (_, module) in zip(layer_weights(network), weight_layers(network), strict=True):
        assert layer.weight_ND.data_ptr() == original_weight(module).data_ptr()


def test_gradient_through_layer_weights_reaches_the_trained_parameter(
    make_discriminator: Callable[..., nn.Module],
) -> None:
    network = make_discriminator()
    normalize.spectral_norm(network, torch.Generator().manual_seed(0))
    sum(layer.weight_ND.square().sum() for layer in layer_weights(network)).backward()
    for _, layer in weight_layers(network):
        weight = original_weight(layer)
        assert torch.equal(weight.grad, 2 * weight)


def test_layer_weights_run_no_power_iteration(make_discriminator: Callable[..., nn.Module]) -> None:
    network = make_discriminator()
    normalize.spectral_norm(network, torch.Generator().manual_seed(0))
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    layer_weights(network)
    assert all(torch.equal(buffer, before[name]) for name, buffer in network.named_buffers())
    _ = network.c3_0.conv.weight  # the hazard itself: reading the attribute in training mode moves the vectors
    name = "c3_0.conv.parametrizations.weight.0._u"
    assert not torch.equal(network.get_buffer(name), before[name])


def test_neurons_of_a_transposed_convolution_come_from_its_second_axis() -> None:
    layer = nn.ConvTranspose2d(3, 5, 2)
    (found,) = layer_weights(nn.Sequential(layer))
    assert found.weight_ND.shape == (5, 3 * 2 * 2)
    for neuron in range(5):
        assert torch.equal(found.weight_ND[neuron], layer.weight[:, neuron].permute(1, 2, 0).flatten())


def test_neurons_of_a_convolution_come_from_its_first_axis() -> None:
    layer = nn.Conv2d(3, 5, 2)
    (found,) = layer_weights(nn.Sequential(layer))
    for neuron in range(5):
        assert torch.equal(found.weight_ND[neuron], layer.weight[neuron].permute(1, 2, 0).flatten())


@pytest.mark.parametrize(("architecture", "names"), [
    ("cnn_miyato", ["c0_0.conv", "c0_1.conv", "c1_0.conv", "c1_1.conv", "c2_0.conv", "c2_1.conv", "c3_0.conv",
                    "dense"]),
    ("resnet", ["block1.conv1", "block1.conv2", "block1.shortcut", "block2.conv1", "block2.conv2", "block2.shortcut",
                "block3.conv1", "block3.conv2", "block4.conv1", "block4.conv2", "dense"]),
])  # fmt: skip
def test_layers_come_in_the_order_of_their_definition_and_the_last_is_the_output(
    make_discriminator: Callable[..., nn.Module], architecture: str, names: list[str]
) -> None:
    found = layer_weights(make_discriminator(architecture))
    assert [layer.name for layer in found] == names
    assert [layer.is_output for layer in found] == [False] * (len(names) - 1) + [True]


def test_normalization_layers_are_no_neurons(make_discriminator: Callable[..., nn.Module]) -> None:
    network = make_discriminator()
    normalize.batch_norm(network)
    assert len(layer_weights(network)) == 8
