"""Unit rows, squared distances, angles and the smallest angle, against difference forms and known configurations."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gan_mhe.sphere.geometry import angles, chords, closest_angle, cosines, pair_count, pair_sums, squared_distances
from tests.support.looped import looped

INSTANCES = settings(deadline=None, derandomize=True, max_examples=30)


def gaussian(count: int, dim: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rows_at_angle(theta: float, dim: int, seed: int) -> torch.Tensor:
    """Two float32 rows theta apart, as float32 rounding leaves them."""
    first, second = gaussian(2, dim, seed)
    first = first / first.norm()
    second = second - (second @ first) * first
    rows = torch.stack([first, math.cos(theta) * first + math.sin(theta) * second / second.norm()])
    return rows.float()


def unit_rows(weight: torch.Tensor) -> torch.Tensor:
    return weight / weight.norm(dim=1, keepdim=True)


def matrix(values: torch.Tensor) -> torch.Tensor:
    count = math.isqrt(len(values))
    return values.view(count, count)


def test_cosines_of_several_weights_are_concatenated() -> None:
    weights = gaussian(4, 3), gaussian(1, 7), gaussian(6, 2)
    together = cosines(weights).split([16, 1, 36])
    assert all(map(torch.equal, together, (cosines([weight]) for weight in weights)))


def test_cosines_of_a_stack_are_those_of_its_weights_concatenated() -> None:
    stack, single = gaussian(12, 5).view(3, 4, 5), gaussian(6, 2)
    stack[1, 2] = 0
    together = cosines([stack, single])
    expected = torch.cat([cosines([weight]) for weight in (*stack, single)])
    torch.testing.assert_close(together, expected, rtol=0, atol=1e-15)


def test_chords_and_pair_sums_find_the_diagonals_of_stacks() -> None:
    stack, single = gaussian(12, 5).view(3, 4, 5), gaussian(6, 2)
    squared = chords(cosines([stack, single]), [4, 6], [3, 1])
    expected = torch.cat([squared_distances(weight).flatten() for weight in (*stack, single)])
    torch.testing.assert_close(squared, expected, rtol=0, atol=1e-15)
    sums = pair_sums(squared, [4, 6], [3, 1])
    alone = [squared_distances(weight).triu(1).sum() for weight in (*stack, single)]
    torch.testing.assert_close(torch.stack(sums), torch.stack([sum(alone[:3]), alone[3]]), rtol=1e-14, atol=0)


def test_cosines_do_not_depend_on_the_length_of_rows() -> None:
    weight = gaussian(6, 5)
    scale = torch.logspace(-10, 10, 6, dtype=torch.float64)[:, None]
    expected = unit_rows(weight) @ unit_rows(weight).T
    torch.testing.assert_close(matrix(cosines([weight * scale])), expected, rtol=0, atol=4e-15)


def test_cosines_with_an_epsilon_equal_their_formula() -> None:
    weight = gaussian(4, 3)
    shrunk = weight / (weight.square().sum(dim=1, keepdim=True) + 0.5).sqrt()
    torch.testing.assert_close(matrix(cosines([weight], norm_eps=0.5)), shrunk @ shrunk.T, rtol=0, atol=4e-15)


def test_a_row_without_direction_is_orthogonal_to_all_and_gets_no_gradient() -> None:
    weight = gaussian(3, 4)
    weight[0] = 0
    weight[1] *= 1e-13
    weight.requires_grad_()
    cosine = matrix(cosines([weight]))
    cosine.sum().backward()
    assert weight.grad is not None
    assert torch.equal(cosine[:2], torch.zeros(2, 3, dtype=torch.float64))
    assert torch.equal(weight.grad[:2], torch.zeros(2, 4, dtype=torch.float64))


def test_a_row_that_is_not_finite_stays_visible() -> None:
    weight = gaussian(2, 3)
    weight[0, 0] = math.nan
    weight[1, 0] = math.inf
    for rows in (weight, weight.float()):
        assert matrix(cosines([rows])).isnan().any(dim=1).all()


def test_squared_distances_equal_their_difference_form_off_a_diagonal_of_ones() -> None:
    unit = unit_rows(gaussian(7, 5))
    differences = (unit[:, None] - unit[None]).square().sum(dim=2)
    differences.fill_diagonal_(1)
    torch.testing.assert_close(squared_distances(unit), differences, rtol=0, atol=4e-15)


@looped(("theta", "bound"), [(1e-1, 1e-12), (1e-2, 1e-10), (1e-3, 1e-8)])
def test_squared_distance_of_float32_rows_keeps_its_stated_relative_error(theta: float, bound: float) -> None:
    for seed in range(20):
        rows = rows_at_angle(theta, 4608, seed)
        unit = unit_rows(rows.double())
        exact = (unit[0] - unit[1]).square().sum()
        assert math.sqrt(exact) == pytest.approx(theta, rel=1e-3)
        assert abs(squared_distances(rows)[0, 1] / exact - 1) < bound


@looped("theta", [0.24, 0.26, 1.5, math.pi - 0.26, math.pi - 0.24])
def test_squared_distance_of_far_float32_rows_keeps_its_stated_relative_error(theta: float) -> None:
    for seed in range(20):
        rows = rows_at_angle(theta, 4608, seed)
        unit = unit_rows(rows.double())
        exact = torch.stack([(unit[0] - unit[1]).square().sum(), (unit[0] + unit[1]).square().sum()])
        squared = squared_distances(rows)[0, 1]
        assert (torch.stack([squared, 4 - squared]) / exact - 1).abs().max() < 2e-5


@looped("theta", [1e-9, 1e-4, 1.0, math.pi / 2, 3.0])
def test_angles_invert_the_chord(theta: float) -> None:
    squared = torch.tensor((2 * math.sin(theta / 2)) ** 2, dtype=torch.float64)
    assert angles(squared).item() == pytest.approx(theta, rel=1e-14)


def test_angles_reach_both_ends_with_finite_gradients_even_for_rounded_off_distances() -> None:
    squared = torch.tensor([-1e-15, 0.0, 4.0, 4 + 1e-15], dtype=torch.float64, requires_grad=True)
    theta = angles(squared)
    theta.sum().backward()
    torch.testing.assert_close(
        theta.detach(), torch.tensor([0, 0, math.pi, math.pi], dtype=torch.float64), rtol=0, atol=2e-15
    )
    assert squared.grad is not None and squared.grad.isfinite().all()


def test_angle_gradient_is_one_over_twice_its_sine() -> None:
    theta = torch.linspace(0.01, 3.13, 20, dtype=torch.float64)
    squared = (2 - 2 * theta.cos()).requires_grad_()
    angles(squared).sum().backward()
    torch.testing.assert_close(squared.grad, 1 / (2 * theta.sin()), rtol=1e-9, atol=0)


def test_pair_sums_count_each_pair_of_each_matrix_once() -> None:
    matrices = [gaussian(count, count, seed=count) for count in (5, 1, 3)]
    matrices = [values + values.T for values in matrices]
    expected = [sum(m[i, j].item() for i in range(len(m)) for j in range(i + 1, len(m))) for m in matrices]
    found = pair_sums(torch.cat([m.flatten() for m in matrices]), [5, 1, 3])
    assert [value.item() for value in found] == pytest.approx(expected, abs=1e-14)
    assert pair_sums(torch.ones(25), [5])[0].item() == pair_count(5) == 10


@INSTANCES
@given(st.integers(1, 12), st.integers(1, 9), st.integers(0, 10**6))
def test_squared_distances_of_all_pairs_sum_to_n_squared_less_the_resultant(n: int, d: int, seed: int) -> None:
    unit = unit_rows(gaussian(n, d, seed))
    resultant = unit.sum(dim=0).square().sum().item()
    assert pair_sums(squared_distances(unit).flatten(), [n])[0].item() == pytest.approx(n**2 - resultant, abs=1e-11)


@INSTANCES
@given(st.integers(1, 12), st.integers(1, 9), st.integers(0, 10**6))
def test_cosines_obey_the_welch_bound(n: int, d: int, seed: int) -> None:
    cosines = 1 - squared_distances(gaussian(n, d, seed)) / 2
    cosines.fill_diagonal_(1)
    assert cosines.square().sum().item() >= n**2 / d - 1e-10


def test_welch_bound_is_met_by_an_orthonormal_basis_repeated() -> None:
    cosines = 1 - squared_distances(torch.eye(4, dtype=torch.float64).repeat(2, 1)) / 2
    cosines.fill_diagonal_(1)
    assert cosines.square().sum().item() == pytest.approx(8**2 / 4, abs=1e-12)


def smallest_angle(weight: torch.Tensor) -> torch.Tensor:
    return closest_angle(squared_distances(weight))


def test_smallest_angle_is_found_among_unequal_ones() -> None:
    turn = torch.tensor([0.0, 0.7, 2.0, 2.3, 5.0], dtype=torch.float64)
    weight = torch.stack([turn.cos(), turn.sin()], dim=1) * torch.tensor([[1.0], [3], [0.1], [20], [5]])
    assert smallest_angle(weight).item() == pytest.approx(0.3, abs=1e-14)


@looped(("weight", "expected"), [
    (torch.eye(3), math.pi / 2),
    (torch.tensor([[1.0, 2], [-2, -4]]), math.pi),
    (torch.tensor([[1.0, 2, 5], [2, 4, 10]]), 0.0),
    (torch.tensor([[1.0, 0], [0, 0]]), math.pi / 2),
    (torch.tensor([[1.0, 0]]), math.pi),
])  # fmt: skip
def test_smallest_angle_of_special_rows(weight: torch.Tensor, expected: float) -> None:
    angle = smallest_angle(weight)
    assert angle.dtype == torch.float64
    assert angle.item() == pytest.approx(expected, abs=3e-8)


def test_smallest_angle_of_nearly_parallel_float32_rows_is_resolved() -> None:
    weight = rows_at_angle(1e-4, 256, seed=1)
    unit = weight.double() / weight.double().norm(dim=1, keepdim=True)
    expected = 2 * math.asin((unit[0] - unit[1]).norm().item() / 2)
    assert smallest_angle(weight).item() == pytest.approx(expected, abs=1e-10)
