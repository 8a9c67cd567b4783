"""The metrics: one table with title, direction, decimals, computation and settings of each.

The server and the comparison read titles and directions, so importing this module loads no torch; computing a metric
does. Adding a metric takes one row, and its mathematics in `feature_metrics.py`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

from gan_mhe.evaluation.protocol import Protocol

if TYPE_CHECKING:
    from gan_mhe.evaluation.feature_metrics import Scalar, ScoreInputs

Compute = Callable[["ScoreInputs"], "Scalar"]


@dataclass(frozen=True)
class Metric:
    """A number by which generators are ranked."""

    title: str
    """Name in tables and figures."""
    higher_is_better: bool
    """Direction of the ranking."""
    compute: Compute
    """The metric of features and logits, without any state or randomness of its own."""
    settings: tuple[str, ...] = ()
    """Fields of `Protocol` that change this metric besides those that change all; its fingerprint covers them."""
    compares: bool = True
    """Whether it compares generated with real images, instead of reading the generated images alone."""
    decimals: int = 2
    """Decimals worth printing."""
    details: Mapping[str, Compute] = field(default_factory=dict)
    """Further scores by name that explain the metric and are never ranked. They have its fingerprint."""

    def better(self, candidate: float, incumbent: float | None) -> bool:
        """Whether `candidate` beats `incumbent`. Every number beats None; NaN beats nothing."""
        if candidate != candidate:
            return False
        if incumbent is None:
            return True
        return candidate > incumbent if self.higher_is_better else candidate < incumbent

    def scores(self, name: str) -> dict[str, Compute]:
        """The computations of the metric, under its `name`, and of its details, by name."""
        return {name: self.compute, **self.details}


def _fid(inputs: "ScoreInputs") -> "Scalar":
    from gan_mhe.evaluation.feature_metrics import frechet_distance

    return frechet_distance(inputs.fake_ND, inputs.statistics)


def _kid(inputs: "ScoreInputs") -> "Scalar":
    from gan_mhe.evaluation.feature_metrics import kernel_distance

    protocol = inputs.protocol
    return kernel_distance(
        inputs.fake_ND,
        inputs.real_MD,
        subsets=protocol.kid_subsets,
        size=protocol.kid_subset_size,
        degree=protocol.kid_degree,
        seed=protocol.shuffle_seed,
    )


METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        # Salimans et al. 2016: mean over splits. The standard deviation between the splits of one set of samples says
        # nothing about another training run or other latents.
        "inception_score": Metric(
            "Inception score",
            higher_is_better=True,
            compute=lambda inputs: inputs.split_scores.mean(),
            settings=("splits", "shuffle_seed"),
            compares=False,
            details={"inception_score_split_std": lambda inputs: inputs.split_scores.std(correction=0)},
        ),
        # Heusel et al. 2017
        "fid": Metric("FID", higher_is_better=False, compute=_fid),
        # Binkowski et al. 2018
        "kid": Metric(
            "KID",
            higher_is_better=False,
            compute=_kid,
            settings=("kid_subsets", "kid_subset_size", "kid_degree", "shuffle_seed"),
            decimals=4,
        ),
        # Kynkaanniemi et al. 2019, on the features of the other metrics instead of VGG-16's
        "precision": Metric(
            "precision",
            higher_is_better=True,
            compute=lambda inputs: inputs.precision_recall[0],
            settings=("prc_neighborhood",),
            decimals=3,
        ),
        "recall": Metric(
            "recall",
            higher_is_better=True,
            compute=lambda inputs: inputs.precision_recall[1],
            settings=("prc_neighborhood",),
            decimals=3,
        ),
    }
)


def score_computations(*, compares: bool | None = None) -> dict[str, Compute]:
    """The computation of every score by name: metrics and their details, in the order of `METRICS`.

    compares: only of the metrics that compare with real images, or only of those that do not.
    """
    chosen = {name: metric for name, metric in METRICS.items() if compares in (None, metric.compares)}
    return {score: compute for name, metric in chosen.items() for score, compute in metric.scores(name).items()}


def fingerprints(protocol: Protocol) -> dict[str, str]:
    """The fingerprint of every score by name. Two scores of a metric compare only if their fingerprints are equal."""
    by_metric = {name: protocol.fingerprint(name, metric.settings) for name, metric in METRICS.items()}
    return {score: by_metric[name] for name, metric in METRICS.items() for score in metric.scores(name)}
