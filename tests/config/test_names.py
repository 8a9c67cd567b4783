"""Which way a score is better."""

import math

import pytest

from gan_mhe.config.names import METRICS, PRIMARY_METRIC


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
def test_anything_but_nan_is_better_than_nothing(name: str) -> None:
    assert METRICS[name].better(0.0, None)
    assert not METRICS[name].better(math.nan, None)


@pytest.mark.parametrize("name", METRICS)
def test_nan_is_never_better(name: str) -> None:
    assert not METRICS[name].better(math.nan, 1.0)


def test_the_primary_metric_is_one_of_them() -> None:
    assert PRIMARY_METRIC in METRICS
