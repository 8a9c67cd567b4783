"""Names that configurations, results and requests use, with what is known of them without torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class Metric:
    """Name for people, direction, and decimals worth printing."""

    title: str
    higher_is_better: bool
    decimals: int = 2

    def better(self, candidate: float, incumbent: float | None) -> bool:
        """Whether `candidate` beats `incumbent`; anything beats none, nothing beats by being NaN."""
        if candidate != candidate:
            return False
        if incumbent is None:
            return True
        return candidate > incumbent if self.higher_is_better else candidate < incumbent


METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        "inception_score": Metric("Inception score", higher_is_better=True),
        "fid": Metric("FID", higher_is_better=False),
        "kid": Metric("KID", higher_is_better=False, decimals=4),
        "precision": Metric("precision", higher_is_better=True, decimals=3),
        "recall": Metric("recall", higher_is_better=True, decimals=3),
    }
)

PRIMARY_METRIC = "inception_score"


# Those of `gan_mhe.evaluation.protocol`, and none at all. A user's own scorer is `classifier:<name>`.
PROTOCOLS = ("none", "digits-v1", "inception-2015")
