"""The energy against its definition written out pair by pair, its relations, half space, and mini-batch forms."""

import math
from itertools import combinations

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from gan_mhe.sphere import energy_and_angle, hyperspherical_energies, hyperspherical_energy
from gan_mhe.sphere.energy import energies_of_stacks
from gan_mhe.sphere.geometry import closest_angle, squared_distances
from tests.support.looped import looped

POWERS = [0.0, 0.5, 1.0, 2.0, 3.7]
DISTANCES = ["euclidean", "geodesic"]


def gaussian(count: int, dim: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pair_energies(weight: torch.Tensor, s: float, distance: str, half_space: bool) -> list[float]:
    """The definition in numpy: explicit virtual neurons and differences."""
    rows = weight.numpy()
    rows = np.concatenate([rows, -rows]) if half_space else rows
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    energies = []
    for u, v in combinations(unit, 2):
        chord = np.linalg.norm(u - v)
        z = chord if distance == "euclidean" else 2 * np.arctan2(chord, np.linalg.norm(u + v))
        energies.append(-np.log(z) if s == 0 else z**-s)
    return energies


@looped("half_space", [False, True])
@looped("distance", DISTANCES)
@looped("s", POWERS)
def test_energy_equals_its_definition_over_explicit_pairs(s: float, distance: str, half_space: bool) -> None:
    weight = gaussian(6, 4)
    expected = pair_energies(weight, s, distance, half_space)
    mean = hyperspherical_energy(weight, s=s, distance=distance, half_space=half_space)
    total = hyperspherical_energy(weight, s=s, distance=distance, half_space=half_space, reduction="sum")
    assert mean.item() == pytest.approx(np.mean(expected), rel=1e-12)
    assert total.item() == pytest.approx(np.sum(expected), rel=1e-12)


@looped("s", [0.0, 1.0, 2.0])
def test_mean_is_the_ordered_sum_over_n_times_n_minus_one(s: float) -> None:
    weight = gaussian(5, 3)
    ordered_sum = 2 * hyperspherical_energy(weight, s=s, reduction="sum")
    assert hyperspherical_energy(weight, s=s).item() == pytest.approx(ordered_sum.item() / (5 * 4), rel=1e-14)


@looped("distance", DISTANCES)
def test_riesz_energy_tends_to_the_logarithmic_one(distance: str) -> None:
    weight = gaussian(7, 5)
    s = 1e-6
    slope = (hyperspherical_energy(weight, s=s, distance=distance) - 1) / s
    assert slope.item() == pytest.approx(hyperspherical_energy(weight, distance=distance).item(), abs=1e-6)


@looped("half_space", [False, True])
@looped("distance", DISTANCES)
def test_float32_energy_and_gradient_equal_the_float64_ones_to_rounding(distance: str, half_space: bool) -> None:
    narrow = gaussian(12, 40).float().requires_grad_()
    wide = narrow.detach().double().requires_grad_()
    energies = [hyperspherical_energy(w, s=1.0, distance=distance, half_space=half_space) for w in (narrow, wide)]
    for energy in energies:
        energy.backward()
    torch.testing.assert_close(energies[0], energies[1].float(), rtol=2e-7, atol=0)
    torch.testing.assert_close(narrow.grad, wide.grad.float(), rtol=0, atol=1e-6 * wide.grad.abs().max().item())


@looped(("dtype", "expected"), [
    (torch.float64, torch.float64), (torch.float32, torch.float32),
    (torch.bfloat16, torch.float32), (torch.float16, torch.float32),
])  # fmt: skip
def test_result_is_float64_for_float64_weights_and_float32_otherwise(dtype: torch.dtype, expected: torch.dtype) -> None:
    energy = hyperspherical_energy(gaussian(4, 3).to(dtype))
    assert energy.dtype == expected
    assert energy.shape == ()


@looped("dtype", [torch.bfloat16, torch.float16])
def test_energy_and_gradient_ignore_ambient_autocast(dtype: torch.dtype) -> None:
    results = []
    for enabled in (True, False):
        weight = gaussian(5, 8).float().requires_grad_()
        with torch.autocast("cpu", dtype=dtype, enabled=enabled):
            energy = hyperspherical_energy(weight, s=1.0, half_space=True)
        energy.backward()
        results.append((energy.detach(), weight.grad))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


@looped("half_space", [False, True])
@looped("distance", DISTANCES)
def test_nothing_is_read_back_to_the_host(distance: str, half_space: bool) -> None:
    with FakeTensorMode():  # raises on item(), on branches over values and on shapes that depend on values
        weight = torch.empty(5, 3, requires_grad=True)
        energy = hyperspherical_energy(weight, s=1.0, distance=distance, half_space=half_space)
        energy.backward()
    assert weight.grad is not None and weight.grad.shape == (5, 3)


def test_opposite_filters_are_harmless_in_full_space_and_redundant_in_half_space() -> None:
    weight = torch.tensor([[1.0, 2, -1], [-1, -2, 1]])
    full = hyperspherical_energy(weight, s=2.0)
    half = hyperspherical_energy(weight, s=2.0, half_space=True)
    assert full.item() == pytest.approx(0.25, abs=1e-7)
    assert 1e9 < half.item() < 1e12  # virtual copies stacked along the features would leave it at 0.25


@looped("distance", DISTANCES)
def test_half_space_counts_each_neuron_with_its_own_mirror_image(distance: str) -> None:
    weight = gaussian(1, 3).repeat(2, 1)
    weight[1] = torch.linalg.cross(weight[0], gaussian(1, 3, seed=1)[0])
    quarter, half = (math.sqrt(2), 2.0) if distance == "euclidean" else (math.pi / 2, math.pi)
    expected = 4 / quarter + 2 / half
    total = hyperspherical_energy(weight, s=1.0, distance=distance, half_space=True, reduction="sum")
    assert total.item() == pytest.approx(expected, rel=1e-14)


@looped("half_space", [False, True])
@looped("distance", DISTANCES)
@looped("reduction", ["mean", "sum"])
def test_energies_of_several_layers_and_their_gradients_are_those_of_each_alone(
    reduction: str, distance: str, half_space: bool
) -> None:
    options = {"s": 1.0, "distance": distance, "half_space": half_space, "reduction": reduction}
    layers = [gaussian(count, dim, seed=count).requires_grad_() for count, dim in ((6, 5), (1, 4), (9, 3))]
    together = hyperspherical_energies(layers, **options)
    alone = [hyperspherical_energy(layer, **options) for layer in layers]
    torch.testing.assert_close(together, torch.stack(alone), rtol=1e-14, atol=0)
    factors = torch.tensor([1.0, 2.0, -3.0], dtype=torch.float64)
    gradients = torch.autograd.grad((factors * together).sum(), layers)
    for layer, energy, factor, gradient in zip(layers, alone, factors, gradients, strict=True):
        (expected,) = torch.autograd.grad(factor * energy, layer)
        torch.testing.assert_close(gradient, expected, rtol=1e-13, atol=1e-15)


@looped("half_space", [False, True])
@looped("reduction", ["mean", "sum"])
def test_energy_of_a_stack_is_the_mean_or_sum_over_its_weights(reduction: str, half_space: bool) -> None:
    options = {"s": 1.0, "distance": "geodesic", "half_space": half_space, "reduction": reduction}
    weights = [gaussian(18, 4).view(3, 6, 4), gaussian(5, 3), gaussian(2, 3).view(2, 1, 3)]
    weights = [weight.requires_grad_() for weight in weights]
    together = energies_of_stacks(weights, **options)
    alone = [torch.stack([hyperspherical_energy(each, **options) for each in weights[0]])]
    alone += [hyperspherical_energy(weights[1], **options), torch.zeros(2, dtype=torch.float64)]
    expected = torch.stack([energy.mean() if reduction == "mean" else energy.sum() for energy in alone])
    torch.testing.assert_close(together, expected, rtol=1e-14, atol=0)
    (actual,) = torch.autograd.grad(together[0], weights[0])
    (wanted,) = torch.autograd.grad(expected[0], weights[0])
    torch.testing.assert_close(actual, wanted, rtol=1e-12, atol=1e-14)


def test_energy_and_angle_from_one_product_are_those_of_the_two_functions() -> None:
    weight = gaussian(9, 4).requires_grad_()
    energy, angle = energy_and_angle(weight)
    assert energy.item() == pytest.approx(hyperspherical_energy(weight).item(), rel=1e-14)
    assert angle.item() == pytest.approx(closest_angle(squared_distances(weight)).item(), rel=1e-14)
    assert not energy.requires_grad and not angle.requires_grad


@looped("half_space", [False, True])
@looped("s", [0.0, 1.0, 2.0])
def test_mean_over_all_subsets_of_four_neurons_is_the_full_mean(s: float, half_space: bool) -> None:
    weight = gaussian(8, 5)
    subsets = [
        hyperspherical_energy(weight[list(subset)], s=s, half_space=half_space) for subset in combinations(range(8), 4)
    ]
    # A subset has its own share of constant pairs (w, -w), so in half space only the other pairs are compared.
    own = {0.0: -math.log(2), 1.0: 0.5, 2.0: 0.25}[s] if half_space else 0.0
    average = _without_mirror_pairs(torch.stack(subsets).mean().item(), 4, own, half_space)
    full = _without_mirror_pairs(hyperspherical_energy(weight, s=s, half_space=half_space).item(), 8, own, half_space)
    assert average == pytest.approx(full, abs=1e-13)


def _without_mirror_pairs(mean: float, count: int, own: float, half_space: bool) -> float:
    return (mean * count * (2 * count - 1) - count * own) / (2 * count * (count - 1)) if half_space else mean


@looped("s", [0.0, 1.0, 2.0])
def test_label_dependent_energy_averaged_over_uniform_labels_is_the_full_mean(s: float) -> None:
    weight = gaussian(7, 4)

    def batch_energy(labels: list[int]) -> float:
        """(1 / (m(N-1))) Σ_i Σ_{j != y_i} f_s(||u_{y_i} - u_j||), Liu et al. 2018, the data-dependent form."""
        pairs = [[label, j] for label in labels for j in range(7) if j != label]
        return sum(hyperspherical_energy(weight[pair], s=s).item() for pair in pairs) / len(pairs)

    full = hyperspherical_energy(weight, s=s).item()
    assert batch_energy(list(range(7))) == pytest.approx(full, abs=1e-13)
    assert abs(batch_energy([0, 0, 3]) - full) > 1e-3


@looped("weight", [
    torch.ones(3), torch.ones(2, 3, 4), torch.ones(0, 3), torch.ones(3, 0), torch.ones(2, 3, dtype=torch.int64),
])  # fmt: skip
def test_weight_of_another_kind_is_refused_with_its_shape(weight: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"weight: expected .*\(N, D\).* got .*shape \("):
        hyperspherical_energy(weight)


@looped("s", [-1.0, -1e-9, math.nan, math.inf])
def test_power_out_of_range_is_refused(s: float) -> None:
    with pytest.raises(ValueError, match=f"s: expected a finite number >= 0, got {s}"):
        hyperspherical_energy(torch.eye(3), s=s)


@looped("option", ["distance", "reduction"])
def test_unknown_names_are_refused_with_the_known_ones(option: str) -> None:
    with pytest.raises(ValueError, match=rf"{option}: expected one of \('\w+', '\w+'\), got 'other'"):
        hyperspherical_energy(torch.eye(3), **{option: "other"})
