"""Batch, layer and weight normalization against what they are defined to be."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from gan_mhe.constraints.normalize import ShiftedNorm, batch_norm, layer_norm, weight_norm
from gan_mhe.constraints.select import layer_weights, neuron_axis, rows, weight_layers
from gan_mhe.networks.layers import NormSlot

EPS = 1e-5


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slots(network: nn.Module) -> dict[str, NormSlot]:
    return {name: module for name, module in network.named_modules() if isinstance(module, NormSlot)}


def norms(network: nn.Module) -> dict[str, ShiftedNorm]:
    return {name: module for name, module in network.named_modules() if isinstance(module, ShiftedNorm)}


@pytest.mark.parametrize("architecture", ["cnn_miyato", "cnn_official", "resnet"])
def test_batch_norm_fills_every_slot_but_the_first(
    make_discriminator: Callable[..., nn.Module], architecture: str
) -> None:
    network = make_discriminator(architecture)
    expected = {name for name, slot in slots(network).items() if not slot.first}
    assert len(slots(network)) == len(expected) + 1
    batch_norm(network)
    assert norms(network).keys() == expected
    assert not slots(network)


@pytest.mark.parametrize("architecture", ["cnn_miyato", "resnet"])
def test_layer_norm_fills_every_slot(make_discriminator: Callable[..., nn.Module], architecture: str) -> None:
    network = make_discriminator(architecture)
    expected = slots(network).keys()
    layer_norm(network)
    assert norms(network).keys() == expected
    assert not slots(network)


@pytest.mark.parametrize("normalize", [batch_norm, layer_norm])
def test_a_normalization_layer_trains_its_shift_and_no_scale(
    make_discriminator: Callable[..., nn.Module], normalize: Callable[[nn.Module], None]
) -> None:
    network = make_discriminator()
    channels = {name: slot.channels for name, slot in slots(network).items()}
    normalize(network)
    for name, norm in norms(network).items():
        assert {key: value.shape for key, value in norm.named_parameters()} == {"shift": (channels[name],)}


def test_batch_norm_equals_its_formula_and_adds_the_shift() -> None:
    network = nn.Sequential(NormSlot(3))
    batch_norm(network)
    network.double()[0].shift.data = random(3)
    x = random(4, 3, 5, 5) * 3 + 1
    mean, variance = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), unbiased=False, keepdim=True)
    expected = (x - mean) / (variance + EPS).sqrt() + random(3)[:, None, None]
    torch.testing.assert_close(network(x), expected, rtol=1e-12, atol=1e-12)


def test_layer_norm_equals_its_formula_and_adds_the_shift() -> None:
    network = nn.Sequential(NormSlot(3))
    layer_norm(network)
    network.double()[0].shift.data = random(3)
    x = random(4, 3, 5, 5) * 3 + 1
    mean, variance = x.mean((1, 2, 3), keepdim=True), x.var((1, 2, 3), unbiased=False, keepdim=True)
    expected = (x - mean) / (variance + EPS).sqrt() + random(3)[:, None, None]
    torch.testing.assert_close(network(x), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("normalize", [batch_norm, layer_norm])
def test_gradient_reaches_every_shift(
    make_discriminator: Callable[..., nn.Module], normalize: Callable[[nn.Module], None]
) -> None:
    network = make_discriminator()
    normalize(network)
    network.double()(random(4, 3, 32, 32)).square().sum().backward()
    assert all(norm.shift.grad.abs().min() > 0 for norm in norms(network).values())


def test_weight_norm_gives_every_neuron_unit_norm(mixed_network: Callable[[], nn.Sequential]) -> None:
    network = mixed_network()
    weight_norm(network)
    for _, layer in weight_layers(network):
        norms_N = rows(layer.weight, neuron_axis(layer)).norm(dim=1)
        torch.testing.assert_close(norms_N, torch.ones_like(norms_N), rtol=1e-14, atol=1e-14)


def test_weight_norm_trains_no_scale(make_discriminator: Callable[..., nn.Module]) -> None:
    network, plain = make_discriminator(), make_discriminator()
    weight_norm(network)
    shapes = sorted(parameter.shape for parameter in network.parameters())
    assert shapes == sorted(parameter.shape for parameter in plain.parameters())


def test_weight_norm_forward_equals_a_network_with_divided_weights(
    make_discriminator: Callable[..., nn.Module],
) -> None:
    network, plain = make_discriminator(), make_discriminator()
    weight_norm(network)
    for _, layer in weight_layers(plain):
        layer.weight.data /= layer.weight.data.flatten(1).norm(dim=1).view(-1, *[1] * (layer.weight.dim() - 1))
    x = random(4, 3, 32, 32)
    torch.testing.assert_close(network(x), plain(x), rtol=1e-12, atol=1e-12)


def test_squared_singular_values_of_a_weight_normalized_matrix_sum_to_its_rows(
    mixed_network: Callable[[], nn.Sequential],
) -> None:
    network = mixed_network()
    weight_norm(network)
    for _, layer in weight_layers(network):
        matrix = rows(layer.weight, neuron_axis(layer))
        assert torch.linalg.svdvals(matrix).square().sum().item() == pytest.approx(len(matrix), rel=1e-13)


def test_weight_norm_makes_the_scale_of_the_trained_weight_irrelevant(
    make_discriminator: Callable[..., nn.Module],
) -> None:
    network = make_discriminator()
    weight_norm(network)
    x = random(4, 3, 32, 32)
    before = network(x)
    for layer in layer_weights(network):
        layer.weight_ND.data *= 3
    torch.testing.assert_close(network(x), before, rtol=1e-12, atol=1e-12)
