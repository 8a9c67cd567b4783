"""Names agree with the tables that they point into."""

from gan_mhe.config.names import PRIMARY_METRIC
from gan_mhe.evaluation.metrics import METRICS


def test_the_primary_metric_is_one_of_them() -> None:
    assert PRIMARY_METRIC in METRICS
