"""Schemas of jobs. They never contain paths of the server."""

import json
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Literal, Self, TypeVar

from pydantic import BaseModel, Field

from gan_mhe.config.run_config import RunConfig
from gan_mhe.errors import GanMheError
from gan_mhe.records.data_summary import DataSummary
from gan_mhe.records.result import read_fingerprints
from server.clock import optional_rfc3339, rfc3339
from server.queue import job_list
from server.queue.states import TERMINAL, State
from server.settings import Settings
from server.store.rows import AttemptRow, JobRow, SampleRow

T = TypeVar("T")
Number = float | Literal["NaN", "Infinity", "-Infinity"]


class Progress(BaseModel):
    """Progress and speed of a job."""

    step: int = Field(description="Number of generator updates so far.")
    total_steps: int | None
    steps_per_second: float | None
    images_per_second: float | None
    eta_seconds: float | None


class Attempt(BaseModel):
    """The newest attempt at the job."""

    id: str
    number: int = Field(description="From 1.")
    started_at: str | None
    ended_at: str | None
    resumed_from_step: int | None


class RetryCounts(BaseModel):
    """Number of retries by kind of fault."""

    infrastructure: int
    program: int


class Retry(BaseModel):
    """Retries of the job so far, and their limits."""

    used: RetryCounts
    limit: RetryCounts


class Score(BaseModel):
    """Scores of the generator at one step."""

    step: int
    scores: dict[str, Number]


class Scores(BaseModel):
    """Scores of the run. `best` was scored again with latents that were not used in choosing it."""

    metric: str = Field(description="Metric by which `best` was chosen.")
    final: Score | None
    best: Score | None
    real: dict[str, Number] | None = Field(description="Scores of the real images.")
    protocol: str | None
    fingerprint: str | None = Field(description="Fingerprint of `metric`.")
    fingerprints: dict[str, str] = Field(
        description="Fingerprint of each score by name. Scores are comparable only if their fingerprints are equal."
    )

    @classmethod
    def of(cls, result: Mapping[str, Any]) -> Self:
        """The scores in the document of a run's result."""
        fingerprints = read_fingerprints(result)
        values = {name: result.get(name) for name in ("metric", "final", "best", "real", "protocol")}
        fingerprint = fingerprints.get(result["metric"])
        return cls.model_validate({**values, "fingerprint": fingerprint, "fingerprints": fingerprints})


class PrimaryMetric(BaseModel):
    """The score to show in lists."""

    name: str
    step: int
    latest: Number
    best: float | None
    best_step: int | None


class NewestSample(BaseModel):
    """The newest grid of generated images."""

    step: int
    sha256: str
    links: dict[str, str]

    @classmethod
    def of(cls, row: SampleRow) -> Self:
        """The grid of a database row."""
        thumbnail = f"/v1/jobs/{row['job_id']}/samples/{row['step']}/thumbnail?sha256={row['sha256']}"
        links = {"image": f"/v1/blobs/{row['sha256']}", "thumbnail": thumbnail}
        return cls(step=row["step"], sha256=row["sha256"], links=links)


class ForkedFrom(BaseModel):
    """The checkpoint from which the job was forked."""

    job_id: str
    checkpoint_id: str
    step: int
    same_config: bool = Field(
        description="Whether the job continues exactly as the original one would have, on the same data."
    )


