"""The gradient against the analytic formula, finite differences and its exact identities."""

from itertools import permutations

import torch

from gan_mhe.sphere import hyperspherical_energy
from tests.support.looped import looped

DISTANCES = ["euclidean", "geodesic"]
SETTINGS = looped(
    "options",
    [
        {"s": s, "distance": distance, "half_space": half_space}
        for s in (0.0, 1.0, 2.0)
        for distance in DISTANCES
        for half_space in (False, True)
    ],
)


def gaussian(count: int, dim: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gradient(weight: torch.Tensor, **options: object) -> torch.Tensor:
    weight = weight.clone().requires_grad_()
    hyperspherical_energy(weight, reduction="sum", **options).backward()
    assert weight.grad is not None
    return weight.grad


def analytic_gradient(weight: torch.Tensor, s: float, distance: str) -> torch.Tensor:
    """Gradient of Σ_{i<j} f_s: (1/||w_i||) Σ_{j != i} k_ij (u_j - c_ij u_i), pair by pair."""
    unit = weight / weight.norm(dim=1, keepdim=True)
    result = torch.zeros_like(weight)
    for i, j in permutations(range(len(weight)), 2):
        cosine = unit[i] @ unit[j]
        z = (unit[i] - unit[j]).norm() if distance == "euclidean" else cosine.arccos()
        radial = 1 / z if distance == "euclidean" else 1 / cosine.arccos().sin()
        strength = radial * (s * z ** (-s - 1) if s else 1 / z)
        result[i] += strength * (unit[j] - cosine * unit[i]) / weight[i].norm()
    return result


@looped("distance", DISTANCES)
@looped("s", [0.0, 0.5, 1.0, 2.0, 3.0])
def test_gradient_equals_the_analytic_formula(s: float, distance: str) -> None:
    weight = gaussian(6, 5) * torch.logspace(-1, 1, 6, dtype=torch.float64)[:, None]
    torch.testing.assert_close(
        gradient(weight, s=s, distance=distance), analytic_gradient(weight, s, distance), rtol=1e-11, atol=1e-13
    )


@looped("distance", DISTANCES)
@looped("s", [0.0, 1.0, 2.0, 3.0])
def test_half_space_gradient_equals_the_analytic_one_through_virtual_neurons(s: float, distance: str) -> None:
    weight = gaussian(4, 5)
    virtual = torch.cat([weight, -weight])
    unit = virtual / virtual.norm(dim=1, keepdim=True)
    expected = torch.zeros_like(weight)
    for i in range(4):
        others = [j for j in range(8) if j not in (i, i + 4)]
        group = torch.stack([weight[i], *(unit[j] for j in others)])
        expected[i] = 2 * analytic_gradient(group, s, distance)[0]  # w_i acts as itself and as its mirror image
    actual = gradient(weight, s=s, distance=distance, half_space=True)
    torch.testing.assert_close(actual, expected, rtol=1e-11, atol=1e-13)


@SETTINGS
def test_gradient_equals_finite_differences(options: dict) -> None:
    weight = gaussian(4, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda w: hyperspherical_energy(w, **options), (weight,))


@SETTINGS
def test_gradient_of_each_filter_is_orthogonal_to_it(options: dict) -> None:
    weight = gaussian(6, 5)
    assert (gradient(weight, **options) * weight).sum(dim=1).abs().max() < 1e-12


@SETTINGS
def test_three_times_longer_filters_feel_a_third_of_the_force(options: dict) -> None:
    weight = gaussian(6, 5)
    torch.testing.assert_close(3 * gradient(3 * weight, **options), gradient(weight, **options), rtol=1e-11, atol=1e-13)


@SETTINGS
def test_forces_have_no_net_torque(options: dict) -> None:
    weight = gaussian(6, 5)
    moment = gradient(weight, **options).T @ weight
    torch.testing.assert_close(moment, moment.T, rtol=0, atol=1e-12)


@SETTINGS
def test_a_descent_step_never_shortens_a_filter(options: dict) -> None:
    weight, rate = gaussian(6, 5), 0.3
    force = gradient(weight, **options)
    stepped = (weight - rate * force).square().sum(dim=1)
    torch.testing.assert_close(
        stepped, weight.square().sum(dim=1) + rate**2 * force.square().sum(dim=1), rtol=1e-12, atol=0
    )


@looped("distance", DISTANCES)
def test_opposite_filters_attract_only_geodesically(distance: str) -> None:
    """One pair pushes with s cos(θ/2) / d^(s+1) (Euclidean) or s / θ^(s+1) (geodesic) near θ = π."""
    turn = torch.tensor(3.14, dtype=torch.float64)
    weight = torch.stack([torch.tensor([1.0, 0], dtype=torch.float64), torch.stack([turn.cos(), turn.sin()])])
    force = gradient(weight, s=1.0, distance=distance)[0].norm()
    expected = (turn / 2).cos() / (2 * (turn / 2).sin()) ** 2 if distance == "euclidean" else turn**-2
    torch.testing.assert_close(force, expected, rtol=1e-9, atol=0)
