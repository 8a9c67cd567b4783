"""Random projections and projected energies against theory and the values that the authors logged."""

import math

import pytest
import torch
from scipy.special import gamma, polygamma, psi

from gan_mhe.sphere import hyperspherical_energy, projected_energies
from gan_mhe.sphere.geometry import cosines

POWERS = [0.0, 1.0, 2.0]


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rotation(dim: int, seed: int = 0) -> torch.Tensor:
    return torch.linalg.qr(gaussian(dim, dim, seed=seed)).Q


def uniform_energy(s: float, dim: int) -> float:
    """E f_s(||u - v||) of independent uniform points on the sphere S^dim."""
    if s == 0:
        return -math.log(2) + (psi(dim) - psi(dim / 2)) / 2
    scale = 2 ** (dim - s - 1) / math.sqrt(math.pi)
    return scale * gamma((dim + 1) / 2) * gamma((dim - s) / 2) / gamma(dim - s / 2)


def uniform_variance(s: float, dim: int) -> float:
    if s == 0:
        return (polygamma(1, dim / 2) - polygamma(1, dim)) / 4
    return uniform_energy(2 * s, dim) - uniform_energy(s, dim) ** 2


@pytest.mark.parametrize("dim", [30, 40])
def test_projected_cosines_of_orthogonal_rows_have_variance_one_over_k(dim: int) -> None:
    cosine = cosines([gaussian(20_000, dim, 2).mT])  # orthogonal rows project to independent Gaussian ones
    products = cosine.view(-1, 2, 2)[:, 0, 1]
    error = 1 / dim * math.sqrt(2 / len(products))
    assert products.mean().item() == pytest.approx(0, abs=4 * math.sqrt(1 / dim / len(products)))
    assert products.square().mean().item() == pytest.approx(1 / dim, abs=4 * error)


@pytest.mark.parametrize("dim", [30, 40])
@pytest.mark.parametrize("s", POWERS)
def test_projected_orthonormal_rows_have_the_energy_of_uniform_points(s: float, dim: int) -> None:
    count, copies = 10, 500
    energy = projected_energies([rotation(20)[:count]], [gaussian(copies, dim, 20, seed=1)], s=s)
    error = math.sqrt(uniform_variance(s, dim - 1) / (copies * count * (count - 1) / 2))
    assert energy.item() == pytest.approx(uniform_energy(s, dim - 1), abs=4 * error)


@pytest.mark.parametrize("correlation", [-0.8, 0.6])
def test_projected_cosine_is_shortened_by_its_known_bias(correlation: float) -> None:
    dim, copies = 30, 200_000
    pair = torch.tensor([[1, 0], [correlation, math.sqrt(1 - correlation**2)]], dtype=torch.float64)
    products = cosines([pair @ gaussian(copies, dim, 2).mT]).view(-1, 2, 2)[:, 0, 1]
    spread = 1 - correlation**2
    error = 4 * spread / math.sqrt(dim * copies) + 2 / dim**2  # of sampling, and of the next term
    bias = (products.mean() - correlation).item()
    assert bias == pytest.approx(-correlation * spread / (2 * dim), abs=error)
    assert abs(bias) > error


@pytest.mark.parametrize(("dim", "epsilon", "bound"), [(400, 0.3, 0.956), (1000, 0.2, 0.973)])
@pytest.mark.parametrize("correlation", [-0.5, 0.0, 0.9])
def test_projected_cosine_stays_within_the_theorems_limits(
    correlation: float, dim: int, epsilon: float, bound: float
) -> None:
    assert (1 - 2 * math.exp(-dim * epsilon**2 / 8)) ** 2 == pytest.approx(bound, abs=1e-3)
    pair = torch.tensor([[1, 0], [correlation, math.sqrt(1 - correlation**2)]], dtype=torch.float64)
    products = cosines([pair @ gaussian(1000, dim, 2).mT]).view(-1, 2, 2)[:, 0, 1]
    inside = ((correlation - epsilon) / (1 + epsilon) < products) & (products < (correlation + epsilon) / (1 - epsilon))
    assert inside.double().mean().item() >= bound


# Neurons and fan-in of the projected layers of the official classification network (all but the first).
OFFICIAL_LAYERS = [(64, 576), (64, 576), (128, 576), (128, 1152), (128, 1152), (256, 1152), (256, 2304), (256, 2304),
                   (256, 4096)]  # fmt: skip


def half_space_mean(count: int, dim: int) -> float:
    """Expected mean pair energy of count uniform points of S^(dim-1) and their opposites, s = 2."""
    return (2 * (count - 1) * uniform_energy(2, dim - 1) + 1 / 4) / (2 * count - 1)


@pytest.mark.parametrize(("dim", "logged", "closed_form"), [(40, 5.135, 5.131), (30, 5.180, 5.176)])
def test_random_layers_start_at_the_energy_that_the_authors_logged(dim: int, logged: float, closed_form: float) -> None:
    expected = half_space_mean(64, 27) + sum(half_space_mean(count, dim) for count, _ in OFFICIAL_LAYERS)
    assert expected == pytest.approx(closed_form, abs=5e-4)
    weights = [gaussian(*shape, seed=seed).float() for seed, shape in enumerate(OFFICIAL_LAYERS)]
    projections = [gaussian(1, dim, fan_in, seed=20 + seed).float() for seed, (_, fan_in) in enumerate(OFFICIAL_LAYERS)]
    energy = hyperspherical_energy(gaussian(64, 27, seed=40), s=2, half_space=True)
    energy = energy + projected_energies(weights, projections, s=2, half_space=True).sum()
    assert energy.item() == pytest.approx(logged, abs=2e-3)
    assert energy.item() == pytest.approx(expected, abs=8e-3)  # random filters are not quite orthogonal
