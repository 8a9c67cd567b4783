"""Degenerate filters: loss and gradient stay finite, and the floor does not affect pairs beyond it."""

import math

import pytest
import torch

from gan_mhe.sphere import hyperspherical_energy
from gan_mhe.sphere.energy import distance_floor, pair_energies
from tests.support.looped import looped

POWERS = [0.0, 0.5, 1.0, 2.0, 3.0, 10.0, 100.0, 1000.0]
DISTANCES = ["euclidean", "geodesic"]
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def gaussian(count: int, dim: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def near_pair(theta: float) -> torch.Tensor:
    return torch.tensor([[1, 0, 0], [math.cos(theta), math.sin(theta), 0], [0, 0, 1]], dtype=torch.float64)


DEGENERATE = {
    "duplicates": gaussian(1, 5).repeat(4, 1),
    "scaled duplicates": gaussian(1, 5) * torch.tensor([[1.0], [3], [0.01]]),
    "antipodes": torch.cat([gaussian(3, 5), -2 * gaussian(3, 5)]),
    "zero filter": torch.cat([gaussian(3, 5), torch.zeros(1, 5)]),
    "all zero": torch.zeros(3, 5),
    "tiny filters": gaussian(3, 5) * 1e-7,
    "theta 1e-4": near_pair(1e-4),
    "theta 1e-8": near_pair(1e-8),
    "theta pi - 1e-4": near_pair(math.pi - 1e-4),
    "one neuron": gaussian(1, 5),
    "one dimension": gaussian(5, 1),
    "sparse": torch.eye(5, dtype=torch.float64)[[0, 0, 1, 1, 2]],
}


@looped("dtype", DTYPES)
@looped("name", DEGENERATE)
def test_loss_and_gradient_are_finite(name: str, dtype: torch.dtype) -> None:
    for s in POWERS:
        for distance in DISTANCES:
            for half_space in (False, True):
                weight = DEGENERATE[name].to(dtype, copy=True).requires_grad_()
                loss = hyperspherical_energy(weight, s=s, distance=distance, half_space=half_space)
                loss.backward()
                assert weight.grad is not None and weight.grad.dtype == dtype
                assert loss.isfinite(), (s, distance, half_space)
                assert weight.grad.isfinite().all(), (s, distance, half_space)


def test_largest_layer_of_duplicates_keeps_a_finite_float32_sum() -> None:
    for s in POWERS:
        weight = torch.ones(512, 3, requires_grad=True)
        loss = hyperspherical_energy(weight, s=s, half_space=True, reduction="sum")
        loss.backward()
        assert weight.grad is not None and loss.isfinite() and weight.grad.isfinite().all()


@looped("dtype", [torch.bfloat16, torch.float16])
def test_duplicates_are_finite_under_autocast(dtype: torch.dtype) -> None:
    weight = torch.ones(4, 3, requires_grad=True)
    with torch.autocast("cpu", dtype=dtype):
        loss = hyperspherical_energy(weight * 2, s=2.0, distance="geodesic", half_space=True)
    loss.backward()
    assert weight.grad is not None and loss.isfinite() and weight.grad.isfinite().all()


@looped("half_space", [False, True])
@looped("distance", DISTANCES)
@looped("reduction", ["mean", "sum"])
def test_one_neuron_gives_exactly_zero_and_no_gradient(reduction: str, distance: str, half_space: bool) -> None:
    weight = gaussian(1, 4).float().requires_grad_()
    for s in (0.0, 1.0, 2.0):
        loss = hyperspherical_energy(weight, s=s, distance=distance, half_space=half_space, reduction=reduction)
        assert loss.requires_grad and loss.item() == 0
        (gradient,) = torch.autograd.grad(loss, weight)
        assert torch.equal(gradient, torch.zeros(1, 4))


def test_zero_filter_counts_as_orthogonal_and_gets_and_exerts_no_force() -> None:
    weight = torch.cat([gaussian(3, 5), torch.zeros(1, 5, dtype=torch.float64)]).requires_grad_()
    loss = hyperspherical_energy(weight, s=2.0, reduction="sum")
    loss.backward()
    alone = gaussian(3, 5).requires_grad_()
    loss_alone = hyperspherical_energy(alone, s=2.0, reduction="sum")
    loss_alone.backward()
    assert weight.grad is not None and alone.grad is not None
    assert (loss - loss_alone).item() == pytest.approx(3 * 0.5, abs=1e-12)
    assert torch.equal(weight.grad[3], torch.zeros(5, dtype=torch.float64))
    torch.testing.assert_close(weight.grad[:3], alone.grad, rtol=1e-12, atol=1e-14)


def test_weights_that_are_not_finite_are_not_hidden() -> None:
    for bad in (math.nan, math.inf):
        weight = gaussian(3, 4)
        weight[1, 2] = bad
        assert hyperspherical_energy(weight, half_space=True).isnan()


@looped("distance", DISTANCES)
@looped("s", [0.0, 1.0, 2.0, 3.0])
@looped(("theta", "tolerance"), [(1e-1, 1e-11), (1e-2, 1e-9), (1e-3, 1e-7)])
def test_near_pairs_beyond_the_floor_have_their_exact_energy_and_force(
    theta: float, tolerance: float, s: float, distance: str
) -> None:
    weight = near_pair(theta)[:2].requires_grad_()
    loss = hyperspherical_energy(weight, s=s, distance=distance)
    loss.backward()
    z = theta if distance == "geodesic" else 2 * math.sin(theta / 2)
    stretch = 1 if distance == "geodesic" else math.cos(theta / 2)
    assert weight.grad is not None
    assert loss.item() == pytest.approx(-math.log(z) if s == 0 else z**-s, rel=tolerance)
    assert weight.grad[1].norm().item() == pytest.approx(
        stretch * (1 / z if s == 0 else s / z ** (s + 1)), rel=tolerance
    )


@looped("theta", [1e-1, 1e-2, 1e-3])
def test_near_pairs_of_float32_filters_have_their_energy_to_float32_rounding(theta: float) -> None:
    first, second = gaussian(2, 4608, seed=3)
    first = first / first.norm()
    second = second - (second @ first) * first
    weight = torch.stack([first, math.cos(theta) * first + math.sin(theta) * second / second.norm()]).float()
    unit = weight.double() / weight.double().norm(dim=1, keepdim=True)
    exact = (unit[0] - unit[1]).square().sum().reciprocal().item()
    assert hyperspherical_energy(weight, s=2.0).item() == pytest.approx(exact, rel=7e-8)


@looped(("s", "floor"), [(0.0, 1e-6), (1.0, 1e-6), (2.0, 1e-5), (4.0, 1e-3), (10.0, 0.0433)])
def test_distance_floor_has_its_documented_values(s: float, floor: float) -> None:
    assert distance_floor(s) == pytest.approx(floor, rel=1e-3)


@looped("s", POWERS)
def test_force_of_any_pair_squares_to_a_float32_number(s: float) -> None:
    floor = distance_floor(s)
    force = 1 / floor if s == 0 else s * floor ** (-s - 1)
    assert force**2 < torch.finfo(torch.float32).max


@looped("distance", DISTANCES)
@looped("s", [0.0, 1.0, 2.0, 10.0])
def test_energy_is_continued_smoothly_and_monotonically_within_the_floor(s: float, distance: str) -> None:
    squared_floor = distance_floor(s) ** 2
    ratio = torch.tensor([1.000001, 0.999999, 0.5, 0.0], dtype=torch.float64)
    squared = (squared_floor * ratio).requires_grad_()
    energy = pair_energies(squared, s, distance)
    (slope,) = torch.autograd.grad(energy.sum(), squared)
    value = energy.detach()
    assert value[0] < value[1] < value[2] < value[3]
    assert value[1].item() == pytest.approx(value[0].item(), rel=1e-4)
    torch.testing.assert_close(slope[1:], slope[:1].expand(3), rtol=1e-4, atol=0)
    torch.testing.assert_close(value[3] - value[2], -0.5 * squared_floor * slope[3], rtol=1e-9, atol=0)


@looped("distance", DISTANCES)
@looped("s", [0.0, 2.0])
def test_near_duplicates_within_the_floor_still_repel(s: float, distance: str) -> None:
    theta = distance_floor(s) / 4
    weight = near_pair(theta)[:2].requires_grad_()
    hyperspherical_energy(weight, s=s, distance=distance).backward()
    assert weight.grad is not None
    assert weight.grad[1, 1] < 0  # descent turns the second row away from the first
    assert weight.grad[1, 1].abs() > 1e4


def test_half_precision_gradients_saturate_instead_of_overflowing() -> None:
    weight = torch.tensor([[1.0, 0], [1, 1e-4]], dtype=torch.float16, requires_grad=True)
    hyperspherical_energy(weight, s=2.0).backward()
    assert weight.grad is not None
    assert weight.grad[1, 1].item() == -torch.finfo(torch.float16).max
