"""What the service tells about its things, as frozen values. Fields that a newer service adds are passed over."""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Progress(_Record):
    """How far a job is, in generator steps. Rates are None while it does not run."""

    step: int
    total_steps: int | None
    steps_per_second: float | None
    images_per_second: float | None
    eta_seconds: float | None


class Score(_Record):
    """Scores by metric, of the generator at one step."""

    step: int
    scores: Mapping[str, float]


class Scores(_Record):
    """What came of a run. real: of the real images; fingerprints: of each score by name.

    The values of a score compare only if their fingerprints are equal. fingerprint: of the job's metric.
    """

    final: Score | None
    best: Score | None
    real: Mapping[str, float] | None
    protocol: str | None
    fingerprint: str | None
    fingerprints: Mapping[str, str] = {}


class PrimaryMetric(_Record):
    """The score to look at in a list. best: None while no finite value was measured."""

    name: str
    step: int
    latest: float
    best: float | None
    best_step: int | None


class Job(_Record):
    """A training job. `terminal`: it has ended, and only a retry of a failed one goes on."""

    id: str
    name: str | None
    state: str
    terminal: bool
    reason: str | None
    message: str | None
    variant: str | None
    seed: int | None
    progress: Progress
    config: Mapping[str, Any]
    config_digest: str
    priority: int
    labels: Mapping[str, str]
    experiment_id: str | None
    cell: Mapping[str, Any] | None
    metric: PrimaryMetric | None
    scores: Scores | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    exit_code: int | None
    revision: int

    @property
    def title(self) -> str:
        """What to call it before people: its own name, or else variant, seed and what else its experiment varies."""
        if self.name and self.experiment_id is None:
            return self.name
        varied = {key: value for key, value in (self.cell or {}).items() if key not in ("variant", "seed")}
        return " ".join([f"{self.variant} seed {self.seed}", *(f"{key}={_plain(varied[key])}" for key in varied)])


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


class DryRun(_Record):
    """What a job would be: its whole configuration, and its cost in units that no device changes."""

    config: Mapping[str, Any]
    config_digest: str
    estimate: Mapping[str, Any]


class Cell(_Record):
    """One job of an experiment; the values that it varies are in the job."""

    job_id: str
    state: str
    terminal: bool


class Experiment(_Record):
    """Jobs that share a base and differ in the matrix's keys."""

    id: str
    name: str | None
    labels: Mapping[str, str]
    matrix: Mapping[str, list[Any]]
    total: int
    counts: Mapping[str, int]
    terminal: bool
    cells: tuple[Cell, ...]
    created_at: datetime

    @property
    def job_ids(self) -> list[str]:
        """Its jobs, seed by seed."""
        return [cell.job_id for cell in self.cells]


class Sample(_Record):
    """A grid of images from latents that stay the same during a run. pruned: the picture was deleted to save space."""

    job_id: str
    step: int
    sha256: str
    width: int
    height: int
    size_bytes: int
    pruned: bool
    created_at: datetime


class Checkpoint(_Record):
    """A state of a run. status: `available`, `rejected` or `pruned`."""

    id: str
    job_id: str
    step: int
    sha256: str
    size_bytes: int
    status: str
    created_at: datetime


class TaskResult(_Record):
    """What came of a task: a file, or scores."""

    sha256: str | None = None
    media_type: str | None = None
    step: int | None = None
    scores: Mapping[str, float] | None = None
    real: Mapping[str, float] | None = None
    protocol: str | None = None
    fingerprint: str | None = None
    fingerprints: Mapping[str, str] | None = None


class Task(_Record):
    """Short work on a checkpoint."""

    id: str
    kind: str
    job_id: str
    checkpoint_id: str
    state: str
    terminal: bool
    reason: str | None
    message: str | None
    result: TaskResult | None


class LogChunk(_Record):
    """Part of what a job printed. next_offset: where to go on; complete: the job has ended and nothing follows."""

    offset: int
    next_offset: int
    text: str
    complete: bool


class Metric(_Record):
    """One metric of a job as it stands. min, max: of the finite numbers; best: of scores."""

    name: str
    step: int
    value: float
    min: float | None
    max: float | None
    best: float | None
    best_step: int | None


class Bucket(_Record):
    """The numbers of some steps in one point. step, last: the newest; nonfinite: how many were NaN or infinite."""

    first_step: int
    last_step: int
    step: int
    last: float
    min: float | None
    max: float | None
    count: int
    nonfinite: int
