"""The table of metrics: directions, and a fingerprint for each that covers what changes it and nothing else."""

import dataclasses
import hashlib
import json
import math
from typing import Any

import pytest
import torch

from gan_mhe.evaluation import metrics, scores
from gan_mhe.evaluation.feature_metrics import ScoreInputs
from gan_mhe.evaluation.metrics import METRICS, Metric, fingerprints, score_computations
from gan_mhe.evaluation.protocol import SHARED_SETTINGS, Protocol, pin_protocol

SCORES = {"inception_score", "inception_score_split_std", "fid", "kid", "precision", "recall"}
INCEPTION = {"inception_score", "inception_score_split_std"}
# Settings besides those that change every score, each with the scores that it changes and another value.
SETTINGS: dict[str, tuple[set[str], Any]] = {
    "splits": (INCEPTION, 4),
    "shuffle_seed": (INCEPTION | {"kid"}, 7),
    "kid_subsets": ({"kid"}, 3),
    "kid_subset_size": ({"kid"}, 30),
    "kid_degree": ({"kid"}, 2),
    "prc_neighborhood": ({"precision", "recall"}, 1),
}


def protocol(**changes: Any) -> Protocol:
    pinned = pin_protocol(
        "digits-v1", weights_sha256="a" * 64, reference_sha256="b" * 64, reference_samples=1797, ema=False
    )
    return dataclasses.replace(pinned, **{"torch_fidelity": "0.4.0", **changes})


def changed(first: dict[str, Any], second: dict[str, Any]) -> set[str]:
    return {name for name in first if first[name] != second[name]}


@pytest.mark.parametrize(
    ("name", "better", "worse"),
    [
        ("inception_score", 9.0, 5.0),
        ("precision", 0.9, 0.2),
        ("recall", 0.9, 0.2),
        ("fid", 10.0, 80.0),
        ("kid", 0.01, 0.3),
    ],
)
def test_each_metric_knows_its_direction(name: str, better: float, worse: float) -> None:
    assert METRICS[name].better(better, worse)
    assert not METRICS[name].better(worse, better)


def test_the_directions_of_all_metrics_are_tested() -> None:
    assert set(METRICS) == {"inception_score", "precision", "recall", "fid", "kid"}


@pytest.mark.parametrize("name", METRICS)
def test_an_equal_score_is_not_better(name: str) -> None:
    assert not METRICS[name].better(1.0, 1.0)


@pytest.mark.parametrize("name", METRICS)
def test_every_number_is_better_than_none_and_nan_never_is(name: str) -> None:
    assert METRICS[name].better(0.0, None)
    assert not METRICS[name].better(math.nan, None)
    assert not METRICS[name].better(math.nan, 1.0)


def test_every_score_has_a_fingerprint() -> None:
    assert fingerprints(protocol()).keys() == score_computations().keys() == SCORES


def test_the_settings_of_a_protocol_are_those_shared_and_those_of_single_metrics() -> None:
    fields = [field.name for field in dataclasses.fields(Protocol)]
    assert sorted(fields) == sorted([*SHARED_SETTINGS, *SETTINGS])


@pytest.mark.parametrize("setting", SHARED_SETTINGS)
def test_a_shared_setting_changes_every_fingerprint(setting: str) -> None:
    before = protocol()
    other = {str: "other", int: -1, bool: True}[type(getattr(before, setting))]
    assert changed(fingerprints(before), fingerprints(protocol(**{setting: other}))) == SCORES


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_setting_of_some_metrics_changes_their_fingerprints_only(setting: str) -> None:
    affected, other = SETTINGS[setting]
    assert changed(fingerprints(protocol()), fingerprints(protocol(**{setting: other}))) == affected


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_setting_changes_exactly_the_scores_whose_fingerprints_it_changes(setting: str) -> None:
    affected, other = SETTINGS[setting]
    usual = protocol(kid_subset_size=50)
    assert changed(computed(usual), computed(dataclasses.replace(usual, **{setting: other}))) == affected


def computed(settings: Protocol) -> dict[str, float]:
    generator = torch.Generator().manual_seed(0)
    fake, real = torch.randn(200, 6, generator=generator), torch.randn(150, 6, generator=generator)
    logits = torch.randn(200, 5, generator=generator)
    statistics = scores.real_statistics(real, settings)
    return scores.compute_scores(ScoreInputs(logits, fake, real, statistics, settings))


def test_a_new_metric_leaves_the_other_fingerprints_and_scores_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    before, values = fingerprints(protocol()), computed(protocol(kid_subset_size=50))
    largest = Metric("largest", higher_is_better=True, compute=lambda inputs: inputs.fake_ND.max().double())
    monkeypatch.setattr(metrics, "METRICS", {**METRICS, "largest": largest})
    after = fingerprints(protocol())
    assert {name: after[name] for name in before} == before
    assert after.keys() - before.keys() == {"largest"}
    with_new = computed(protocol(kid_subset_size=50))
    assert {name: with_new[name] for name in values} == values
    assert with_new.keys() - values.keys() == {"largest"}


def test_the_fingerprint_of_a_fixed_protocol_never_changes() -> None:
    found = {name: value[:16] for name, value in fingerprints(protocol()).items()}
    assert found == {
        "inception_score": "2a6f985959f294a5",
        "inception_score_split_std": "2a6f985959f294a5",
        "fid": "1b2a66fcf93a95fe",
        "kid": "52468439a0ca871d",
        "precision": "dd28941821f911fb",
        "recall": "c67fcb8243f5b183",
    }


def test_a_fingerprint_is_the_hash_of_the_metric_and_its_settings_as_json() -> None:
    values = {name: getattr(protocol(), name) for name in (*SHARED_SETTINGS, "prc_neighborhood")}
    document = {"metric": "recall", "protocol": values}
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert fingerprints(protocol())["recall"] == hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize("change", [{"name": "classifier:digits"}, {"num_samples": 500}, {"ema": True}], ids=str)
def test_another_protocol_shares_no_fingerprint(change: dict[str, Any]) -> None:
    assert not set(fingerprints(protocol()).values()) & set(fingerprints(protocol(**change)).values())
