"""The uniformity objectives against known configurations, closed forms and autograd."""

import math
from collections.abc import Callable

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from gan_mhe.sphere.uniformity import (
    covering,
    gram_determinant,
    polarization,
    relaxed_polarization,
    separation,
)
from tests.support.looped import looped

Objective = Callable[..., torch.Tensor]
GOLDEN = (1 + math.sqrt(5)) / 2
BOTH_SPACES = looped("half_space", [False, True])


def gaussian(count: int, dim: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pole_of(dim: int, seed: int = 99) -> torch.Tensor:
    return gaussian(1, dim, seed)[0]


def polarized(weight: torch.Tensor, *, half_space: bool = False) -> torch.Tensor:
    return polarization(weight, pole_of(weight.shape[1]).to(weight.dtype), half_space=half_space)


def covered(weight: torch.Tensor, *, half_space: bool = False) -> torch.Tensor:
    return covering(weight, pole_of(weight.shape[1]).to(weight.dtype), half_space=half_space)


OF_DIRECTIONS: dict[str, Objective] = {
    "separation": separation,
    "polarization": polarized,
    "covering": covered,
    "gram_determinant": gram_determinant,
}
DIRECTIONS = looped("objective", OF_DIRECTIONS.values())
ALL = [(name, function, half) for name, function in OF_DIRECTIONS.items() for half in (False, True)]
ALL += [("relaxed_polarization", lambda weight, half_space: relaxed_polarization(weight), False)]
EVERYTHING = looped(("objective", "half_space"), [each[1:] for each in ALL])


def gradient(objective: Objective, weight: torch.Tensor, **options: object) -> torch.Tensor:
    weight = weight.clone().requires_grad_()
    return torch.autograd.grad(objective(weight, **options), weight)[0]


def with_mirror_images(weight: torch.Tensor) -> torch.Tensor:
    return torch.cat([weight, -weight])


def simplex(count: int) -> torch.Tensor:
    return torch.eye(count, dtype=torch.float64) - 1 / count


def circle(count: int, dim: int = 3) -> torch.Tensor:
    angle = torch.arange(count, dtype=torch.float64) * (2 * math.pi / count)
    return torch.stack([angle.cos(), angle.sin(), *[torch.zeros(count, dtype=torch.float64)] * (dim - 2)], 1)


def octahedron() -> torch.Tensor:
    return with_mirror_images(torch.eye(3, dtype=torch.float64))


def icosahedron() -> torch.Tensor:
    corners = [[0, a, b * GOLDEN] for a in (1, -1) for b in (1, -1)]
    return torch.tensor([row[k:] + row[:k] for row in corners for k in range(3)], dtype=torch.float64)


TETRAHEDRON = torch.tensor([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], dtype=torch.float64)
BEST_ON_SPHERE = {  # largest minimal distance of N points on S^2 (Tammes), and points that have it
    2: (2.0, circle(2)),
    3: (math.sqrt(3), circle(3)),
    4: (math.sqrt(8 / 3), TETRAHEDRON),
    5: (math.sqrt(2), octahedron()[:5]),
    6: (math.sqrt(2), octahedron()),
    12: (4 / math.sqrt(10 + 2 * math.sqrt(5)), icosahedron()),
}


@looped("count", BEST_ON_SPHERE)
def test_separation_of_the_best_points_on_the_sphere_is_their_known_distance_squared(count: int) -> None:
    distance, points = BEST_ON_SPHERE[count]
    assert len(points) == count
    assert separation(points).item() == pytest.approx(-(distance**2), rel=1e-14)


@looped("count", BEST_ON_SPHERE)
def test_no_perturbation_of_the_best_points_is_better_separated(count: int) -> None:
    distance, points = BEST_ON_SPHERE[count]
    for seed in range(50):
        for size in (1e-3, 0.1, 1.0):
            assert separation(points + size * gaussian(count, 3, seed)) >= -(distance**2) - 1e-12


@looped("count", [2, 3, 4, 6])
def test_descending_the_separation_reaches_the_best_distance(count: int) -> None:
    weight = gaussian(count, 3)
    for step in range(400):
        weight = weight - 0.3 * 0.983**step * gradient(separation, weight)
        weight = weight / weight.norm(dim=1, keepdim=True)
    assert math.sqrt(-separation(weight)) == pytest.approx(BEST_ON_SPHERE[count][0], abs=2e-3)


@looped("count", [2, 3, 4, 8, 20])
def test_separation_of_a_simplex_has_its_closed_form(count: int) -> None:
    assert separation(simplex(count)).item() == pytest.approx(-2 * count / (count - 1), rel=1e-14)


def test_separation_in_half_space_is_that_of_the_mirrored_rows_without_their_own_pairs() -> None:
    weight = gaussian(6, 4)
    cosine = torch.nn.functional.normalize(weight) @ torch.nn.functional.normalize(weight).T
    largest = cosine.fill_diagonal_(0.0).abs().max().item()
    assert separation(weight, half_space=True).item() == pytest.approx(-(2 - 2 * largest), rel=1e-13)
    assert separation(with_mirror_images(torch.eye(3))[:4], half_space=True).item() == pytest.approx(0, abs=1e-7)


@BOTH_SPACES
def test_separation_moves_the_closest_pair_only(half_space: bool) -> None:
    weight = gaussian(7, 5)
    weight[4] = weight[1] + 0.1 * gaussian(1, 5, seed=1)[0]
    if half_space:
        weight[4] *= -3
    moved = gradient(separation, weight, half_space=half_space).norm(dim=1) > 0
    assert moved.tolist() == [False, True, False, False, True, False, False]


def test_pairs_that_tie_share_the_gradient_of_the_separation() -> None:
    square = torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0, -1]], dtype=torch.float64)
    lone = gradient(separation, square[:2])
    # Every corner is pulled to both sides alike; without the fourth, the outer ones by half of a lone pair's force.
    torch.testing.assert_close(gradient(separation, square), torch.zeros_like(square))
    torch.testing.assert_close(gradient(separation, square[:3])[0], lone[0] / 2)


