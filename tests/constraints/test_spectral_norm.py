"""Spectral normalization: the largest singular value, what persists of it, and its gradient."""

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from gan_mhe.constraints.normalize import spectral_norm
from gan_mhe.constraints.select import original_weight, rows, weight_layers


def images(seed: int = 0) -> Tensor:
    return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def normalized(network: nn.Module, seed: int = 0) -> nn.Module:
    spectral_norm(network, torch.Generator().manual_seed(seed))
    return network


def singular_vectors(layer: nn.Module) -> tuple[Tensor, Tensor]:
    norm = layer.parametrizations.weight[0]
    return norm._u, norm._v


def largest_singular_values(network: nn.Module) -> list[float]:
    network.eval()
    return [torch.linalg.svdvals(layer.weight.flatten(1))[0].item() for _, layer in weight_layers(network)]


def test_every_layer_has_largest_singular_value_one_after_many_forward_passes(
    make_discriminator: Callable[..., nn.Module],
) -> None:
    network = normalized(make_discriminator())
    assert max(largest_singular_values(network)) > 1.0001  # the 15 iterations at the start are not enough
    network.train()
    for _ in range(100):
        network(images())
    assert largest_singular_values(network) == pytest.approx([1.0] * 8, abs=1e-6)


def test_the_estimate_of_sigma_is_a_lower_bound_that_each_forward_pass_tightens() -> None:
    # A 64 x 576 Gaussian: no gap after its largest singular value, so the power iteration is slow.
    rng = torch.Generator().manual_seed(0)
    network = nn.Sequential(nn.Linear(576, 64, bias=False)).double()
    network[0].weight.data = torch.randn(64, 576, generator=rng, dtype=torch.float64)
    spectral_norm(network, torch.Generator())
    values: list[float] = []
    largest = torch.linalg.svdvals(original_weight(network[0]))[0]
    for _ in range(200):
        used = network[0].weight  # reading it is what a forward pass does
        values.append((used.norm() / original_weight(network[0]).norm() * largest).item())
    assert all(later <= earlier + 1e-12 for earlier, later in itertools.pairwise(values))
    assert 1.001 < values[0] < 1.1
    assert values[-1] == pytest.approx(1.0, abs=1e-6)
    assert torch.linalg.svdvals(network.eval()[0].weight)[0].item() == pytest.approx(1.0, abs=1e-6)


def test_one_forward_pass_is_one_power_iteration(make_discriminator: Callable[..., nn.Module]) -> None:
    network = normalized(make_discriminator())
    expected = []
    for _, layer in weight_layers(network):
        matrix, (_, v) = rows(original_weight(layer).detach()), singular_vectors(layer)
        u = nn.functional.normalize(matrix @ v, dim=0)
        expected.append((u, nn.functional.normalize(matrix.T @ u, dim=0)))
    network(images())
    for (_, layer), (u, v) in zip(weight_layers(network), expected, strict=True):
        torch.testing.assert_close(singular_vectors(layer), (u, v), rtol=1e-12, atol=1e-12)


def test_singular_vectors_persist_in_the_state(make_discriminator: Callable[..., nn.Module]) -> None:
    network = normalized(make_discriminator())
    for _ in range(3):
        network(images())
    other = normalized(make_discriminator(seed=1), seed=1)
    other.load_state_dict(network.state_dict())
    assert torch.equal(other(images()), network(images()))


