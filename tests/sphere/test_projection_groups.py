"""Group CoMHE: energies within groups of coordinates, against block-selecting projections."""

import pytest
import torch

from gan_mhe.sphere import group_energies, groups_of, hyperspherical_energies, projected_energies

POWERS = [0.0, 1.0, 2.0]
DISTANCES = ["euclidean", "geodesic"]
SETTINGS = pytest.mark.parametrize(
    "options",
    [
        {"s": s, "distance": distance, "half_space": half_space}
        for s in POWERS
        for distance in DISTANCES
        for half_space in (False, True)
    ],
)


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_groups_are_blocks_of_the_ordered_coordinates_without_the_remainder() -> None:
    weight = torch.arange(14.0).view(2, 7)
    groups = groups_of(weight, torch.tensor([6, 0, 3, 5, 2, 1, 4]), 3)
    assert groups.tolist() == [[[6, 0], [13, 7]], [[3, 5], [10, 12]], [[2, 1], [9, 8]]]


def test_group_energies_are_those_of_block_selecting_projections() -> None:
    weights = [gaussian(6, 7), gaussian(4, 9, seed=1)]
    orders = [torch.tensor([6, 0, 3, 5, 2, 1, 4]), torch.arange(9).flip(0)]
    energies = group_energies(weights, orders, groups=3, s=1.0, half_space=True)
    selections = [
        torch.eye(dim, dtype=torch.float64)[order[: 3 * size]].view(3, size, dim)
        for order, dim, size in zip(orders, (7, 9), (2, 3), strict=True)
    ]
    expected = projected_energies(weights, selections, s=1.0, half_space=True)
    torch.testing.assert_close(energies, expected, rtol=1e-13, atol=0)


@SETTINGS
def test_one_group_gives_the_energy_of_all_coordinates(options: dict) -> None:
    weights = [gaussian(6, 7), gaussian(4, 9, seed=1)]
    orders = [torch.randperm(dim, generator=torch.Generator().manual_seed(0)) for dim in (7, 9)]
    energies = group_energies(weights, orders, groups=1, **options)
    torch.testing.assert_close(energies, hyperspherical_energies(weights, **options), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("groups", [0, -1, 6])
def test_number_of_groups_out_of_range_is_refused(groups: int) -> None:
    with pytest.raises(ValueError, match=f"groups: expected a number from 1 to D = 5, got {groups}"):
        group_energies([torch.ones(2, 5)], [torch.arange(5)], groups=groups)


@pytest.mark.parametrize("order", [torch.arange(4), torch.arange(5.0), torch.arange(5)[None]])
def test_order_of_another_kind_is_refused_with_its_shape(order: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"order: expected an integer tensor of shape \(5,\), got .*shape \("):
        groups_of(torch.ones(2, 5), order, 2)
