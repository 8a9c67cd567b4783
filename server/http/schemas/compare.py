"""Schemas of comparisons."""

from pydantic import BaseModel, Field

from gan_mhe.comparison.results import View
from server.http.schemas.jobs import Number
from server.queue.states import State


class ComparedRow(BaseModel):
    """One row of a comparison: a variant over its seeds. Values are null with too few seeds to compute them."""

    variant: str = Field(description="Includes the swept values if more than variant and seed was swept.")
    n: int = Field(description="Number of seeds with a final score.")
    mean: Number | None
    std: Number | None
    ci_low: Number | None
    ci_high: Number | None
    best_mean: Number | None
    protocol: str
    jobs: list[str]
    failed: int = Field(description="Number of jobs without a final score; they are not part of any mean.")
    diverged: int = Field(description="Number of failed jobs that diverged: a value stopped being finite.")
    step: int | None = Field(description="Generator step of the values; null if the results do not contain it.")
    boot_low: Number | None = Field(
        description="Lower end of the 95 % BCa bootstrap interval; too narrow for few seeds."
    )
    boot_high: Number | None
    best_of: int = Field(description="Maximum number of evaluations that a best score was chosen from.")
    mean_rank: Number | None = Field(
        description="Over the seeds common to all rows; NaN for a row with a non-finite score or a diverged seed."
    )
    first_share: Number | None = Field(description="Share of resamples of these seeds in which this mean is the best.")
    difference: Number | None = Field(default=None, description="Mean paired difference to the reference.")
    difference_low: Number | None = None
    difference_high: Number | None = None
    pairs: int | None = Field(default=None, description="Number of seeds that this row and the reference share.")
    p_value: Number | None = Field(default=None, description="Two-sided p-value of the paired t-test.")
    p_holm: Number | None = Field(default=None, description="The p-value with Holm's correction for the table's tests.")
    p_permutation: Number | None = Field(default=None, description="p-value of the exact sign-flip permutation test.")
    minimum_detectable_effect: Number | None = Field(
        default=None, description="Difference that such a test detects with a power of 80 %, given the observed spread."
    )


class Unfinished(BaseModel):
    """A job without a final score."""

    job_id: str
    state: State


class ComparisonTable(BaseModel):
    """A comparison over training seeds under one protocol."""

    metric: str
    reference: str | None = None
    view: View
    budget_seconds: float | None = Field(default=None, description="Training time at which jobs are compared.")
    protocol: str
    fingerprint: str
    confidence: float
    real: Number | None = Field(description="Score of the real images.")
    evaluations: int = Field(description="Maximum number of scores that a best score was chosen from.")
    same_budget: bool = Field(description="Whether the jobs differ in nothing but their variants.")
    ranked_seeds: int = Field(description="Number of seeds in the ranking; 0 without a ranking.")
    rows: list[ComparedRow]
    unfinished: list[Unfinished]
