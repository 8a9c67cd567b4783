"""The authors' energies against golden values and a literal transcription of what their graph computes."""

import math

import pytest
import torch

from gan_mhe.sphere import hyperspherical_energy, official_classifier_energy, official_gan_energy
from tests.support.looped import looped

ROWS = torch.tensor([[1, 2, 0], [0, 1, 1], [-1, 0, 3]], dtype=torch.float64)
KINDS = ["s0", "s1", "s2", "a0", "a1", "a2"]
QUIRKS_OFF = {
    "mirror_on_feature_axis": False,
    "norm_eps": 0.0,
    "log_eps": 0.0,
    "squared_distance": False,
    "average_over_all_entries": False,
}


def gaussian(count: int, dim: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def transcribed_gan_energy(weight: torch.Tensor) -> torch.Tensor:
    """Columns stacked along the features, lower triangle and diagonal zeroed, mean of all N² logarithms."""
    columns = torch.cat([weight.T, -weight.T])
    unit = columns / (columns.square().sum(dim=0, keepdim=True) + 1e-4).sqrt()
    entries = (2 - 2 * (unit.T @ unit)).triu(diagonal=1)
    return -(entries + 1e-4).log().mean()


def transcribed_classifier_energy(weight: torch.Tensor, kind: str, half_space: bool) -> float:
    """Explicit virtual neurons, pair by pair."""
    rows = torch.cat([weight, -weight]) if half_space else weight
    unit = rows / (rows.square().sum(dim=1, keepdim=True) + 1e-4).sqrt()
    energies = []
    for i in range(len(rows)):
        for j in range(i + 1, len(rows)):
            cosine = (unit[i] @ unit[j]).item()
            squared, angle = 2 - 2 * cosine, math.acos(cosine) / math.pi + 1e-4
            energies.append(
                {"s0": -math.log(squared), "s1": squared**-0.5, "s2": 1 / squared}[kind]
                if kind in ("s0", "s1", "s2")
                else {"a0": -math.log(angle), "a1": 1 / angle, "a2": angle**-2}[kind]
            )
    return sum(energies) / len(energies)


@looped(("weight", "expected"), [
    (torch.eye(2), 6.734455984), (torch.eye(4), 5.496513790), (torch.eye(8), 4.877542693),
    (ROWS, 6.129110852), (torch.tensor([[0.1, 0], [0.1, 0]], dtype=torch.float64), 8.057794752),
])  # fmt: skip
def test_gan_energy_has_its_golden_values(weight: torch.Tensor, expected: float) -> None:
    assert official_gan_energy(weight.double()).item() == pytest.approx(expected, abs=6e-10)


def test_gan_energy_equals_the_transcribed_graph() -> None:
    for seed in range(5):
        weight = gaussian(6, 4, seed) * 0.05
        assert official_gan_energy(weight).item() == pytest.approx(transcribed_gan_energy(weight).item(), rel=1e-13)


def test_gan_gradient_equals_that_of_the_transcribed_graph() -> None:
    gradients = []
    for energy in (official_gan_energy, transcribed_gan_energy):
        weight = (gaussian(6, 4) * 0.05).requires_grad_()
        energy(weight).backward()
        gradients.append(weight.grad)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-11, atol=1e-14)


@looped(("n", "d"), [(2, 3), (7, 4), (16, 40)])
def test_gan_energy_with_every_quirk_off_is_the_definition(n: int, d: int) -> None:
    weight = gaussian(n, d)
    assert official_gan_energy(weight, **QUIRKS_OFF).item() == pytest.approx(
        hyperspherical_energy(weight).item(), abs=1e-13
    )


def test_mirroring_on_the_feature_axis_halves_the_norm_epsilon_and_nothing_else() -> None:
    weight = gaussian(5, 4) * 0.05
    mirrored = official_gan_energy(weight)
    halved = official_gan_energy(weight, mirror_on_feature_axis=False, norm_eps=5e-5)
    assert mirrored.item() == pytest.approx(halved.item(), abs=1e-14)
    assert abs(mirrored - official_gan_energy(weight, mirror_on_feature_axis=False)) > 1e-4


def test_mirroring_on_the_feature_axis_has_no_half_space_term() -> None:
    opposite = torch.tensor([[1, 0], [-1, 0]], dtype=torch.float64)
    quirks = QUIRKS_OFF | {"mirror_on_feature_axis": True}
    assert official_gan_energy(opposite, **quirks).item() == pytest.approx(-math.log(2), abs=1e-15)
    assert hyperspherical_energy(opposite, half_space=True).item() > 0


def test_norm_epsilon_hides_short_duplicates() -> None:
    duplicates = torch.tensor([[0.1, 0], [0.1, 0]], dtype=torch.float64)
    for mirror, squared in ((True, 2 * 5e-5 / 0.01005), (False, 2 * 1e-4 / 0.0101)):
        quirks = QUIRKS_OFF | {"mirror_on_feature_axis": mirror, "norm_eps": 1e-4}
        assert official_gan_energy(duplicates, **quirks).item() == pytest.approx(-math.log(squared) / 2, rel=1e-11)


def test_squared_distance_doubles_the_logarithm() -> None:
    weight = gaussian(5, 4)
    once = official_gan_energy(weight, **QUIRKS_OFF)
    twice = official_gan_energy(weight, **(QUIRKS_OFF | {"squared_distance": True}))
    assert twice.item() == pytest.approx(2 * once.item(), rel=1e-14)