DETERMINANTS = {
    ("simplex", 3): -0.007215405, ("simplex", 4): -0.026707415, ("simplex", 8): -0.213159627,
    ("frame", 3): -0.051282150, ("frame", 4): -0.095487420, ("frame", 8): -0.351426281,
}  # fmt: skip


@looped(("kind", "count"), DETERMINANTS)
def test_gram_determinant_has_its_closed_forms(kind: str, count: int) -> None:
    points = simplex(count) if kind == "simplex" else torch.eye(count, dtype=torch.float64)
    value = gram_determinant(points, epsilon=0.0)
    assert value.item() == pytest.approx(-DETERMINANTS[kind, count], abs=6e-10)


@BOTH_SPACES
@looped("epsilon", [0.0, 1e-6, 0.1])
def test_gram_determinant_is_that_of_the_kernel_written_out(epsilon: float, half_space: bool) -> None:
    weight = gaussian(6, 9)
    rows = with_mirror_images(weight) if half_space else weight
    unit = rows / rows.norm(dim=1, keepdim=True)
    kernel = (-(unit[:, None] - unit[None]).square().sum(2)).exp() + epsilon * torch.eye(len(rows), dtype=torch.float64)
    value = gram_determinant(weight, half_space=half_space, epsilon=epsilon)
    assert value.item() == pytest.approx(-kernel.logdet().item(), rel=1e-12)


@looped("dtype", [torch.float32, torch.float64])
def test_gram_determinant_of_a_nearly_singular_kernel_is_exact(dtype: torch.dtype) -> None:
    # 60 rows of three dimensions, apart enough for a float32 product, whose error is above the kernel's eigenvalues.
    height = 1 - 0.85 * (torch.arange(60, dtype=torch.float64) + 0.5) / 60
    turn = torch.arange(60) * math.pi * (3 - math.sqrt(5))
    radius = (1 - height.square()).sqrt()
    weight = torch.stack([radius * turn.cos(), radius * turn.sin(), height], 1).to(dtype)
    unit = weight.double() / weight.double().norm(dim=1, keepdim=True)
    assert (unit @ unit.T).fill_diagonal_(0.0).abs().max() < 0.97
    kernel = (-(unit[:, None] - unit[None]).square().sum(2)).exp() + 1e-6 * torch.eye(60, dtype=torch.float64)
    expected = -torch.linalg.eigvalsh(kernel).log().sum().item()
    assert gram_determinant(weight).item() == pytest.approx(expected, rel=1e-7)