class Job(BaseModel):
    """A training job."""

    id: str
    object: Literal["job"] = "job"
    project: str
    name: str | None
    state: State
    terminal: bool = Field(description="Whether the job has ended, so that clients need no list of states.")
    reason: str | None
    message: str | None
    origin: str = Field(description="submitted, forked or imported.")
    variant: str | None
    variant_label: str | None = Field(
        description="The variant with the constraints and the loss in which the job differs from it, such as "
        "`none + constraints.normalization=spectral`."
    )
    seed: int | None
    progress: Progress
    config: dict[str, Any] = Field(description="The complete configuration.")
    config_digest: str = Field(description="SHA-256 of the configuration; equal digests mean equal configurations.")
    attempt: Attempt | None
    retry: Retry
    priority: int
    labels: dict[str, str]
    experiment_id: str | None
    cell: dict[str, Any] | None = Field(description="The job's keys and values in the experiment's matrix.")
    forked_from: ForkedFrom | None
    executor: str | None
    slot: str | None = Field(description="Slot of the newest attempt.")
    metric: PrimaryMetric | None
    newest_sample: NewestSample | None = Field(description="The newest grid, if there is one.")
    scores: Scores | None = Field(description="Available after the run has ended.")
    data: DataSummary | None = Field(description="What the data set held; available after the run has ended.")
    wall_seconds_limit: float | None
    wall_seconds_used: float
    start_deadline: str | None
    created_at: str
    queued_at: str | None
    started_at: str | None
    finished_at: str | None
    exit_code: int | None
    revision: int
    links: dict[str, str]

    @classmethod
    def of(
        cls,
        row: JobRow,
        settings: Settings,
        attempt: AttemptRow | None,
        metric: job_list.PrimaryMetric | None,
        sample: SampleRow | None,
    ) -> Self:
        """The job of a database row, with the rows of its newest attempt and grid and its primary metric."""
        result = row["result"]
        values = {
            **row,
            "start_deadline": optional_rfc3339(row["start_deadline"]),
            "created_at": rfc3339(row["created_at"]),
            "queued_at": optional_rfc3339(row["queued_at"]),
            "started_at": optional_rfc3339(row["started_at"]),
            "finished_at": optional_rfc3339(row["finished_at"]),
            "terminal": State(row["state"]) in TERMINAL,
            "progress": row,
            "variant_label": _label(row["request"]),
            "config": row["request"],
            "config_digest": digest(row["request_sha256"]),
            "attempt": None if attempt is None else _attempt(attempt),
            "retry": _retry(row, settings),
            "executor": None if attempt is None else attempt["executor"],
            "slot": None if attempt is None else attempt["slot"],
            "metric": metric,
            "newest_sample": None if sample is None else NewestSample.of(sample),
            "scores": _readable(Scores.of, result),
            "data": _readable(DataSummary.from_document, (result or {}).get("data")),
            "links": _links(row),
        }
        return cls.model_validate(values)


_PARTS = ("events", "stream", "metrics", "logs", "samples", "checkpoints")


def digest(sha256: str) -> str:
    """A content hash as shown to clients."""
    return f"sha256:{sha256}"


def _attempt(row: AttemptRow) -> dict[str, Any]:
    times = {"started_at": optional_rfc3339(row["started_at"]), "ended_at": optional_rfc3339(row["ended_at"])}
    return {**row, **times}


def _retry(row: JobRow, settings: Settings) -> Retry:
    return Retry(
        used=RetryCounts(infrastructure=row["infrastructure_used"], program=row["program_used"]),
        limit=RetryCounts(infrastructure=settings.infrastructure_retries, program=settings.program_retries),
    )


def _links(row: JobRow) -> dict[str, str]:
    own = f"/v1/jobs/{row['id']}"
    links = {"self": own} | {part: f"{own}/{part}" for part in _PARTS}
    if row["experiment_id"] is not None:
        links["experiment"] = f"/v1/experiments/{row['experiment_id']}"
    return links


def _readable(read: Callable[[Any], T], document: Any) -> T | None:
    """What `read` makes of a stored document; None if it cannot be read, because one row must not fail a list."""
    if document is None:
        return None
    try:
        return read(document)
    except (AttributeError, LookupError, TypeError, ValueError):
        return None


def _label(request: Mapping[str, Any]) -> str | None:
    """The label of a stored configuration; None if it cannot be read, because one row must not fail a list of jobs.

    The seed has no part in it, so that the jobs of an arm share one label.
    """
    try:
        return _label_of(json.dumps({key: value for key, value in request.items() if key != "seed"}))
    except (ValueError, GanMheError):
        return None


@lru_cache(maxsize=256)
def _label_of(configuration: str) -> str:
    """The label of a configuration in JSON: to check one takes longer than everything else in a row of a list."""
    return RunConfig.stored(json.loads(configuration)).label


class Estimate(BaseModel):
    """Cost in device-independent units."""

    steps: int = Field(description="Number of generator updates.")
    images: int = Field(description="Number of real images that the discriminator processes.")
    scored_images: int = Field(description="Number of generated images that are scored.")
    note: str


class DryRun(BaseModel):
    """The job that a request would create."""

    object: Literal["dry_run"] = "dry_run"
    config: dict[str, Any] = Field(description="The complete configuration.")
    config_digest: str
    estimate: Estimate


class BatchItem(BaseModel):
    """Result for one job of a batch."""

    id: str
    ok: bool
    state: State | None = Field(description="The job's current state; null if it does not exist.")
    problem: dict[str, Any] | None = Field(description="Problem details, as a single request would return them.")


class BatchResult(BaseModel):
    """Results for all jobs, in the order of the request."""

    object: Literal["batch"] = "batch"
    data: list[BatchItem]
