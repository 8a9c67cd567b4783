"""Protocols are closed, pinned and hashed."""

import dataclasses
import subprocess
import sys
from typing import Any

import pytest

from gan_mhe.errors import ConfigError, ScorerError
from gan_mhe.evaluation.protocol import METRICS, Protocol, pin_protocol
from tests.support.looped import looped


def pinned(name: str = "digits-v1", **changes: Any) -> Protocol:
    arguments = {
        "weights_sha256": "a" * 64,
        "reference_sha256": "b" * 64,
        "reference_samples": 1797,
        "ema": False,
    }
    return pin_protocol(name, **(arguments | changes))


@looped("field", [field.name for field in dataclasses.fields(Protocol)])
def test_every_field_changes_the_fingerprint(field: str) -> None:
    protocol = pinned()
    value = getattr(protocol, field)
    other = {str: "other", int: -1, bool: True, tuple: ("fid",)}[type(value)]
    assert dataclasses.replace(protocol, **{field: other}).fingerprint() != protocol.fingerprint()


def test_fingerprint_of_a_fixed_protocol_never_changes() -> None:
    protocol = dataclasses.replace(pinned(), torch_fidelity="0.4.0")
    assert protocol.fingerprint() == "9c665c1158c86e1ee5ad0edc0bdb80570724974c7f44c83aa355573c24d23b03"


def test_inception_2015_follows_the_published_protocol() -> None:
    protocol = pinned("inception-2015", reference_samples=50_000)
    assert (protocol.num_samples, protocol.splits, protocol.shuffle_seed) == (50_000, 10, 2020)
    assert (protocol.kid_subsets, protocol.kid_subset_size, protocol.kid_degree) == (100, 1000, 3)
    assert protocol.prc_neighbourhood == 3
    assert protocol.extractor == "inception-v3-compat"


@pytest.mark.parametrize(("name", "samples"), [("digits-v1", 2_000), ("classifier:cifar10", 10_000)])
def test_classifier_protocols_have_their_own_sample_counts(name: str, samples: int) -> None:
    assert pinned(name).num_samples == samples
    assert pinned(name).splits == 10


def test_overriding_the_sample_count_makes_another_protocol() -> None:
    assert pinned(num_samples=500).fingerprint() != pinned().fingerprint()
    assert pinned(num_samples=2_000).fingerprint() == pinned().fingerprint()


@pytest.mark.parametrize(
    ("samples", "real", "size"), [(2_000, 1797, 1000), (300, 1797, 300), (2_000, 450, 450), (5_000, 5_000, 1000)]
)
def test_kid_subsets_are_no_larger_than_either_side(samples: int, real: int, size: int) -> None:
    assert pinned(num_samples=samples, reference_samples=real).kid_subset_size == size


@pytest.mark.parametrize("name", ["inception", "", "classifier:", "classifier:../../etc/passwd", "classifier:a.b"])
def test_unknown_names_are_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(ConfigError, match=r"evaluation\.protocol") as caught:
        pinned(name)
    for known in ("inception-2015", "digits-v1", "classifier:<name>"):
        assert known in str(caught.value)
    assert repr(name) in str(caught.value)


def test_fewer_samples_than_splits_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"evaluation\.num_samples.*10 splits.*got 9"):
        pinned(num_samples=9)
    assert pinned(num_samples=10).num_samples == 10


def test_too_few_real_images_are_refused() -> None:
    with pytest.raises(ScorerError, match="at least 10 real images, got 9"):
        pinned(reference_samples=9)


def test_description_is_one_line_that_names_what_matters() -> None:
    protocol = pinned(ema=True)
    line = protocol.describe()
    assert "\n" not in line
    for part in ("digits-v1", protocol.fingerprint()[:8], "2,000", "aaaaaaaa", "bbbbbbbb", "EMA on", "float32"):
        assert part in line


def test_metrics_are_the_six_named_ones() -> None:
    assert pinned().metrics == METRICS
    assert len(METRICS) == 6


def test_protocols_can_be_compared_without_torch() -> None:
    code = "import sys, gan_mhe.evaluation.protocol; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