@BOTH_SPACES
def test_polarization_is_the_mean_inverse_square_distance_from_the_pole(half_space: bool) -> None:
    weight, pole = gaussian(6, 4), pole_of(4)
    rows = with_mirror_images(weight) if half_space else weight
    squared = (rows / rows.norm(dim=1, keepdim=True) - pole / pole.norm()).square().sum(1)
    assert polarized(weight, half_space=half_space).item() == pytest.approx(-(1 / squared).mean().item(), rel=1e-13)


@BOTH_SPACES
@looped("gamma", [0.5, 10.0, 1e4])
def test_covering_is_the_soft_minimum_of_the_squared_distances_from_the_pole(gamma: float, half_space: bool) -> None:
    weight, pole = gaussian(6, 4), pole_of(4)
    rows = with_mirror_images(weight) if half_space else weight
    squared = (rows / rows.norm(dim=1, keepdim=True) - pole / pole.norm()).square().sum(1)
    value = covering(weight, pole, gamma=gamma, half_space=half_space).item()
    least = squared.min().item()
    if gamma < 1e4:  # beyond, the exponentials written out underflow
        assert value == pytest.approx(-(-gamma * squared).exp().mean().log().item() / gamma, rel=1e-13)
    assert least <= value <= least + math.log(len(rows)) / gamma


def test_relaxed_polarization_of_unit_rows_follows_from_their_distances() -> None:
    unit = torch.nn.functional.normalize(gaussian(7, 4))
    expected = 7**2 - torch.pdist(unit).square().sum().item()
    assert relaxed_polarization(unit).item() ** 2 == pytest.approx(expected, rel=1e-13)


def test_relaxed_polarization_takes_the_rows_as_long_as_they_are() -> None:
    assert relaxed_polarization(torch.tensor([[3.0, 0], [0, 4]])).item() == pytest.approx(5)


def test_relaxed_polarization_cannot_separate_duplicates_that_lie_symmetrically() -> None:
    for centred in (TETRAHEDRON, octahedron(), with_mirror_images(torch.tensor([[1.0, 2, 3], [1, 2, 3]]))):
        assert relaxed_polarization(centred).item() == 0
        assert not gradient(relaxed_polarization, centred).any()
    assert separation(centred).item() == pytest.approx(0, abs=1e-6)


@EVERYTHING
def test_objectives_read_nothing_back(objective: Objective, half_space: bool) -> None:
    with FakeTensorMode(allow_non_fake_inputs=True):
        weight = torch.empty(5, 3, requires_grad=True)
        objective(weight, half_space=half_space).backward()
    assert weight.grad is not None and weight.grad.shape == (5, 3)


@EVERYTHING
def test_gradients_equal_finite_differences(objective: Objective, half_space: bool) -> None:
    weight = gaussian(5, 4).requires_grad_()
    torch.autograd.gradcheck(lambda rows: objective(rows, half_space=half_space), weight)


@EVERYTHING
def test_objectives_are_invariant_to_rotation_and_order(objective: Objective, half_space: bool) -> None:
    weight = gaussian(6, 4)
    order = [3, 0, 5, 1, 4, 2]
    assert objective(weight[order], half_space=half_space).item() == pytest.approx(
        objective(weight, half_space=half_space).item(), rel=1e-12
    )
    pole = pole_of(4)  # objectives with a pole turn with it: the rotation leaves it where it is
    axis = (pole / pole.norm())[:, None]
    away = gaussian(4, 1, seed=3) - axis * (axis.T @ gaussian(4, 1, seed=3))
    rotation = torch.eye(4, dtype=torch.float64) - 2 * away @ away.T / away.square().sum()
    assert objective(weight @ rotation, half_space=half_space).item() == pytest.approx(
        objective(weight, half_space=half_space).item(), rel=1e-12
    )


@BOTH_SPACES
@DIRECTIONS
def test_objectives_of_directions_are_invariant_to_row_scaling(objective: Objective, half_space: bool) -> None:
    weight = gaussian(6, 4)
    scaled = weight * (3 * gaussian(6, 1, seed=1)).exp()
    assert objective(scaled, half_space=half_space).item() == pytest.approx(
        objective(weight, half_space=half_space).item(), rel=1e-12
    )


