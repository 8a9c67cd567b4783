"""The gradient penalty against discriminators with a known gradient; its derivatives against finite differences."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from gan_mhe.config.constraints import GradientPenaltyConfig
from gan_mhe.constraints.gradient import gradient_penalties
from gan_mhe.constraints.penalty import PenaltyInputs


class LinearScore(nn.Module):
    """D(x) = a.x, whose gradient is a everywhere; keeps the last images it was given."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, images: Tensor) -> Tensor:
        self.images = images.detach()
        return (images * self.weight).flatten(1).sum(dim=1)


def penalty(inputs: PenaltyInputs, **options: float) -> Tensor:
    (penalty,) = gradient_penalties(GradientPenaltyConfig(**options), inputs.discriminator, 0)
    return penalty.function(inputs)


def linear(side: int = 4, seed: int = 0) -> LinearScore:
    rng = torch.Generator().manual_seed(seed)
    return LinearScore(torch.randn(3, side, side, generator=rng, dtype=torch.float64))


@pytest.mark.parametrize("target", [1.0, 0.0, 2.5])
def test_penalty_of_a_linear_discriminator_is_the_squared_excess_of_its_gradient_norm(
    make_inputs: Callable[..., PenaltyInputs], target: float
) -> None:
    network = linear()
    expected = (network.weight.norm() - target).square().item()
    assert penalty(make_inputs(network, side=4), target=target).item() == pytest.approx(expected, rel=1e-13)


def test_gradient_of_the_penalty_of_a_linear_discriminator_is_the_analytic_one(
    make_inputs: Callable[..., PenaltyInputs],
) -> None:
    network = linear()
    penalty(make_inputs(network, side=4)).backward()
    norm = network.weight.detach().norm()
    torch.testing.assert_close(network.weight.grad, 2 * (norm - 1) * network.weight.detach() / norm, rtol=1e-12, atol=0)


def test_each_image_is_mixed_by_its_own_number(make_inputs: Callable[..., PenaltyInputs]) -> None:
    network = linear()
    inputs = make_inputs(network, batch=6, side=4)
    penalty(inputs)
    mix = (network.images - inputs.fake) / (inputs.real - inputs.fake)
    assert inputs.mix.unique().numel() == 6
    torch.testing.assert_close(mix, inputs.mix.expand_as(mix), rtol=0, atol=1e-10)


def test_second_derivatives_equal_finite_differences(make_inputs: Callable[..., PenaltyInputs]) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(16, 1)).double()
    parameters = list(network.parameters())
    value = penalty(make_inputs(network, side=4))
    gradients = torch.autograd.grad(value, parameters, allow_unused=True)
    assert gradients[-1] is None  # the last bias does not change the gradient
    rng, step = torch.Generator().manual_seed(1), 1e-5
    for _ in range(3):
        directions = [torch.randn(p.shape, generator=rng, dtype=torch.float64) for p in parameters]
        expected = sum((g * d).sum().item() for g, d in zip(gradients, directions, strict=True) if g is not None)
        ends = []
        for sign in (step, -2 * step, step):  # there, across, and back again
            for parameter, direction in zip(parameters, directions, strict=True):
                parameter.data += sign * direction
            ends.append(penalty(make_inputs(network, side=4)).item())
        assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(expected, rel=1e-7)


def test_penalty_leaves_no_gradient_on_the_images(make_inputs: Callable[..., PenaltyInputs]) -> None:
    inputs = make_inputs(linear(), side=4)
    penalty(inputs).backward()
    assert not inputs.real.requires_grad and not inputs.fake.requires_grad
