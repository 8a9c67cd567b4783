"""Orthonormal initialization and penalty."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from gan_mhe.config.constraints import OrthonormalConfig
from gan_mhe.constraints.orthogonal import orthonormal_init, orthonormal_penalties
from gan_mhe.constraints.penalty import PenaltyInputs
from gan_mhe.constraints.select import layer_weights

(PENALTY,) = orthonormal_penalties(OrthonormalConfig(coefficient=0.5, interval=2), nn.Identity(), 0)


def naive_penalty(network: nn.Module) -> torch.Tensor:
    """||W^T W - I||_F^2 of every layer as in the paper: D x D for every N."""
    total = torch.zeros((), dtype=torch.float64)
    for layer in layer_weights(network):
        gram = layer.weight_ND.T @ layer.weight_ND
        total = total + (gram - torch.eye(len(gram), dtype=torch.float64)).square().sum()
    return total


def test_initial_weights_have_orthonormal_rows_or_columns(mixed_network: Callable[[], nn.Sequential]) -> None:
    network = mixed_network()
    orthonormal_init(network, torch.Generator().manual_seed(0))
    kinds = set()
    for layer in layer_weights(network):
        weight = layer.weight_ND
        rows = len(weight) <= weight.shape[1]
        kinds.add(rows)
        gram = weight @ weight.T if rows else weight.T @ weight
        torch.testing.assert_close(gram, torch.eye(len(gram), dtype=torch.float64), rtol=0, atol=1e-13)
    assert kinds == {True, False}


def test_initial_weights_are_a_function_of_the_generator(mixed_network: Callable[[], nn.Sequential]) -> None:
    networks = [mixed_network() for _ in range(3)]
    before = torch.random.get_rng_state()
    for network, seed in zip(networks, (0, 0, 1), strict=True):
        orthonormal_init(network, torch.Generator().manual_seed(seed))
    first, again, other = (torch.cat([p.flatten() for p in network.parameters()]) for network in networks)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_penalty_vanishes_after_the_initialization(
    mixed_network: Callable[[], nn.Sequential], make_inputs: Callable[..., PenaltyInputs]
) -> None:
    network = mixed_network()
    assert PENALTY.function(make_inputs(network)).item() > 1
    orthonormal_init(network, torch.Generator().manual_seed(0))
    assert 0 <= PENALTY.function(make_inputs(network)).item() < 1e-25


def test_penalty_differs_from_the_papers_only_by_a_constant(
    mixed_network: Callable[[], nn.Sequential], make_inputs: Callable[..., PenaltyInputs]
) -> None:
    network = mixed_network()
    shapes = [layer.weight_ND.shape for layer in layer_weights(network)]
    constant = sum(max(fan_in - neurons, 0) for neurons, fan_in in shapes)
    penalty, naive = PENALTY.function(make_inputs(network)), naive_penalty(network)
    assert constant > 0
    assert (naive - penalty).item() == pytest.approx(constant, abs=1e-11)
    weights = [p for p in network.parameters() if p.dim() > 1]
    for ours, theirs in zip(torch.autograd.grad(penalty, weights), torch.autograd.grad(naive, weights), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-12)


def test_penalty_uses_the_trained_weights_before_spectral_normalization(
    mixed_network: Callable[[], nn.Sequential], make_inputs: Callable[..., PenaltyInputs]
) -> None:
    network = mixed_network()
    expected = PENALTY.function(make_inputs(network)).item()
    for layer in (network[0], network[1], network[3]):
        nn.utils.parametrizations.spectral_norm(layer)
    assert PENALTY.function(make_inputs(network)).item() == expected


def test_penalty_carries_its_name_coefficient_and_interval() -> None:
    assert (PENALTY.name, PENALTY.coefficient, PENALTY.interval) == ("orthonormal", 0.5, 2)