@DIRECTIONS
def test_half_space_ignores_the_sign_of_a_row_and_full_space_does_not(objective: Objective) -> None:
    weight = gaussian(6, 4)
    flipped = weight.clone()
    flipped[[1, 2]] *= -1
    for half_space in (True, False):
        same = objective(flipped, half_space=half_space) - objective(weight, half_space=half_space)
        assert (abs(same.item()) < 1e-12) is half_space


DEGENERATE = {
    "duplicates": gaussian(1, 5).repeat(4, 1),
    "antipodes": torch.cat([gaussian(3, 5), -2 * gaussian(3, 5)]),
    "zero row": torch.cat([gaussian(3, 5), torch.zeros(1, 5)]),
    "all zero": torch.zeros(3, 5),
    "tiny rows": gaussian(3, 5) * 1e-7,
    "one neuron": gaussian(1, 5),
    "one zero neuron": torch.zeros(1, 5),
    "on the pole": torch.stack([pole_of(5), -pole_of(5), pole_of(5) + 1e-7]),
}


@looped("dtype", [torch.float64, torch.float32, torch.bfloat16])
@looped("name", DEGENERATE)
@EVERYTHING
def test_degenerate_rows_have_a_finite_value_and_gradient(
    objective: Objective, half_space: bool, name: str, dtype: torch.dtype
) -> None:
    weight = DEGENERATE[name].to(dtype, copy=True).requires_grad_()
    value = objective(weight, half_space=half_space)
    (slope,) = torch.autograd.grad(value, weight)
    assert value.isfinite() and slope.isfinite().all()
    assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert value.shape == () and slope.dtype == dtype


@looped("objective", [separation, gram_determinant])
@BOTH_SPACES
def test_one_neuron_has_no_pair_and_gives_exactly_zero(objective: Objective, half_space: bool) -> None:
    weight = gaussian(1, 4).requires_grad_()
    value = objective(weight, half_space=half_space)
    (slope,) = torch.autograd.grad(value, weight)
    assert value.item() == 0 and not slope.any()


@BOTH_SPACES
@DIRECTIONS
def test_a_zero_row_counts_as_orthogonal_and_gets_no_force(objective: Objective, half_space: bool) -> None:
    weight = torch.zeros(3, 5, dtype=torch.float64)
    weight[:2, :2] = gaussian(2, 2)
    outside = weight.clone()
    outside[2, 4] = 1.0
    if objective in (separation, gram_determinant):
        assert objective(weight, half_space=half_space).item() == pytest.approx(
            objective(outside, half_space=half_space).item(), rel=1e-13
        )
    assert not gradient(objective, weight, half_space=half_space)[2].any()


@EVERYTHING
def test_objectives_ignore_ambient_autocast(objective: Objective, half_space: bool) -> None:
    weight = gaussian(5, 8).float()
    plain = objective(weight, half_space=half_space)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(objective(weight, half_space=half_space), plain)


@EVERYTHING
def test_a_weight_that_is_no_matrix_is_refused(objective: Objective, half_space: bool) -> None:
    for weight in (torch.ones(0, 3), torch.ones(2, 3, dtype=torch.int64)):
        with pytest.raises(ValueError, match=r"weight: expected .*\(N, D\)"):
            objective(weight, half_space=half_space)


@looped("pole", [torch.ones(4), torch.ones(1, 3), torch.ones(3, dtype=torch.int64)])
def test_a_pole_of_another_kind_is_refused(pole: torch.Tensor) -> None:
    for function in (polarization, covering):
        with pytest.raises(ValueError, match=r"pole_D: expected .* \(3,\), got"):
            function(torch.eye(3), pole)


def test_other_settings_out_of_range_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="gamma: expected a finite number > 0, got -1"):
        covering(torch.eye(3), torch.ones(3), gamma=-1.0)
    with pytest.raises(ValueError, match=r"epsilon: expected a finite number >= 0, got -0\.1"):
        gram_determinant(torch.eye(3), epsilon=-0.1)
