"""Blocks against a naive second implementation, initializers against their moments, size checks."""

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from gan_mhe.errors import ConfigError
from gan_mhe.networks.initializers import initialize_glorot, initialize_truncated_normal
from gan_mhe.networks.layers import (
    ConvBlock,
    FirstResBlock,
    NormSlot,
    ResBlock,
    UpResBlock,
    check_image_size,
    check_latent_dim,
    scaled,
)

Array = NDArray[np.float64]


def stream(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randomised(network: nn.Module, seed: int) -> nn.Module:
    """The network in float64 with every parameter and buffer of order 1, so that no term can hide."""
    generator = stream(seed)
    network.double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(generator=generator)
    return network


def images(*shape: int, seed: int = 99) -> torch.Tensor:
    return torch.randn(*shape, generator=stream(seed), dtype=torch.float64)


def convolve(x: Array, layer: nn.Conv2d) -> Array:
    """Cross-correlation by explicit loops over output pixels."""
    assert layer.bias is not None
    weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
    pad, stride, kernel = int(layer.padding[0]), layer.stride[0], weight.shape[2]
    padded = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    side = (padded.shape[2] - kernel) // stride + 1
    out = np.empty((x.shape[0], weight.shape[0], side, side))
    for i in range(side):
        for j in range(side):
            patch = padded[:, :, i * stride : i * stride + kernel, j * stride : j * stride + kernel]
            out[:, :, i, j] = np.einsum("bchw,nchw->bn", patch, weight) + bias
    return out


def relu(x: Array) -> Array:
    return np.where(x > 0, x, 0.0)


def batch_norm(x: Array, layer: nn.BatchNorm2d) -> Array:
    mean, variance = x.mean((0, 2, 3), keepdims=True), x.var((0, 2, 3), keepdims=True)
    gamma = layer.weight.detach().numpy()[:, None, None]
    beta = layer.bias.detach().numpy()[:, None, None]
    return np.asarray((x - mean) / np.sqrt(variance + 2e-5) * gamma + beta)


def double_size(x: Array) -> Array:
    return np.kron(x, np.ones((2, 2)))


def halve_size(x: Array) -> Array:
    return (x[:, :, ::2, ::2] + x[:, :, 1::2, ::2] + x[:, :, ::2, 1::2] + x[:, :, 1::2, 1::2]) / 4


def assert_same(actual: torch.Tensor, expected: Array) -> None:
    np.testing.assert_allclose(actual.detach().numpy(), expected, rtol=1e-11, atol=1e-11)


def test_an_up_block_upsamples_before_its_first_convolution_and_on_its_shortcut() -> None:
    block = randomised(UpResBlock(3), 0)
    x = images(2, 3, 4, 4)
    h = convolve(double_size(relu(batch_norm(x.numpy(), block.norm1))), block.conv1)
    h = convolve(relu(batch_norm(h, block.norm2)), block.conv2)
    assert_same(block(x), h + convolve(double_size(x.numpy()), block.shortcut))


def test_a_down_block_pools_after_its_second_convolution_and_after_its_shortcut() -> None:
    block = randomised(ResBlock(3, downsample=True), 1)
    x = images(2, 3, 6, 6)
    h = convolve(relu(convolve(relu(x.numpy()), block.conv1)), block.conv2)
    assert_same(block(x), halve_size(h) + halve_size(convolve(x.numpy(), block.shortcut)))


def test_a_block_that_keeps_the_size_has_an_identity_shortcut() -> None:
    block = randomised(ResBlock(3, downsample=False), 2)
    x = images(2, 3, 5, 5)
    h = convolve(relu(convolve(relu(x.numpy()), block.conv1)), block.conv2)
    assert_same(block(x), h + x.numpy())


def test_the_first_block_has_no_leading_activation() -> None:
    block = randomised(FirstResBlock(3, 4), 3)
    x = images(2, 3, 6, 6)
    h = convolve(relu(convolve(x.numpy(), block.conv1)), block.conv2)
    assert_same(block(x), halve_size(h) + convolve(halve_size(x.numpy()), block.shortcut))


@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (4, 2)])
def test_a_convolution_block_is_a_convolution_and_a_leaky_relu_of_slope_a_tenth(kernel: int, stride: int) -> None:
    block = randomised(ConvBlock(3, 4, kernel, stride), 4)
    x = images(2, 3, 6, 6)
    h = convolve(x.numpy(), block.conv)
    assert_same(block(x), np.where(h > 0, h, 0.1 * h))