def test_gradient_is_the_projected_gradient_of_the_normalized_weight(
    make_discriminator: Callable[..., nn.Module],
) -> None:
    # Miyato et al. 2018, eq. 12, with u and v constant: dL/dW = (G - <G, W/sigma> u v^T) / sigma.
    network, plain = normalized(make_discriminator(width=1 / 16)).eval(), make_discriminator(width=1 / 16)
    for (_, layer), (_, bare) in zip(weight_layers(network), weight_layers(plain), strict=True):
        bare.weight.data = layer.weight.detach().clone()
    for model in (network, plain):
        model(images()).square().sum().backward()
    for (_, layer), (_, bare) in zip(weight_layers(network), weight_layers(plain), strict=True):
        u, v = singular_vectors(layer)
        weight, gradient = original_weight(layer), rows(bare.weight.grad)
        sigma = u @ rows(weight) @ v
        expected = (gradient - (gradient * rows(bare.weight)).sum() * torch.outer(u, v)) / sigma
        largest = expected.abs().max().item()
        torch.testing.assert_close(rows(weight.grad), expected, rtol=1e-9, atol=1e-11 * largest)


def test_gradient_has_no_component_along_the_trained_weight(make_discriminator: Callable[..., nn.Module]) -> None:
    network = normalized(make_discriminator(width=1 / 16))
    network(images()).square().sum().backward()
    for _, layer in weight_layers(network):
        weight = original_weight(layer)
        along = (weight.grad * weight).sum() / (weight.grad.norm() * weight.norm())
        assert abs(along.item()) < 1e-12


def test_first_singular_vectors_are_a_function_of_the_seed(make_discriminator: Callable[..., nn.Module]) -> None:
    first = normalized(make_discriminator(), seed=7)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(12345)  # elsewhere in torch's global stream
        second = normalized(make_discriminator(), seed=7)
    other = normalized(make_discriminator(), seed=8)
    for name, buffer in first.named_buffers():
        assert torch.equal(buffer, second.get_buffer(name))
    assert not torch.equal(singular_vectors(first.c3_0.conv)[0], singular_vectors(other.c3_0.conv)[0])


def test_normalized_weights_and_their_gradients_are_those_of_pytorchs_own_parametrization(
    make_discriminator: Callable[..., nn.Module],
) -> None:
    network, other = normalized(make_discriminator(width=1 / 16)), make_discriminator(width=1 / 16)
    for (_, layer), (_, reference) in zip(list(weight_layers(network)), list(weight_layers(other)), strict=True):
        nn.utils.parametrizations.spectral_norm(reference)
        theirs = reference.parametrizations.weight[0]
        u, v = singular_vectors(layer)
        theirs._u.copy_(u)
        shape = original_weight(layer)[0].movedim(0, -1).shape
        theirs._v.copy_(v.view(shape).movedim(-1, 0).flatten() if len(shape) > 1 else v)
    for _ in range(3):
        for model in (network, other):
            (model(images()) - model(-images())).square().sum().backward()  # two forward passes, one backward pass
    for (_, layer), (_, reference) in zip(weight_layers(network), weight_layers(other), strict=True):
        torch.testing.assert_close(layer.weight, reference.weight, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(original_weight(layer).grad, original_weight(reference).grad, rtol=1e-9, atol=1e-12)


def test_power_iterations_stay_in_the_weights_precision_inside_autocast(
    make_discriminator: Callable[..., nn.Module],
) -> None:
    inside, outside = (normalized(make_discriminator().float()) for _ in range(2))
    with torch.autocast("cpu", torch.bfloat16):
        inside(images().float())
    outside(images().float())
    for (_, layer), (_, plain) in zip(weight_layers(inside), weight_layers(outside), strict=True):
        assert all(map(torch.equal, singular_vectors(layer), singular_vectors(plain)))
        assert layer.weight.dtype == torch.float32


def test_spectral_norm_leaves_the_global_random_stream_alone(make_discriminator: Callable[..., nn.Module]) -> None:
    before = torch.random.get_rng_state()
    normalized(make_discriminator())
    assert torch.equal(torch.random.get_rng_state(), before)


def test_spectral_norm_adds_no_parameter(make_discriminator: Callable[..., nn.Module]) -> None:
    shapes = sorted(parameter.shape for parameter in make_discriminator().parameters())
    assert sorted(parameter.shape for parameter in normalized(make_discriminator()).parameters()) == shapes
