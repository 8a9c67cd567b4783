"""Minimizing the energy from random filters reaches the known optima."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from gan_mhe.sphere import hyperspherical_energy
from tests.support.looped import looped

POWERS = [0.0, 1.0, 2.0]

# Minimal Σ_{i<j} f_s of N points on S^2 for s = 0, 1 (Thomson's problem), 2.
THOMSON = {
    2: (-0.693147181, 0.500000000, 0.25),
    3: (-1.647918433, 1.732050808, 1),
    4: (-2.942487759, 3.674234614, 2.25),
    5: (-4.420507155, 6.474691495, 4.25),
    6: (-6.238324625, 9.985281374, 6.75),
    7: (-8.182477864, 14.452977414, 10.25),
    8: (-10.428017781, 19.675287861, 14.336791084),
    9: (-12.887752726, 25.759986531, 19.252868784),
    10: (-15.563123389, 32.716949460, 25.041359722),
    11: (-18.420479721, 40.596450508, 31.834721637),
    12: (-21.606145230, 49.165253058, 39),
    24: (-75.213984789, 223.347074052, 205.658437998),
}


def descend(count: int, dim: int, seed: int, **options: object) -> tuple[float, np.ndarray]:
    """Lowest energy that L-BFGS finds from one Gaussian start, and the unit rows there."""
    start = torch.randn(count, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

    def value_and_gradient(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weight = torch.from_numpy(flat.reshape(count, dim).copy()).requires_grad_()
        energy = hyperspherical_energy(weight, **options)
        energy.backward()
        assert weight.grad is not None
        return energy.item(), weight.grad.numpy().ravel()

    tight = {"maxiter": 2000, "ftol": 1e-15, "gtol": 1e-10}
    result = minimize(value_and_gradient, start.numpy().ravel(), jac=True, method="L-BFGS-B", options=tight)
    rows = result.x.reshape(count, dim)
    return result.fun, rows / np.linalg.norm(rows, axis=1, keepdims=True)


def cosines_between(unit: np.ndarray) -> np.ndarray:
    return np.abs(unit @ unit.T)[~np.eye(len(unit), dtype=bool)]


@looped("s", POWERS)
@looped("n", THOMSON)
def test_points_on_the_sphere_reach_the_thomson_energy(n: int, s: float) -> None:
    for seed in (0, 1):
        energy, _ = descend(n, 3, seed, s=s, reduction="sum")
        assert energy == pytest.approx(THOMSON[n][POWERS.index(s)], abs=1e-6)


@looped("distance", ["euclidean", "geodesic"])
@looped("s", POWERS)
def test_half_space_filters_become_orthogonal(s: float, distance: str) -> None:
    for seed in (0, 1):
        _, unit = descend(4, 6, seed, s=s, distance=distance, half_space=True)
        assert cosines_between(unit).max() < 1e-6


def test_full_space_filters_do_not_become_orthogonal() -> None:
    _, unit = descend(4, 6, 0)
    np.testing.assert_allclose(cosines_between(unit), 1 / 3, atol=1e-6)


@looped("s", POWERS)
def test_three_lines_in_the_plane_become_a_hexagon(s: float) -> None:
    _, unit = descend(3, 2, 0, s=s, half_space=True)
    np.testing.assert_allclose(cosines_between(unit), 0.5, atol=1e-6)


@looped("s", POWERS)
def test_six_lines_in_space_become_the_axes_of_the_icosahedron(s: float) -> None:
    _, unit = descend(6, 3, 0, s=s, half_space=True)
    np.testing.assert_allclose(cosines_between(unit), 5**-0.5, atol=1e-6)


def test_geodesic_log_energy_of_four_filters_reaches_two_opposite_pairs() -> None:
    energies = [descend(4, 6, seed, distance="geodesic")[0] for seed in range(12)]
    assert min(energies) == pytest.approx(-0.682631765, abs=1e-6)
    assert max(energies) == pytest.approx(-0.647434724, abs=1e-6)  # the simplex, a local minimum


@looped(("s", "expected"), [(1.0, 0.523386687), (2.0, 0.273933624)])
def test_geodesic_riesz_energy_of_four_filters_reaches_the_simplex(s: float, expected: float) -> None:
    for seed in range(4):
        assert descend(4, 6, seed, s=s, distance="geodesic")[0] == pytest.approx(expected, abs=1e-8)
