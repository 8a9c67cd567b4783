"""What a comparison reads and what it states: one value per run, one row per variant, one table."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

View = Literal["steps", "wall_time"]


@dataclass(frozen=True)
class RunScore:
    """What a comparison needs to know of one run. Scores are None where the run did not get that far."""

    job: str
    """Run directory, or job id at a service."""
    variant: str
    """What rows are grouped by; a caller may put its own label here (`dataclasses.replace`)."""
    seed: int
    """Training seed."""
    digest_without_seed: str
    """Equal for the seeds of one arm (`config.run_config.DIGESTS`)."""
    comparable_digest: str
    """Equal for the arms of a fair comparison."""
    status: str
    """`completed`, `stopped`, `diverged`, or how far a run without result got."""
    protocol: str | None
    """Name of the evaluation protocol."""
    fingerprints: Mapping[str, str]
    """SHA-256 of everything in the protocol that changes a score, by the name of the score."""
    evaluations: int
    """Evaluated generators that `best` was chosen from."""
    final: Mapping[str, float] | None
    """Scores of the last generator, by metric."""
    best: Mapping[str, float] | None
    """Scores of the best generator, evaluated again with fresh latents."""
    real: Mapping[str, float] | None
    """Scores of the real data."""
    steps: int = 0
    """Generator steps trained; 0 where unknown."""
    train_seconds: float = 0.0
    """Seconds of training without evaluation; 0 where unknown."""
    curve: tuple[tuple[int, Mapping[str, float]], ...] = ()
    """Step and scores of every evaluation, in order; empty in results of old versions."""


@dataclass(frozen=True)
class Row:
    """One variant over its training seeds. Numbers are None where there are too few seeds to compute them.

    The fields from `difference` on are None in the reference's own row, and everywhere without a reference.
    """

    variant: str
    """Name of the variant or arm."""
    n: int
    """Seeds with a final score."""
    mean: float | None
    """Mean final score."""
    std: float | None
    """Sample standard deviation of the final scores."""
    ci_low: float | None
    """Lower end of the 95 % t-interval of the mean."""
    ci_high: float | None
    """Upper end of the 95 % t-interval of the mean."""
    best_mean: float | None
    """Mean of the best scores, each evaluated again with fresh latents."""
    protocol: str
    """Name of the evaluation protocol."""
    jobs: tuple[str, ...]
    """The runs of the row."""
    failed: int
    """Runs without a final score; no mean includes them."""
    diverged: int = 0
    """Those of the failed runs that ended at a non-finite value."""
    step: int | None = None
    """Generator step at which the variant is shown, rounded; None where no result states it."""
    boot_low: float | None = None
    """Lower end of the 95 % BCa bootstrap interval of the mean."""
    boot_high: float | None = None
    """Upper end of the 95 % BCa bootstrap interval of the mean."""
    best_of: int = 0
    """Largest number of evaluations that a best of this row was chosen from."""
    mean_rank: float | None = None
    """See `Standing`, over the seeds that all variants have with finite scores; NaN for a variant with a non-finite
    score or a diverged seed; None with fewer than two such seeds or only one scored variant."""
    first_share: float | None = None
    """Share of resamples of those seeds in which this mean is the best."""
    difference: float | None = None
    """Mean over `pairs` of this variant's final score minus the reference's with the same seed."""
    difference_low: float | None = None
    """Lower end of the 95 % t-interval of the difference."""
    difference_high: float | None = None
    """Upper end of the 95 % t-interval of the difference."""
    pairs: int | None = None
    """Seeds with a final score of both."""
    p_value: float | None = None
    """Of the paired t-test."""
    p_holm: float | None = None
    """`p_value` adjusted by Holm for all tests of the table."""
    p_permutation: float | None = None
    """Of the exact test over all flips of signs."""
    minimum_detectable_effect: float | None = None
    """True difference that such a test, unadjusted, detects with power 0.8, given these pairs and their spread."""


@dataclass(frozen=True)
class Comparison:
    """The table of a comparison and what it was made under."""

    metric: str
    """Name of the compared metric."""
    protocol: str
    """Name of the evaluation protocol that all runs share."""
    fingerprint: str
    """Fingerprint of the metric under that protocol, equal in all runs."""
    rows: tuple[Row, ...]
    """One row per variant, the best mean first."""
    real: float | None
    """Score of the real data under the same protocol."""
    evaluations: int
    """Largest number of evaluations that a best was chosen from; a row's own is its `best_of`."""
    same_budget: bool
    """Whether all runs share data, networks, optimiser, steps and evaluation, so that only variants differ."""
    reference: str | None = None
    """Variant that differences are taken to."""
    view: View = "steps"
    """Whether runs are compared after equal steps or after equal training time."""
    budget_seconds: float | None = None
    """Training time at which runs are compared in the view `wall_time`."""
    ranked_seeds: int = 0
    """Seeds that ranks are taken over; 0 without ranks."""
