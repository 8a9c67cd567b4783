"""Energies that are known in closed form: uniform directions, simplex, frames, polytopes, circle, Thomson points."""

import math
from itertools import product

import pytest
import torch
from scipy.integrate import quad
from scipy.special import digamma, gammaln, polygamma, sici

from gan_mhe.sphere import hyperspherical_energy
from tests.support.looped import looped

POWERS = [0.0, 1.0, 2.0]
GOLDEN = (1 + math.sqrt(5)) / 2
INF = math.inf

# d, then the mean pair energy of independent uniform directions on S^d: Euclidean and geodesic s = 0, 1, 2.
UNIFORM = [
    (1, (0.0, INF, INF), (-0.144730, INF, INF)),
    (2, (-0.19314718, 1.0, INF), (-0.320591, 0.925969, INF)),
    (3, (-0.25, 0.84882636, 1.0), (-0.370436, 0.775929, 0.902823)),
    (4, (-0.27648051, 0.8, 0.75), (-0.393195, 0.727697, 0.653434)),
    (7, (-0.30833333, 0.75255255, 0.6), (-0.420097, 0.681028, 0.504231)),
    (26, (-0.33677343, 0.71779118, 0.52083333), (-0.443606, 0.647027, 0.425838)),
    (29, (-0.33780436, 0.71663913, 0.51851852), (-0.444448, 0.645904, 0.423552)),
    (39, (-0.34008118, 0.71411874, 0.51351351), (-0.446306, 0.643448, 0.418612)),
    (575, (-0.34613843, 0.70756889, 0.50087260), (-0.451230, 0.637069, 0.406145)),
    (2303, (-0.34646501, 0.70722198, 0.50021730), (-0.451495, 0.636732, 0.405499)),
]
UNIFORM_CASES = [
    (d, s, distance, value)
    for d, euclidean, geodesic in UNIFORM
    for distance, values in (("euclidean", euclidean), ("geodesic", geodesic))
    for s, value in zip(POWERS, values, strict=True)
    if value < INF
]


def pair_at(theta: float) -> torch.Tensor:
    return torch.tensor([[1, 0], [math.cos(theta), math.sin(theta)]], dtype=torch.float64)


def uniform_moment(d: int, s: float, distance: str, power: int = 1) -> float:
    """E[f^power] for the angle of two uniform directions on S^d, whose density is that of sin(θ)^(d-1)."""

    def integrand(theta: float) -> float:
        energy = hyperspherical_energy(pair_at(theta), s=s, distance=distance).item()
        return energy**power * math.exp(log_norm + (d - 1) * math.log(math.sin(theta)))

    log_norm = gammaln((d + 1) / 2) - gammaln(d / 2) - math.log(math.pi) / 2
    width = min(math.pi / 2, 12 / math.sqrt(d))
    low, middle, high = math.pi / 2 - width, math.pi / 2, math.pi / 2 + width
    parts = [quad(integrand, a, b, epsabs=1e-10, epsrel=1e-9) for a, b in ((low, middle), (middle, high))]
    return parts[0][0] + parts[1][0]


def closed_form(d: int, s: float) -> float:
    if s == 0:
        return -math.log(2) + (digamma(d) - digamma(d / 2)) / 2
    log_value = (d - s - 1) * math.log(2) + gammaln((d + 1) / 2) + gammaln((d - s) / 2) - gammaln(d - s / 2)
    return math.exp(log_value) / math.sqrt(math.pi)


def variance(d: int, s: float) -> float:
    return (polygamma(1, d / 2) - polygamma(1, d)) / 4 if s == 0 else closed_form(d, 2 * s) - closed_form(d, s) ** 2


@looped(("d", "s", "distance", "value"), UNIFORM_CASES)
def test_energy_integrated_over_uniform_directions_is_the_table(d: int, s: float, distance: str, value: float) -> None:
    tolerance = 6e-9 if distance == "euclidean" else 6e-7  # the digits of the table
    assert uniform_moment(d, s, distance) == pytest.approx(value, abs=tolerance)
    if distance == "euclidean":
        assert closed_form(d, s) == pytest.approx(value, abs=tolerance)


def test_uniform_geodesic_energy_on_the_sphere_is_half_the_sine_integral_of_pi() -> None:
    assert uniform_moment(2, 1.0, "geodesic") == pytest.approx(sici(math.pi)[0] / 2, abs=1e-8)


@looped("distance", ["euclidean", "geodesic"])
@looped("s", POWERS)
@looped("d", [7, 26, 575])
def test_gaussian_filters_have_the_uniform_energy(d: int, s: float, distance: str) -> None:
    count = 256
    mean = uniform_moment(d, s, distance)
    if distance == "euclidean":
        spread = variance(d, s)
        assert uniform_moment(d, s, distance, power=2) - mean**2 == pytest.approx(spread, rel=1e-4)
    else:
        spread = uniform_moment(d, s, distance, power=2) - mean**2
    deviation = math.sqrt(spread / (count * (count - 1) / 2))  # distances of i.i.d. directions are pairwise independent
    generator = torch.Generator().manual_seed(d)
    weight = torch.randn(count, d + 1, generator=generator, dtype=torch.float64)
    energy = hyperspherical_energy(weight, s=s, distance=distance).item()
    assert abs(energy - mean) < 4 * deviation


