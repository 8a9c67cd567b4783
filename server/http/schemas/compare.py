"""Comparisons as they are shown."""

from pydantic import BaseModel, Field

from gan_mhe.comparison.results import View
from server.http.schemas.jobs import Number
from server.queue.states import State


class ComparedRow(BaseModel):
    """One design over its seeds. Numbers are null where there are too few seeds to have them."""

    variant: str = Field(description="With the swept values, where more than variant and seed was swept.")
    n: int = Field(description="Seeds with a final score.")
    mean: Number | None
    std: Number | None
    ci_low: Number | None
    ci_high: Number | None
    best_mean: Number | None
    protocol: str
    jobs: list[str]
    failed: int = Field(description="Jobs without a final score, which no mean can include.")
    diverged: int = Field(description="Those of them that ended because a number stopped being finite.")
    step: int | None = Field(description="Generator step that the design is shown at; null where no result tells it.")
    boot_low: Number | None = Field(description="Of the 95 % bootstrap interval of the mean, too narrow for few seeds.")
    boot_high: Number | None
    best_of: int = Field(description="Evaluations that a best was chosen from, at most.")
    mean_rank: Number | None = Field(description="Over the seeds that all ranked designs have; NaN after a breakdown.")
    first_share: Number | None = Field(description="Of resamples of those seeds, in which this mean is the best.")
    difference: Number | None = Field(default=None, description="Mean difference to the reference, seed by seed.")
    difference_low: Number | None = None
    difference_high: Number | None = None
    pairs: int | None = Field(default=None, description="Seeds that this design and the reference share.")
    p_value: Number | None = Field(default=None, description="Of the paired t-test, two-sided.")
    p_holm: Number | None = Field(default=None, description="The same, adjusted by Holm for the tests of the table.")
    p_permutation: Number | None = Field(default=None, description="Under all flips of the differences' signs.")
    minimum_detectable_effect: Number | None = Field(
        default=None, description="True difference that such a test finds four times in five, given the spread seen."
    )


class Unfinished(BaseModel):
    """A job without a final score."""

    job_id: str
    state: State


class ComparisonTable(BaseModel):
    """Designs over training seeds, under one protocol."""

    metric: str
    reference: str | None = None
    view: View
    budget_seconds: float | None = Field(default=None, description="Training time that jobs are compared at.")
    protocol: str
    fingerprint: str
    confidence: float
    real: Number | None = Field(description="Of the real images themselves.")
    evaluations: int = Field(description="Scores that each best was chosen from, at most.")
    same_budget: bool = Field(description="Whether the jobs differ in nothing but their variants.")
    ranked_seeds: int = Field(description="Seeds that ranks are taken over; 0 where there are none.")
    rows: list[ComparedRow]
    unfinished: list[Unfinished]
