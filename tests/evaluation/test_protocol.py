"""Protocols with their weights and real images fixed."""

from typing import Any

import pytest

from gan_mhe.errors import ConfigError, ExtractorError
from gan_mhe.evaluation.protocol import Protocol, pin_protocol


def pinned(name: str = "digits-v1", **changes: Any) -> Protocol:
    arguments = {
        "weights_sha256": "a" * 64,
        "reference_sha256": "b" * 64,
        "reference_samples": 1797,
        "ema": False,
    }
    return pin_protocol(name, **(arguments | changes))


def test_inception_2015_follows_the_published_protocol() -> None:
    protocol = pinned("inception-2015", reference_samples=50_000)
    assert (protocol.num_samples, protocol.splits, protocol.shuffle_seed) == (50_000, 10, 2020)
    assert (protocol.kid_subsets, protocol.kid_subset_size, protocol.kid_degree) == (100, 1000, 3)
    assert protocol.prc_neighborhood == 3
    assert protocol.extractor == "inception-v3-compat"


@pytest.mark.parametrize(("name", "samples"), [("digits-v1", 2_000), ("classifier:cifar10", 10_000)])
def test_classifier_protocols_have_their_own_sample_counts(name: str, samples: int) -> None:
    assert pinned(name).num_samples == samples
    assert pinned(name).splits == 10


def test_the_protocol_s_own_sample_count_may_be_written_out() -> None:
    assert pinned(num_samples=2_000) == pinned()
    assert pinned(num_samples=500).num_samples == 500


@pytest.mark.parametrize(
    ("samples", "real", "size"), [(2_000, 1797, 1000), (300, 1797, 300), (2_000, 450, 450), (5_000, 5_000, 1000)]
)
def test_kid_subsets_are_no_larger_than_either_side(samples: int, real: int, size: int) -> None:
    assert pinned(num_samples=samples, reference_samples=real).kid_subset_size == size


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^evaluation\.protocol: unknown protocol 'inception'"):
        pinned("inception")


@pytest.mark.parametrize(("name", "classes", "smallest"), [("classifier:few", 3, 30), ("classifier:many", 30, 300)])
def test_splits_too_small_to_reach_the_number_of_classes_are_refused_with_the_smallest_count(
    name: str, classes: int | None, smallest: int
) -> None:
    with pytest.raises(
        ConfigError, match=rf"evaluation\.num_samples: expected at least {smallest:,}, .*got {smallest - 1}$"
    ):
        pinned(name, num_samples=smallest - 1, num_classes=classes)
    assert pinned(name, num_samples=smallest, num_classes=classes).num_samples == smallest


@pytest.mark.parametrize("name", ["digits-v1", "classifier:many"])
def test_fewer_samples_than_a_configuration_may_have_are_those_of_an_older_version(name: str) -> None:
    assert pinned(name, num_samples=10, num_classes=30).num_samples == 10


def test_too_few_real_images_are_refused() -> None:
    with pytest.raises(ExtractorError, match="at least 10 real images, got 9"):
        pinned(reference_samples=9)