@looped(("s", "limit"), [(0.0, -math.log(2) / 2), (1.0, 2**-0.5), (2.0, 0.5)])
def test_spread_of_random_filters_follows_the_variance_formula(s: float, limit: float) -> None:
    generator = torch.Generator().manual_seed(0)
    draws = torch.randn(100, 64, 256, generator=generator, dtype=torch.float64)
    energies = torch.stack([hyperspherical_energy(weight, s=s) for weight in draws])
    deviation = math.sqrt(variance(255, s) / (64 * 63 / 2))
    assert 0.75 < energies.std().item() / deviation < 1.3  # +-7% at one standard error
    assert energies.mean().item() == pytest.approx(closed_form(255, s), abs=4 * deviation / 10)
    assert energies.mean().item() == pytest.approx(limit, abs=5e-3)


def euclidean_energy(squared: float, s: float) -> float:
    return -math.log(squared) / 2 if s == 0 else squared ** (-s / 2)


@looped("s", [*POWERS, 5.5])
@looped("n", [2, 3, 4, 8, 33])
def test_simplex_has_its_closed_form(n: int, s: float) -> None:
    weight = torch.eye(n, dtype=torch.float64) - 1 / n
    assert hyperspherical_energy(weight, s=s).item() == pytest.approx(euclidean_energy(2 * n / (n - 1), s), rel=1e-13)


@looped(("s", "expected"), [(0.0, -math.log(2)), (1.0, 0.5), (2.0, 0.25)])
def test_antipodal_pair_has_its_closed_form(s: float, expected: float) -> None:
    weight = torch.tensor([[1.0, 2, 3], [-2, -4, -6]], dtype=torch.float64)
    assert hyperspherical_energy(weight, s=s).item() == pytest.approx(expected, abs=1e-15)


@looped(("n", "values"), [
    (3, (-0.41588831, 0.66568542, 0.45)),
    (4, (-0.39608410, 0.67752010, 0.46428571)),
])  # fmt: skip
def test_cross_polytope_has_its_known_energies(n: int, values: tuple[float, ...]) -> None:
    basis = torch.eye(n, dtype=torch.float64)
    for s, value in zip(POWERS, values, strict=True):
        assert hyperspherical_energy(torch.cat([basis, -basis]), s=s).item() == pytest.approx(value, abs=6e-9)


def test_orthonormal_rows_have_the_limit_energies_in_full_space() -> None:
    for s, value in zip(POWERS, (-0.346573590, 0.707106781, 0.5), strict=True):
        assert hyperspherical_energy(torch.eye(9, dtype=torch.float64), s=s).item() == pytest.approx(value, abs=6e-10)


@looped(("n", "values"), [
    (2, (-0.46209812, 0.63807119, 0.41666667)),
    (4, (-0.39608410, 0.67752010, 0.46428571)),
    (8, (-0.36967850, 0.69329966, 0.48333333)),
    (64, (-0.34930252, 0.70547602, 0.49803150)),
])  # fmt: skip
def test_orthonormal_frame_has_the_half_space_optimum(n: int, values: tuple[float, ...]) -> None:
    for s, value in zip(POWERS, values, strict=True):
        energy = hyperspherical_energy(torch.eye(n, n + 3, dtype=torch.float64), s=s, half_space=True).item()
        assert energy == pytest.approx(value, abs=6e-9)
        assert energy == pytest.approx(
            ((2 * n - 2) * euclidean_energy(2, s) + euclidean_energy(4, s)) / (2 * n - 1), rel=1e-13
        )


def polygon(count: int) -> torch.Tensor:
    turn = 2 * math.pi * torch.arange(count, dtype=torch.float64) / count
    return torch.stack([turn.cos(), turn.sin()], dim=1)


@looped("s", POWERS)
def test_three_lines_in_the_plane_have_the_energy_of_the_hexagon(s: float) -> None:
    half = hyperspherical_energy(polygon(6)[:3], s=s, half_space=True).item()
    assert half == pytest.approx(hyperspherical_energy(polygon(6), s=s).item(), rel=1e-13)


@looped("n", [2, 5, 10])
def test_points_on_a_circle_have_their_closed_forms(n: int) -> None:
    energies = [hyperspherical_energy(polygon(n), s=s, reduction="sum").item() for s in (0.0, 2.0)]
    assert energies == pytest.approx([-n * math.log(n) / 2, n * (n * n - 1) / 24], rel=1e-13)


