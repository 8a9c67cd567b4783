"""A label says what a configuration is where it is not what its variant is."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gan_mhe.config.compose import compose, parse_overrides
from gan_mhe.config.labels import folder_name, labeled
from gan_mhe.config.run_config import RunConfig
from gan_mhe.variants import VARIANTS

HINGE = "loss=hinge"


def configured(variant: str, *overrides: str) -> RunConfig:
    return compose({}, variant=variant, overrides=parse_overrides(overrides))


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_as_it_is_has_its_bare_name(variant: str) -> None:
    config = configured(variant, "training.steps=7", "generator.width=0.5", "data.name=synthetic")
    assert (config.label, config.folder_name) == (variant, variant)


@pytest.mark.parametrize(
    ("variant", "overrides", "label"),
    [
        ("none", ["constraints.normalization=spectral"], "none + constraints.normalization=spectral"),
        ("none", ["constraints.mhe.lambda_hidden=1"], "none + constraints.mhe"),
        ("none", ["constraints.mhe.lambda_hidden=2"], "none + constraints.mhe.lambda_hidden=2"),
        ("mhe", ["constraints.mhe.lambda_hidden=1e-7", HINGE], f"mhe + {HINGE}, constraints.mhe.lambda_hidden=1e-07"),
        ("mhe_sn", ["constraints.normalization=none"], "mhe_sn + constraints.normalization=none"),
        ("comhe", ["constraints.comhe.ratio=false"], "comhe + constraints.comhe.ratio=none"),
        ("wgan_gp", ["loss=non_saturating"], "wgan_gp + loss=non_saturating"),
    ],
)
def test_constraints_and_loss_that_are_not_the_variants_are_named(
    variant: str, overrides: list[str], label: str
) -> None:
    assert configured(variant, *overrides).label == label


def test_a_variant_of_another_version_has_its_bare_name() -> None:
    written = configured("mhe", HINGE).document() | {"variant": "of_old"}
    assert RunConfig.stored(written).label == "of_old"


def test_settings_of_networks_are_those_that_are_not_the_defaults() -> None:
    assert configured("mhe", "discriminator.width=0.25").network_settings == ("discriminator.width=0.25",)
    assert configured("mhe").network_settings == ()


def test_further_settings_join_the_first_ones() -> None:
    assert labeled("none", ["a=1"]) == "none + a=1"
    assert labeled("none + a=1", ["b=2"]) == "none + a=1, b=2"


def test_a_folder_is_named_after_the_settings() -> None:
    config = configured("none", "constraints.normalization=spectral", HINGE)
    assert config.folder_name == "none+loss=hinge+constraints.normalization=spectral"


NAMES = st.lists(st.text(max_size=200), max_size=3)


@given(NAMES, NAMES)
def test_folders_are_safe_and_differ_where_settings_differ(one: list[str], other: list[str]) -> None:
    folders = [folder_name("mhe", settings) for settings in (one, other)]
    assert all(re.fullmatch(r"mhe[A-Za-z0-9._=+-]*", folder) and len(folder) < 200 for folder in folders)
    assert (folders[0] == folders[1]) == ("+".join(one) == "+".join(other) and bool(one) == bool(other))