@pytest.mark.parametrize(
    ("block", "slot", "calls"),
    [
        (ConvBlock(3, 4, 3, 1), "norm", lambda b, x: nn.functional.leaky_relu(-b.conv(x), 0.1)),
        (ResBlock(3, downsample=False), "norm1", lambda b, x: x + b.conv2(torch.relu(b.conv1(torch.relu(-x))))),
        (ResBlock(3, downsample=False), "norm2", lambda b, x: x + b.conv2(torch.relu(-b.conv1(torch.relu(x))))),
    ],
    ids=["convolution", "first of residual", "second of residual"],
)
def test_a_layer_put_into_a_slot_acts_right_before_the_activation(block, slot, calls) -> None:  # type: ignore[no-untyped-def]
    class Negation(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return -x

    randomised(block, 5)
    x = images(2, 3, 4, 4)
    setattr(block, slot, Negation())
    torch.testing.assert_close(block(x), calls(block, x), rtol=1e-12, atol=1e-12)


def test_an_empty_slot_is_the_identity_without_parameters_or_state() -> None:
    slot = NormSlot(7, first=True)
    x = images(1, 7, 2, 2)
    assert slot(x) is x
    assert (slot.channels, slot.first, len(slot.state_dict())) == (7, True, 0)


def test_the_truncated_normal_has_the_moments_of_a_normal_cut_at_two_sigma() -> None:
    # For a standard normal cut at +-2: variance 1 - 4 phi(2) / (2 Phi(2) - 1); 0.02 times its root is 0.017593.
    layer = nn.Linear(1000, 1000)
    initialize_truncated_normal(layer, stream(6))
    weight = layer.weight.detach().double()
    density = math.exp(-2) / math.sqrt(2 * math.pi)
    expected = 0.02 * math.sqrt(1 - 4 * density / math.erf(math.sqrt(2)))
    assert expected == pytest.approx(0.0176, abs=5e-5)
    # A million draws: five standard errors of the mean are 9e-5, of the deviation below 6e-5.
    assert weight.std().item() == pytest.approx(expected, abs=6e-5)
    assert weight.mean().item() == pytest.approx(0.0, abs=9e-5)
    assert weight.abs().max().item() == pytest.approx(0.04, rel=1e-3)
    assert weight.abs().max().item() <= 0.04 + 1e-9


def test_the_truncated_normal_follows_the_cut_distribution_function() -> None:
    # Kolmogorov-Smirnov distance of 250,000 draws: above 1.95 / sqrt(n) = 0.0039 with probability 1e-3.
    layer = nn.Linear(500, 500)
    initialize_truncated_normal(layer, stream(7))
    sample = layer.weight.detach().double().flatten().sort().values
    inside = math.erf(math.sqrt(2))
    cdf = 0.5 + torch.erf(sample / 0.02 / math.sqrt(2)) / (2 * inside)
    steps = torch.arange(1, sample.numel() + 1, dtype=torch.float64) / sample.numel()
    assert (cdf - steps).abs().max().item() < 0.0039


@pytest.mark.parametrize("initialize", [initialize_truncated_normal, initialize_glorot])
def test_initializing_clears_biases_and_batch_norm(initialize) -> None:  # type: ignore[no-untyped-def]
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ConvTranspose2d(4, 4, 4), nn.Flatten())
    network.append(nn.Linear(4, 2)).append(nn.BatchNorm1d(2))
    for value in network.state_dict().values():
        value.fill_(7)
    initialize(network, stream(8))
    state = network.state_dict()
    ones = {name for name, value in state.items() if value.eq(1).all()}
    zeros = {name for name, value in state.items() if value.eq(0).all()}
    assert ones == {"1.weight", "1.running_var", "5.weight", "5.running_var"}
    assert zeros == {
        *("0.bias", "2.bias", "4.bias", "1.bias", "5.bias"),
        *("1.running_mean", "5.running_mean", "1.num_batches_tracked", "5.num_batches_tracked"),
    }
    assert all(not state[name].eq(7).any() for name in ("0.weight", "2.weight", "4.weight"))


@pytest.mark.parametrize(
    ("name", "gain", "fans"),
    [
        ("0.conv1", math.sqrt(2), 64 * 9 + 64 * 9),
        ("0.conv2", math.sqrt(2), 64 * 9 + 64 * 9),
        ("0.shortcut", 1.0, 64 + 64),
        ("1.conv1", math.sqrt(2), 64 * 9 + 64 * 9),
        ("2.conv1", math.sqrt(2), 3 * 9 + 64 * 9),
        ("2.shortcut", 1.0, 3 + 64),
        ("3", 1.0, 64 * 9 + 3 * 9),
        ("4", 1.0, 200 + 300),
    ],
)
def test_glorot_bounds_follow_gain_and_fans(name: str, gain: float, fans: int) -> None:
    network = nn.Sequential(
        ResBlock(64, downsample=True),
        UpResBlock(64),
        FirstResBlock(3, 64),
        nn.Conv2d(64, 3, 3, padding=1),
        nn.Linear(200, 300),
    )
    initialize_glorot(network, stream(9))
    bound = gain * math.sqrt(6 / fans)
    weight = network.get_submodule(name).weight.detach()
    assert isinstance(weight, torch.Tensor)
    # The largest of n >= 192 uniform draws lies within 5% of the bound but for a chance of 0.95^192 = 5e-5.
    assert 0.95 * bound < weight.abs().max().item() <= bound * (1 + 1e-6)


@pytest.mark.parametrize(
    ("channels", "width", "expected"),
    [(64, 1.0, 64), (512, 0.125, 64), (64, 0.7, 45), (64, 0.6, 38), (64, 2.0, 128), (64, 0.001, 1)],
)
def test_width_multiplies_and_rounds_and_keeps_one_channel(channels: int, width: float, expected: int) -> None:
    assert scaled(channels, width) == expected


@pytest.mark.parametrize("width", [0.0, -1.0, math.inf, math.nan])
def test_a_width_that_is_not_finite_and_positive_is_refused(width: float) -> None:
    with pytest.raises(ConfigError, match=r"width: expected a finite number above 0, got"):
        scaled(64, width)


@pytest.mark.parametrize("image_size", [0, 8, 28, 40, 33, 128])
def test_an_image_size_without_a_network_is_refused(image_size: int) -> None:
    with pytest.raises(ConfigError, match=rf"data\.image_size: expected one of 32, 48, 64, got {image_size}"):
        check_image_size(image_size)


def test_an_empty_latent_vector_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"generator\.latent_dim: expected an integer of at least 1, got 0"):
        check_latent_dim(0)