def test_ten_classes_on_a_circle_have_the_known_energies() -> None:
    energies = [hyperspherical_energy(polygon(10), s=s, reduction="sum").item() for s in (0.0, 2.0)]
    assert energies == pytest.approx([-11.512925465, 41.25], abs=6e-10)


def bipyramid(count: int) -> torch.Tensor:
    ring = torch.cat([polygon(count - 2), torch.zeros(count - 2, 1, dtype=torch.float64)], dim=1)
    poles = torch.tensor([[0, 0, 1], [0, 0, -1]], dtype=torch.float64)
    return torch.cat([ring, poles])


def icosahedron() -> torch.Tensor:
    corners = [(0, a, b * GOLDEN) for a, b in product((-1, 1), repeat=2)]
    return torch.tensor([corner[k:] + corner[:k] for corner in corners for k in range(3)], dtype=torch.float64)


def dodecahedron() -> torch.Tensor:
    """Corners over the middles of the faces of icosahedron()."""
    corners = [(0, a * GOLDEN, b / GOLDEN) for a, b in product((-1, 1), repeat=2)]
    rows = [corner[k:] + corner[:k] for corner in corners for k in range(3)]
    return torch.tensor(rows + list(product((-1, 1), repeat=3)), dtype=torch.float64)


KNOWN_POINTS = {
    2: (lambda: torch.tensor([[0.0, 0, 1], [0, 0, -1]], dtype=torch.float64), (-0.693147181, 0.5, 0.25)),
    3: (lambda: polygon(3), (-1.647918433, 1.732050808, 1.0)),
    4: (lambda: torch.eye(4, dtype=torch.float64) - 0.25, (-2.942487759, 3.674234614, 2.25)),
    5: (lambda: bipyramid(5), (-4.420507155, 6.474691495, 4.25)),
    6: (lambda: bipyramid(6), (-6.238324625, 9.985281374, 6.75)),
    7: (lambda: bipyramid(7), (-8.182477864, 14.452977414, 10.25)),
    12: (icosahedron, (-21.606145230, 49.165253058, 39.0)),
    32: (lambda: torch.cat([icosahedron(), dodecahedron()]), (-127.378867615, 412.261274651, 401.5)),
}


@looped("n", KNOWN_POINTS)
def test_symmetric_solutions_of_the_thomson_problem_have_their_energies(n: int) -> None:
    make, values = KNOWN_POINTS[n]
    assert len(make()) == n
    energies = [hyperspherical_energy(make(), s=s, reduction="sum").item() for s in POWERS]
    assert energies == pytest.approx(values, abs=6e-10)


def test_axes_of_the_icosahedron_have_its_energy_in_half_space() -> None:
    corners = icosahedron()
    axes = corners[corners @ torch.tensor([1.0, 0.1, 0.01], dtype=torch.float64) > 0]
    assert len(axes) == 6
    unit = axes / axes.norm(dim=1, keepdim=True)
    off_diagonal = (unit @ unit.T).abs()[~torch.eye(6, dtype=torch.bool)]
    torch.testing.assert_close(off_diagonal, torch.full_like(off_diagonal, 5**-0.5))
    energy = hyperspherical_energy(axes, s=1.0, half_space=True, reduction="sum").item()
    assert energy == pytest.approx(49.165253058, abs=6e-10)


@looped(("n", "pairs", "simplex"), [(4, -0.68263177, -0.64743472), (8, -0.55060, -0.53891)])
def test_geodesic_log_energy_prefers_orthogonal_opposite_pairs_to_the_simplex(
    n: int, pairs: float, simplex: float
) -> None:
    basis = torch.eye(n // 2, dtype=torch.float64)
    energies = [
        hyperspherical_energy(weight, distance="geodesic").item()
        for weight in (torch.cat([basis, -basis]), torch.eye(n, dtype=torch.float64) - 1 / n)
    ]
    assert energies == pytest.approx([pairs, simplex], abs=6e-9 if n == 4 else 6e-6)


@looped(("s", "expected"), [(1.0, 0.523386687), (2.0, 0.273933624)])
def test_simplex_of_four_has_its_geodesic_energies(s: float, expected: float) -> None:
    weight = torch.eye(4, dtype=torch.float64) - 0.25
    assert hyperspherical_energy(weight, s=s, distance="geodesic").item() == pytest.approx(expected, abs=6e-10)


def test_opposite_pairs_have_a_lower_geodesic_energy_than_an_even_spread() -> None:
    pairs = torch.tensor([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0]], dtype=torch.float64)
    tetrahedron = torch.tensor([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], dtype=torch.float64)
    crossed, even = (hyperspherical_energy(points, distance="geodesic").item() for points in (pairs, tetrahedron))
    assert crossed == pytest.approx(-(2 * math.log(math.pi) + 4 * math.log(math.pi / 2)) / 6, abs=1e-6)
    assert even == pytest.approx(-math.log(math.acos(-1 / 3)), rel=1e-12)
    assert crossed < even - 0.03
