"""The table of named variants."""

from pathlib import Path
from typing import Any

import pytest

from gan_mhe.config.compose import compose, parse
from gan_mhe.config.documents import PRESETS, flatten, load_document
from gan_mhe.variants import VARIANTS
from tests.support.looped import looped

NAMES = (
    "none weight_clipping gan_gp wgan_gp batch_norm layer_norm weight_norm orthonormal spectral_norm mhe half_mhe "
    "angular_mhe half_angular_mhe mhe_sn half_mhe_sn comhe comhe_sn comhe_angle comhe_adversarial comhe_group "
    "mhs mhp r_mhp mhc mgd sphere_conv sphere_conv_learnable sphere_norm mhe_official mhe_sn_official"
).split()


def constraints_of(name: str) -> dict[str, Any]:
    """What a variant switches on, flat: sections and normalization that do nothing left out."""
    written = flatten(compose({}, variant=name).document()["constraints"])
    return {key: value for key, value in written.items() if value not in (None, "none")}


def test_the_names_and_their_order_are_pinned() -> None:
    assert list(VARIANTS) == NAMES


def test_the_table_is_closed() -> None:
    with pytest.raises(TypeError):
        VARIANTS["mine"] = VARIANTS["none"]  # type: ignore[index]


@looped("name", NAMES)
def test_each_variant_has_a_description_and_a_source(name: str) -> None:
    assert VARIANTS[name].description.strip() and VARIANTS[name].source.strip()


@looped("name", NAMES)
def test_a_variant_touches_nothing_but_constraints_and_loss(name: str) -> None:
    assert set(VARIANTS[name].patch) <= {"constraints", "loss"}


@looped("name", NAMES)
@looped("preset", sorted(PRESETS.glob("*.toml")))
def test_each_variant_is_a_valid_configuration_of_each_preset(preset: Path, name: str) -> None:
    document = load_document(preset)
    if document["data"]["name"] == "image_folder":
        document["data"]["root"] = "/anywhere"
    config = compose(document, variant=name)
    assert config.variant == name
    assert config.constraints == parse({"variant": name}).constraints


def test_no_two_variants_are_the_same_experiment() -> None:
    settings = [(constraints_of(name), compose({}, variant=name).loss) for name in NAMES]
    assert all(settings[i] != settings[j] for i in range(len(NAMES)) for j in range(i))


def test_the_control_constrains_nothing() -> None:
    assert constraints_of("none") == {}


@pytest.mark.parametrize(
    ("name", "normalization"),
    [
        ("batch_norm", "batch"),
        ("layer_norm", "layer"),
        ("weight_norm", "weight"),
        ("spectral_norm", "spectral"),
        ("mhe_sn", "spectral"),
        ("half_mhe_sn", "spectral"),
        ("mhe_sn_official", "spectral"),
        ("mhe", "none"),
        ("mhe_official", "none"),
    ],
)
def test_normalization_matches_the_name(name: str, normalization: str) -> None:
    assert compose({}, variant=name).constraints.normalization == normalization


@pytest.mark.parametrize(
    ("name", "strength", "distance", "half_space"),
    [
        ("mhe", 1.0, "euclidean", False),
        ("half_mhe", 1.0, "euclidean", True),
        ("angular_mhe", 1.0, "geodesic", False),
        ("half_angular_mhe", 1.0, "geodesic", True),
        ("mhe_sn", 1.0, "euclidean", False),
        ("half_mhe_sn", 1.0, "euclidean", True),
    ],
)
def test_the_energy_matches_the_name(name: str, strength: float, distance: str, half_space: bool) -> None:
    mhe = compose({}, variant=name).constraints.mhe
    assert mhe is not None
    assert (mhe.lambda_hidden, mhe.distance, mhe.half_space, mhe.s) == (strength, distance, half_space, 0.0)
    assert mhe.schedule.warmup_steps == (0 if name.endswith("_sn") else 500)


@pytest.mark.parametrize(("name", "coefficient"), [("mhe_official", 1e-6), ("mhe_sn_official", 1e-7)])
def test_the_official_variants_keep_every_deviation(name: str, coefficient: float) -> None:
    official = compose({}, variant=name).constraints.official_mhe
    assert official is not None and official.coefficient == coefficient
    switches = [value for value in official.model_dump().values() if isinstance(value, bool)]
    assert switches == [True] * 5


@pytest.mark.parametrize("name", ["gan_gp", "wgan_gp"])
def test_gradient_penalties_have_the_published_coefficient_and_target(name: str) -> None:
    penalty = compose({}, variant=name).constraints.gradient_penalty
    assert penalty is not None and (penalty.coefficient, penalty.target) == (10.0, 1.0)


def test_only_wgan_gp_prescribes_a_loss() -> None:
    assert {name: variant.patch["loss"] for name, variant in VARIANTS.items() if "loss" in variant.patch} == {
        "wgan_gp": "wasserstein"
    }
