"""Invariances of the energy, and its lower bounds."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gan_mhe.sphere import hyperspherical_energy
from tests.support.looped import looped

INSTANCES = settings(deadline=None, derandomize=True, max_examples=25)
POWERS = [0.0, 1.0, 2.0]
DISTANCES = ["euclidean", "geodesic"]
BOTH_SPACES = looped("half_space", [False, True])
BOTH_DISTANCES = looped("distance", DISTANCES)
ALL_POWERS = looped("s", POWERS)

options = st.fixed_dictionaries(
    {"s": st.floats(0, 3), "distance": st.sampled_from(DISTANCES), "half_space": st.booleans()}
)
counts, dims, seeds = st.integers(2, 10), st.integers(3, 12), st.integers(0, 10**6)


def gaussian(count: int, dim: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rotation(dim: int, seed: int) -> torch.Tensor:
    return torch.linalg.qr(gaussian(dim, dim, seed))[0]


def row_scales(count: int, seed: int) -> torch.Tensor:
    return (3 * gaussian(count, 1, seed)).exp()


@BOTH_SPACES
@BOTH_DISTANCES
@ALL_POWERS
class TestToRounding:
    """Float64, 1e-12, on filters in general position."""

    def check(self, one: torch.Tensor, other: torch.Tensor, s: float, distance: str, half_space: bool) -> None:
        energies = [hyperspherical_energy(w, s=s, distance=distance, half_space=half_space) for w in (one, other)]
        torch.testing.assert_close(energies[0], energies[1], rtol=0, atol=1e-12)

    def test_energy_is_invariant_to_positive_row_scaling(self, s: float, distance: str, half_space: bool) -> None:
        self.check(gaussian(6, 5), gaussian(6, 5) * row_scales(6, 1), s, distance, half_space)

    def test_energy_is_invariant_to_a_common_rotation(self, s: float, distance: str, half_space: bool) -> None:
        self.check(gaussian(6, 5), gaussian(6, 5) @ rotation(5, 1), s, distance, half_space)

    def test_energy_is_invariant_to_the_order_of_neurons(self, s: float, distance: str, half_space: bool) -> None:
        self.check(gaussian(6, 5), gaussian(6, 5)[[3, 0, 5, 1, 4, 2]], s, distance, half_space)

    def test_energy_is_invariant_to_spectral_normalization(self, s: float, distance: str, half_space: bool) -> None:
        weight = gaussian(6, 5)
        self.check(weight, weight / torch.linalg.matrix_norm(weight, 2), s, distance, half_space)


@BOTH_DISTANCES
@ALL_POWERS
def test_half_space_energy_is_invariant_to_flipping_single_filters(s: float, distance: str) -> None:
    weight = gaussian(6, 5)
    flipped = weight * torch.tensor([[1.0], [-1], [1], [-1], [-1], [1]])
    energies = [hyperspherical_energy(w, s=s, distance=distance, half_space=True) for w in (weight, flipped)]
    torch.testing.assert_close(energies[0], energies[1], rtol=0, atol=1e-12)


@BOTH_DISTANCES
@ALL_POWERS
def test_full_space_energy_depends_on_the_sign_of_a_filter(s: float, distance: str) -> None:
    weight = gaussian(6, 5)
    flipped = weight * torch.tensor([[1.0], [-1], [1], [1], [1], [1]])
    energies = [hyperspherical_energy(w, s=s, distance=distance) for w in (weight, flipped)]
    assert abs(energies[0] - energies[1]) > 1e-3


@INSTANCES
@given(counts, dims, seeds, options)
def test_energy_depends_on_nothing_but_the_set_of_directions(n: int, d: int, seed: int, options: dict) -> None:
    weight = gaussian(n, d, seed)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    moved = (weight * row_scales(n, seed + 1) @ rotation(d, seed + 2))[order]
    if options["half_space"]:
        moved = moved * gaussian(n, 1, seed + 3).sign()
    energies = [hyperspherical_energy(w, **options).item() for w in (weight, moved)]
    assert energies[0] == pytest.approx(energies[1], rel=1e-9, abs=1e-12)


@INSTANCES
@given(counts, st.integers(1, 12), seeds, st.floats(0, 4))
def test_no_configuration_is_below_the_simplex(n: int, d: int, seed: int, s: float) -> None:
    energy = hyperspherical_energy(gaussian(n, d, seed), s=s).item()
    squared = 2 * n / (n - 1)
    simplex = -math.log(squared) / 2 if s == 0 else squared ** (-s / 2)
    assert energy >= simplex - 1e-12


@INSTANCES
@given(counts, st.integers(0, 5), seeds, st.sampled_from(POWERS), st.sampled_from(DISTANCES))
def test_no_configuration_is_below_the_orthonormal_frame_in_half_space(
    n: int, extra: int, seed: int, s: float, distance: str
) -> None:
    weights = [gaussian(n, n + extra, seed), torch.eye(n, dtype=torch.float64)]
    energy, frame = (hyperspherical_energy(w, s=s, distance=distance, half_space=True).item() for w in weights)
    assert energy >= frame - 1e-12


@INSTANCES
@given(counts, dims, seeds, options)
def test_geodesic_energy_is_below_the_euclidean_one(n: int, d: int, seed: int, options: dict) -> None:
    weight = gaussian(n, d, seed)
    geodesic, euclidean = (
        hyperspherical_energy(weight, **(options | {"distance": distance})).item()
        for distance in ("geodesic", "euclidean")
    )
    assert geodesic <= euclidean  # the arc is longer than the chord; equal at s = 1e-300