def test_log_epsilon_is_added_to_the_squared_distance() -> None:
    weight = torch.eye(3, dtype=torch.float64)
    energy = official_gan_energy(weight, **(QUIRKS_OFF | {"log_eps": 0.5}))
    assert energy.item() == pytest.approx(-math.log(2.5) / 2, rel=1e-14)


def test_average_over_all_entries_adds_a_constant_and_divides_by_n_squared() -> None:
    weight = gaussian(5, 4)
    over_pairs = official_gan_energy(weight, average_over_all_entries=False)
    expected = (10 * over_pairs.item() - 15 * math.log(1e-4)) / 25
    assert official_gan_energy(weight).item() == pytest.approx(expected, rel=1e-14)


@looped(("average", "expected"), [(True, -math.log(1e-4)), (False, 0.0)])
def test_a_layer_of_one_neuron_is_a_constant_of_the_gan_energy(average: bool, expected: float) -> None:
    weight = gaussian(1, 6).requires_grad_()
    energy = official_gan_energy(weight, average_over_all_entries=average)
    energy.backward()
    assert energy.item() == pytest.approx(expected, abs=1e-14)
    assert weight.grad is not None and torch.equal(weight.grad, torch.zeros(1, 6, dtype=torch.float64))


@looped("weight", [torch.ones(3, 2), torch.zeros(3, 2), torch.tensor([[1.0, 1], [-1, -1]])])
def test_gan_energy_of_degenerate_filters_is_finite(weight: torch.Tensor) -> None:
    weight = weight.clone().requires_grad_()
    energy = official_gan_energy(weight)
    energy.backward()
    assert energy.dtype == torch.float32
    assert weight.grad is not None and energy.isfinite() and weight.grad.isfinite().all()


GOLDEN = {
    "s0": (-0.03325753, -0.68127142),
    "s1": (1.02019416, 0.75655876),
    "s2": (1.10572787, 0.65067920),
    "a0": (1.06528102, 0.61691713),
    "a1": (3.04559418, 2.07904896),
    "a2": (10.01733763, 5.35800181),
}


@looped("kind", KINDS)
def test_classifier_energy_has_its_golden_values(kind: str) -> None:
    energies = [official_classifier_energy(ROWS, kind=kind, half_space=half).item() for half in (False, True)]
    assert energies == pytest.approx(GOLDEN[kind], abs=6e-9)


@looped("half_space", [False, True])
@looped("kind", KINDS)
def test_classifier_energy_equals_the_transcribed_pairs(kind: str, half_space: bool) -> None:
    weight = gaussian(5, 4) * 0.1
    energy = official_classifier_energy(weight, kind=kind, half_space=half_space).item()
    assert energy == pytest.approx(transcribed_classifier_energy(weight, kind, half_space), rel=1e-11)


@looped("half_space", [False, True])
@looped("kind", KINDS)
def test_classifier_energy_of_long_filters_is_the_definition_up_to_its_factor(kind: str, half_space: bool) -> None:
    weight, s = 1e4 * gaussian(6, 5), int(kind[1])
    distance = "euclidean" if kind[0] == "s" else "geodesic"
    definition = hyperspherical_energy(weight, s=s, distance=distance, half_space=half_space).item()
    expected = {"s0": 2 * definition, "a0": definition + math.log(math.pi)}.get(
        kind, definition * (math.pi**s if kind[0] == "a" else 1)
    )
    tolerance = 1e-9 if kind[0] == "s" else 2e-3  # 1e-4 is added to θ/π
    assert official_classifier_energy(weight, kind=kind, half_space=half_space).item() == pytest.approx(
        expected, rel=tolerance
    )


def test_classifier_energy_of_one_neuron_is_zero_without_gradient() -> None:
    weight = gaussian(1, 4).requires_grad_()
    energy = official_classifier_energy(weight, kind="s2")
    energy.backward()
    assert energy.item() == 0
    assert weight.grad is not None and not weight.grad.any()


@looped("kind", KINDS)
def test_classifier_gradients_are_finite_in_half_space(kind: str) -> None:
    weight = torch.tensor([[1.0, 0, 0], [1, 0, 0], [-1, 0, 0], [0, 0, 0]], requires_grad=True)
    energy = official_classifier_energy(weight, kind=kind, half_space=True)
    energy.backward()
    assert weight.grad is not None and energy.isfinite() and weight.grad.isfinite().all()


def test_official_energies_ignore_ambient_autocast() -> None:
    weight = gaussian(5, 8).float()
    plain = official_gan_energy(weight), official_classifier_energy(weight, kind="a1")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = official_gan_energy(weight), official_classifier_energy(weight, kind="a1")
    assert plain == mixed


@looped(("options", "message"), [
    ({"norm_eps": -1.0}, "norm_eps"), ({"log_eps": -1e-4}, "log_eps"), ({"log_eps": 0.0}, "average_over_all_entries"),
])  # fmt: skip
def test_impossible_epsilons_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        official_gan_energy(ROWS, **options)


def test_weights_of_another_rank_and_unknown_kinds_are_refused() -> None:
    with pytest.raises(ValueError, match="weight: expected"):
        official_gan_energy(torch.ones(3))
    with pytest.raises(ValueError, match="weight: expected"):
        official_classifier_energy(torch.ones(3), kind="s0")
    with pytest.raises(ValueError, match=r"kind: expected one of .* got 's3'"):
        official_classifier_energy(ROWS, kind="s3")
