"""What jobs leave behind, as it is sent and shown: events, metrics, logs, samples, checkpoints, tasks."""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Generic, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from gan_mhe.compare import View
from server.api.requests import Body, Labels
from server.api.schemas import Number, Row
from server.clock import optional_rfc3339, rfc3339
from server.jobs.states import TERMINAL, State

Item = TypeVar("Item")


class Slice(BaseModel, Generic[Item]):
    """Part of a list that only grows at its end."""

    object: Literal["list"] = "list"
    data: list[Item]
    has_more: bool
    next_after: int | None = Field(description="Ask with `after=` for what follows; null when nothing does yet.")

    @classmethod
    def of(cls, items: Sequence[Item], limit: int, number: Callable[[Item], int]) -> Self:
        """The first `limit` of the items that were found when asking for one more."""
        more = len(items) > limit
        data = list(items[:limit])
        return cls(data=data, has_more=more, next_after=number(data[-1]) if more else None)


class Event(BaseModel):
    """One thing that happened to a job."""

    job_id: str
    seq: int = Field(description="Counts the job's own events from 1, without gaps.")
    time: str
    type: str = Field(description="Such as `job.state` or `metric.batch`.")
    data: dict[str, Any] = Field(description='Non-finite numbers as "NaN", "Infinity", "-Infinity".')


class Metric(BaseModel):
    """One metric of a job as it stands."""

    name: str
    step: int = Field(description="Generator step of the newest number.")
    value: Number
    min: float | None = Field(description="Of the finite numbers.")
    max: float | None
    best: float | None = Field(description="Of scores; a loss has none.")
    best_step: int | None


class LatestMetrics(BaseModel):
    """All metrics of a job."""

    object: Literal["list"] = "list"
    job_id: str
    data: list[Metric]


class Bucket(BaseModel):
    """Some steps' numbers in one point."""

    first_step: int
    last_step: int
    step: int = Field(description="Of the newest number.")
    last: Number
    min: float | None = Field(description="Of the finite numbers.")
    max: float | None
    count: int
    nonfinite: int


class RawPoint(BaseModel):
    """One number."""

    step: int
    attempt: int
    value: Number


class MetricHistory(BaseModel):
    """One metric over the steps, oldest first."""

    name: str
    mode: Literal["minmax", "raw"]
    bucket_steps: int = Field(description="Steps in a bucket; 1 where every number is shown.")
    points: list[Bucket] | list[RawPoint]
    total_points: int = Field(description="Numbers between the steps asked for.")
    next_after: int | None = Field(description="In mode `raw`: ask with `after=` for what follows.")
    last_seq: int = Field(description="Grows when the run says something new.")


class MetricHistories(BaseModel):
    """The metrics asked for, in that order."""

    object: Literal["list"] = "list"
    job_id: str
    data: list[MetricHistory]


class LogChunk(BaseModel):
    """Part of what a job's processes printed."""

    offset: int = Field(description="In bytes, of the part's beginning.")
    next_offset: int = Field(description="Ask with `after=` for what follows.")
    text: str
    complete: bool = Field(description="Whether the job has ended and nothing follows.")


class Sample(BaseModel):
    """A grid of images from latents that stay the same during a run."""

    object: Literal["sample"] = "sample"
    job_id: str
    step: int
    attempt: int
    sha256: str
    media_type: Literal["image/png"] = "image/png"
    size_bytes: int
    width: int = Field(description="Pixels.")
    height: int = Field(description="Pixels.")
    created_at: str
    pruned: bool = Field(description="Whether the picture was deleted to save space.")
    links: dict[str, str]

    @classmethod
    def of(cls, row: Row) -> Self:
        """A sample's row."""
        own = f"/v1/jobs/{row['job_id']}/samples/{row['step']}"
        links = {"self": own}
        if row["pruned_at"] is None:
            links["image"] = f"/v1/blobs/{row['sha256']}"
            links["thumbnail"] = f"{own}/thumbnail?width=256&sha256={row['sha256']}"
        return cls(
            **{name: row[name] for name in ("job_id", "step", "attempt", "sha256", "size_bytes", "width", "height")},
            created_at=rfc3339(row["created_at"]),
            pruned=row["pruned_at"] is not None,
            links=links,
        )


class Checkpoint(BaseModel):
    """A state of a run, to sample from, to score, and to go on from."""

    object: Literal["checkpoint"] = "checkpoint"
    id: str
    job_id: str
    step: int
    attempt: int
    sha256: str = Field(description="Of the manifest, which states the hash of the tensors.")
    size_bytes: int
    status: Literal["available", "rejected", "pruned"]
    created_at: str
    links: dict[str, str]

    @classmethod
    def of(cls, row: Row) -> Self:
        """A checkpoint's row."""
        own = f"/v1/checkpoints/{row['id']}"
        names = ("content", "manifest", "samples", "scores") if row["status"] == "available" else ()
        return cls(
            **{name: row[name] for name in ("id", "job_id", "step", "attempt", "sha256", "size_bytes", "status")},
            created_at=rfc3339(row["created_at"]),
            links={"self": own, **{name: f"{own}/{name}" for name in names}},
        )


