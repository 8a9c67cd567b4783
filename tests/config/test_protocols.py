"""The table of evaluation protocols, and everything that must agree with it."""

from typing import Any

import pytest
from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

from gan_mhe.config.compose import parse, parse_stored
from gan_mhe.config.names import DATASETS
from gan_mhe.config.protocols import PROTOCOLS, find_protocol, protocol_settings, too_few_samples
from gan_mhe.config.sections import DataConfig, EvaluationConfig
from gan_mhe.errors import ConfigError
from gan_mhe.evaluation import weights
from gan_mhe.evaluation.classifier_net import decode_classifier
from gan_mhe.evaluation.extractors import EXTRACTORS

NAMED = [name for name in PROTOCOLS if "<" not in name]


@pytest.mark.parametrize("name", [*NAMED, "classifier:mine", "classifier:A_1-b"])
def test_a_configuration_may_name_every_protocol(name: str) -> None:
    assert parse({"evaluation": {"protocol": name}}).evaluation.protocol == name
    assert protocol_settings(name).num_samples >= protocol_settings(name).splits


@pytest.mark.parametrize(
    "name",
    [
        *("inception", "digits-v2", "", "classifier", "classifier:", "classifier:<name>"),
        *("classifier:../../etc/passwd", "classifier:a.b", f"classifier:{'a' * 65}"),
    ],
)
def test_another_name_is_refused_with_the_known_ones(name: str) -> None:
    assert find_protocol(name) is None
    with pytest.raises(ConfigError, match=r"^evaluation\.protocol: unknown protocol") as by_the_configuration:
        parse({"evaluation": {"protocol": name}})
    with pytest.raises(ConfigError) as by_the_table:
        protocol_settings(name)
    assert str(by_the_table.value) == str(by_the_configuration.value)
    for known in (repr(name), "none", "digits-v1", "inception-2015", "classifier:<name>"):
        assert known in str(by_the_table.value)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_every_protocol_has_an_extractor(name: str) -> None:
    assert PROTOCOLS[name].extractor in EXTRACTORS


def test_every_extractor_is_used() -> None:
    assert {settings.extractor for settings in PROTOCOLS.values()} == set(EXTRACTORS)


def test_the_inception_weights_are_those_of_torch_fidelity() -> None:
    settings = PROTOCOLS["inception-2015"]
    assert settings.weights_url == URL_INCEPTION_V3
    assert URL_INCEPTION_V3.endswith(f"-{settings.weights_sha256}.pth")


@pytest.mark.parametrize("name", [name for name in NAMED if PROTOCOLS[name].weights_file])
def test_a_protocol_with_a_shipped_classifier_scores_the_images_that_it_was_trained_on(name: str) -> None:
    path, _ = weights._default(name, PROTOCOLS[name], weights.Path("unused"))
    net, _ = decode_classifier(path.read_bytes(), name)
    assert net.image_size == PROTOCOLS[name].image_size


@pytest.mark.parametrize(
    ("document", "protocol"),
    [
        ({}, "digits-v1"),
        ({"data": {"name": "digits"}}, "digits-v1"),
        ({"data": {"name": "digits"}, "evaluation": {"ema": False}}, "digits-v1"),
        *(({"data": {"name": name, "root": "x"}}, "none") for name in DATASETS if name != "digits"),
        ({"data": {"name": "synthetic"}, "evaluation": {"protocol": "digits-v1"}}, "digits-v1"),
        ({"data": DataConfig(name="cifar10")}, "none"),
        ({"variant": "mhe", "data": {"name": "cifar10"}}, "none"),
    ],
    ids=str,
)
def test_only_a_protocol_made_for_the_data_is_the_default(document: dict[str, Any], protocol: str) -> None:
    assert parse(document).evaluation.protocol == protocol


def test_a_stored_configuration_without_a_protocol_keeps_its_meaning() -> None:
    assert parse_stored({"data": {"name": "synthetic"}}).evaluation.protocol == "digits-v1"


def test_a_score_of_splits_too_small_is_refused_with_the_smallest_number() -> None:
    with pytest.raises(
        ConfigError, match=r"^evaluation\.num_samples: expected at least 100, .* 10 images each; got 10$"
    ):
        parse({"evaluation": {"protocol": "digits-v1", "num_samples": 10}})
    assert parse({"evaluation": {"protocol": "digits-v1", "num_samples": 100}}).evaluation.num_samples == 100


def test_a_stored_configuration_of_splits_too_small_is_still_read() -> None:
    assert parse_stored({"evaluation": {"num_samples": 10}}).evaluation.num_samples == 10


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_protocol_s_own_number_of_samples_is_enough(name: str) -> None:
    assert too_few_samples(name.replace("<name>", "mine"), PROTOCOLS[name].num_samples) is None


def test_the_smallest_numbers_are_those_that_the_key_documents() -> None:
    text = EvaluationConfig.model_fields["num_samples"].description or ""
    for name in NAMED:
        assert f"{PROTOCOLS[name].smallest_num_samples():,} under `{name}`" in text
