"""Diagnostics of the layers against singular values and angles computed the long way."""

import math

import pytest
import torch
from torch import nn

from gan_mhe.constraints import normalize
from gan_mhe.constraints.diagnostics import layer_geometry
from gan_mhe.constraints.select import layer_weights, neuron_axis, original_weight, rows, weight_layers
from gan_mhe.networks.build import build_discriminator


def discriminator(width: float = 1 / 32) -> nn.Module:
    rng = torch.Generator().manual_seed(0)
    return build_discriminator("cnn_miyato", image_size=32, width=width, generator=rng).train()


def pair_angles(weight: torch.Tensor) -> list[float]:
    rows = weight.double().tolist()
    lengths = [math.sqrt(sum(x * x for x in row)) for row in rows]
    return [
        math.acos(sum(x * y for x, y in zip(rows[i], rows[j], strict=True)) / lengths[i] / lengths[j])
        for i in range(len(rows))
        for j in range(i)
    ]


def test_energy_and_angle_are_those_of_every_pair_of_neurons() -> None:
    network = discriminator()
    found = layer_geometry(network)
    for layer in layer_weights(network)[:-1]:
        angles = pair_angles(layer.weight_ND.detach())
        energy = sum(-math.log(2 * math.sin(angle / 2)) for angle in angles) / len(angles)
        assert found[f"energy/{layer.name}"] == pytest.approx(energy, abs=1e-6)
        assert found[f"angle/{layer.name}"] == pytest.approx(min(angles), abs=1e-6)


def test_a_layer_of_one_neuron_has_a_singular_value_only() -> None:
    found = layer_geometry(discriminator())
    assert [key for key in found if key.endswith("dense")] == ["sigma/dense"]
    assert len(found) == 3 * 7 + 1


def test_sigma_is_the_largest_singular_value_of_a_weight() -> None:
    network = discriminator(width=1 / 16)
    found = layer_geometry(network)
    for name, layer in weight_layers(network):
        expected = torch.linalg.svdvals(rows(layer.weight.double(), neuron_axis(layer)))[0].item()
        assert found[f"sigma/{name}"] == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("kind", ["spectral", "weight"])
def test_sigma_is_that_of_the_weight_in_use_and_energy_that_of_the_trained_one(kind: str) -> None:
    network, plain = discriminator(), discriminator()
    if kind == "spectral":
        normalize.spectral_norm(network, torch.Generator().manual_seed(0))
    else:
        normalize.weight_norm(network)
    found, bare = layer_geometry(network), layer_geometry(plain)
    assert {k: v for k, v in found.items() if "sigma" not in k} == {k: v for k, v in bare.items() if "sigma" not in k}
    for name, layer in weight_layers(network.eval()):
        expected = torch.linalg.svdvals(layer.weight.double().flatten(1))[0].item()
        assert found[f"sigma/{name}"] == pytest.approx(expected, rel=1e-10)
        assert abs(found[f"sigma/{name}"] - bare[f"sigma/{name}"]) > 0.05
        assert original_weight(layer).requires_grad


@pytest.mark.parametrize("training", [True, False])
def test_looking_leaves_mode_singular_vectors_and_gradients_alone(training: bool) -> None:
    network = discriminator()
    normalize.spectral_norm(network, torch.Generator().manual_seed(0))
    network.train(training)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    layer_geometry(network)
    assert all(module.training is training for module in network.modules())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())


def test_every_diagnostic_is_a_number_of_the_host() -> None:
    assert all(type(value) is float and math.isfinite(value) for value in layer_geometry(discriminator()).values())