class DrawSamples(Body):
    """Images to be drawn from a checkpoint: the same request gives the same images."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"n": 64, "seed": 7, "format": "png"}]})

    n: Annotated[int, Field(ge=1, le=1024)] = 64
    """Images; with `interpolation`, rows."""
    seed: Annotated[int, Field(ge=0, lt=2**53)] = 0
    """Of the latents."""
    truncation: Annotated[float, Field(gt=0, le=100, strict=False)] | None = None
    """Latents are normal, truncated to absolute values up to this: less gives more typical, less varied images."""
    interpolation: Annotated[int, Field(ge=0, le=64)] = 0
    """Images a row, each row a walk between two latents; 0 draws independent images."""
    ema: bool = False
    """Draw from the moving average of the generator, where the run keeps one."""
    format: Literal["png", "zip", "npz"] = "png"
    """`png`: one grid; `zip`: one PNG an image; `npz`: the array `images`, uint8 (n, H, W, 3)."""


class ScoreCheckpoint(Body):
    """A checkpoint to be scored with fresh latents. What is left out is as the job's configuration has it."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"protocol": "digits-v1"}]})

    protocol: Annotated[str, Field(max_length=100)] | None = None
    """Evaluation protocol."""
    num_samples: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Generated images; another number than the protocol's own makes it another protocol."""
    ema: bool | None = None
    """Score the moving average of the generator, where the run keeps one."""
    weights: Annotated[str, Field(max_length=200)] | None = None
    """Name of the extractor's weight file, of those that the operator offers."""


class TaskResult(BaseModel):
    """What came of a task: a file when sampling, numbers when scoring."""

    model_config = ConfigDict(extra="allow")

    sha256: str | None = None
    size_bytes: int | None = None
    media_type: str | None = None
    url: str | None = Field(default=None, description="Where the file is.")
    step: int | None = None
    scores: dict[str, Number] | None = None
    real: dict[str, Number] | None = Field(default=None, description="Of the real images themselves.")
    protocol: str | None = None
    fingerprint: str | None = Field(default=None, description="Scores compare only if their fingerprints are equal.")


class Task(BaseModel):
    """Short work on a checkpoint."""

    id: str
    object: Literal["task"] = "task"
    kind: Literal["sample", "score"]
    job_id: str
    checkpoint_id: str
    state: State
    terminal: bool = Field(description="Whether the task has ended.")
    reason: str | None
    message: str | None
    request: dict[str, Any] = Field(description="What is to be done.")
    result: TaskResult | None = Field(description="Once the task has succeeded.")
    created_at: str
    started_at: str | None
    finished_at: str | None
    links: dict[str, str]

    @classmethod
    def of(cls, row: Row) -> Self:
        """A task's row."""
        own = f"/v1/tasks/{row['id']}"
        request = dict(row["request"])
        return cls(
            **{name: row[name] for name in ("id", "kind", "state", "reason", "message")},
            job_id=request.pop("job_id"),
            checkpoint_id=request.pop("checkpoint_id"),
            terminal=row["state"] in TERMINAL,
            request=request,
            result=_result(row["result"]),
            created_at=rfc3339(row["created_at"]),
            started_at=optional_rfc3339(row["started_at"]),
            finished_at=optional_rfc3339(row["finished_at"]),
            links={"self": own, "cancel": f"{own}/cancel", "stream": f"/v1/jobs/{row['id']}/stream"},
        )


def _result(result: Mapping[str, Any] | None) -> TaskResult | None:
    if result is None:
        return None
    url = {"url": f"/v1/blobs/{result['sha256']}"} if "sha256" in result else {}
    return TaskResult(**{**result, **url})


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
    peeks: int = Field(description="Evaluations that a best was chosen from, at most.")
    mean_rank: Number | None = Field(description="Over the seeds that all ranked designs have; NaN after a breakdown.")
    first_share: Number | None = Field(description="Of resamples of those seeds, in which this mean is the best.")
    difference: Number | None = Field(default=None, description="Mean difference to the reference, seed by seed.")
    difference_low: Number | None = None
    difference_high: Number | None = None
    pairs: int | None = Field(default=None, description="Seeds that this design and the reference share.")
    p_value: Number | None = Field(default=None, description="Of the paired t-test, two-sided.")
    p_holm: Number | None = Field(default=None, description="The same, adjusted by Holm for the tests of the table.")
    p_permutation: Number | None = Field(default=None, description="Under all flips of the differences' signs.")
    detectable: Number | None = Field(
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


class Importable(BaseModel):
    """A run directory in the service's inbox."""

    name: str
    variant: str | None
    seed: int | None
    total_steps: int | None
    status: Literal["completed", "diverged", "unfinished"] | None
    problem: str | None = Field(description="Why it cannot be taken in.")


class ImportRun(Body):
    """A run directory in the service's inbox, to become a job."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "digits-mhe-seed0", "labels": {}}]})

    name: Annotated[str, Field(min_length=1, max_length=100)]
    """One of `GET /v1/imports`."""
    labels: Labels = Field(default_factory=dict)
    """Labels of the job."""
