"""The input and output of a comparison: one value per run, one row per variant, one table."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from gan_mhe.records.inputs import Inputs

View = Literal["steps", "wall_time"]


@dataclass(frozen=True)
class RunScore:
    """The facts about one run that a comparison needs. Scores are None where the run did not get that far."""

    job: str
    """Run directory, or job id at a service."""
    variant: str
    """Label by which runs are grouped into rows (`RunConfig.label`); a caller may replace it by one of its own."""
    seed: int
    """Training seed."""
    digest_without_seed: str
    """Equal for the seeds of one arm (`config.run_config.DIGESTS`)."""
    comparable_digest: str
    """Equal for the arms of a fair comparison."""
    status: str
    """`completed`, `stopped` or `diverged`; `unfinished` for a run without result."""
    protocol: str | None
    """Name of the evaluation protocol."""
    fingerprints: Mapping[str, str]
    """SHA-256 of everything in the protocol that changes a score, by the name of the score."""
    metric: str
    """Metric that ranks the run."""
    evaluations: int
    """Number of evaluations that `best` was chosen from."""
    final: Mapping[str, float] | None
    """Scores of the last generator, by metric."""
    best: Mapping[str, float] | None
    """Scores of the best checkpoint, evaluated again with fresh latents."""
    real: Mapping[str, float] | None
    """Scores of the real data."""
    steps: int = 0
    """Generator steps trained; 0 if unknown."""
    train_seconds: float = 0.0
    """Seconds of training without evaluation; 0 if unknown."""
    curve: tuple[tuple[int, Mapping[str, float]], ...] = ()
    """Step and scores of every evaluation, in order; empty in results of older versions."""
    networks: tuple[str, ...] = ()
    """Settings of the networks that differ from the defaults; runs that differ in them have rows of their own."""
    inputs: Inputs = field(default_factory=Inputs)
    """Content of the images and of the scorer's weights; unknown in results of older versions."""


@dataclass(frozen=True)
class Row:
    """One variant over its training seeds. Numbers are None if there are too few seeds to compute them.

    The fields from `difference` on are None in the reference's own row, and in all rows without a reference.
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
    """Lower end of the 95 % t-interval of the mean; None for one seed, or if all seeds have the same score."""
    ci_high: float | None
    """Upper end of the 95 % t-interval of the mean."""
    best_mean: float | None
    """Mean of the best scores, each evaluated again with fresh latents; runs with a single evaluation have none."""
    protocol: str
    """Name of the evaluation protocol."""
    jobs: tuple[str, ...]
    """The runs of the row."""
    failed: int
    """Runs without a final score, which no mean includes."""
    diverged: int = 0
    """Number of failed runs that diverged."""
    step: int | None = None
    """Generator step of the compared generators, rounded; None if no result states it."""
    boot_low: float | None = None
    """Lower end of the 95 % BCa bootstrap interval of the mean."""
    boot_high: float | None = None
    """Upper end of the 95 % BCa bootstrap interval of the mean."""
    best_of: int = 0
    """Largest number of evaluations that a best score of this row was chosen from."""
    mean_rank: float | None = None
    """Mean rank over the seeds that all ranked variants have; 1 is the best (`inference.Standing`).

    NaN for a variant with a non-finite score or a diverged seed; None for fewer than two such seeds or one variant.
    """
    first_share: float | None = None
    """Share of the resamples of those seeds in which this variant has the best mean."""
    difference: float | None = None
    """Mean over `pairs` of this variant's final score minus the reference's of the same seed."""
    difference_low: float | None = None
    """Lower end of the 95 % t-interval of the difference; None for one pair, or if the pairs have one difference."""
    difference_high: float | None = None
    """Upper end of the 95 % t-interval of the difference."""
    pairs: int | None = None
    """Number of seeds for which both have a final score."""
    p_value: float | None = None
    """p-value of the paired t-test."""
    p_holm: float | None = None
    """`p_value` after Holm's correction for all tests of the table."""
    p_permutation: float | None = None
    """p-value of the sign-flip permutation test."""
    minimum_detectable_effect: float | None = None
    """True difference that the uncorrected t-test detects with power 0.8, given these pairs and their spread.

    None for one pair, or if the pairs have one difference: without a spread no test has a power.
    """


@dataclass(frozen=True)
class Comparison:
    """The result of a comparison."""

    metric: str
    """Name of the compared metric."""
    protocol: str
    """Name of the evaluation protocol of all runs."""
    fingerprint: str
    """Fingerprint of the metric under that protocol, equal in all runs."""
    rows: tuple[Row, ...]
    """One row per variant, best mean first; variants with diverged seeds follow, those without scores come last."""
    real: float | None
    """Score of the real data under the same protocol."""
    evaluations: int
    """Largest number of evaluations of any run."""
    same_budget: bool
    """Whether all runs share data, networks, optimizer, steps and evaluation, so that only the variant differs."""
    reference: str | None = None
    """Variant to which differences are computed."""
    view: View = "steps"
    """Whether runs are compared after equal steps or after equal training time."""
    budget_seconds: float | None = None
    """Training time in seconds at which the view `wall_time` compares."""
    ranked_seeds: int = 0
    """Number of seeds over which ranks are computed; 0 without ranks."""
