"""Resources of the service as frozen values. Fields that a newer service adds are ignored."""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict

from gan_mhe.records.data_summary import DataSummary
from gan_mhe.text import printable


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Progress(_Record):
    """Progress of a job in generator steps. Rates are None while it does not run."""

    step: int
    total_steps: int | None
    steps_per_second: float | None
    images_per_second: float | None
    eta_seconds: float | None


class Score(_Record):
    """Scores of the generator at one step, by metric."""

    step: int
    scores: Mapping[str, float]


class Scores(_Record):
    """Scores of a run. real: scores of the real images; fingerprint: of the job's metric; fingerprints: by score.

    Two values of a score are comparable only if their fingerprints are equal.
    """

    final: Score | None
    best: Score | None
    real: Mapping[str, float] | None
    protocol: str | None
    fingerprint: str | None
    fingerprints: Mapping[str, str] = {}


class PrimaryMetric(_Record):
    """The score shown in lists. best: None until a finite value was measured."""

    name: str
    step: int
    latest: float
    best: float | None
    best_step: int | None


class Job(_Record):
    """A training job. `terminal`: it has ended; only a retry of a failed job continues it.

    variant_label: the variant with the constraints and the loss in which the job differs from it; data: what its data
    set held, once its run has ended; both are None from services of older versions.
    """

    id: str
    name: str | None
    state: str
    terminal: bool
    reason: str | None
    message: str | None
    variant: str | None
    variant_label: str | None = None
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
    data: DataSummary | None = None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    exit_code: int | None
    revision: int

    @property
    def title(self) -> str:
        """A line of text: the job's own name, or else label, seed, and the other values that its experiment varies.

        Control characters, which services of older versions accepted in names, are escaped.
        """
        if self.name and self.experiment_id is None:
            return printable(self.name)
        covered = ("variant", "seed", *(("loss", "constraints") if self.variant_label else ()))
        varied = {key: value for key, value in (self.cell or {}).items() if key.split(".")[0] not in covered}
        values = (f"{key}={_plain(varied[key])}" for key in varied)
        return printable(" ".join([f"{self.variant_label or self.variant} seed {self.seed}", *values]))

    @property
    def outcome(self) -> str:
        """A line of text: the job's state, and its message if it has one."""
        return printable(f"{self.state}: {self.message}" if self.message else self.state)


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


class DryRun(_Record):
    """A job that was not created: its complete configuration and its cost in device-independent units."""

    config: Mapping[str, Any]
    config_digest: str
    estimate: Mapping[str, Any]


class ExperimentDryRun(_Record):
    """An experiment that was not created: its number of jobs, and their summed cost in device-independent units."""

    total: int
    estimate: Mapping[str, Any]


class Cell(_Record):
    """A job of an experiment; the job itself has the values that the experiment varies."""

    job_id: str
    state: str
    terminal: bool


class Experiment(_Record):
    """An experiment: jobs with one base configuration and different values of the matrix's keys."""

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
        """Ids of its jobs, seed by seed."""
        return [cell.job_id for cell in self.cells]


class Sample(_Record):
    """A grid of images from latents that stay the same. pruned: the image was deleted to save space."""

    job_id: str
    step: int
    sha256: str
    width: int
    height: int
    size_bytes: int
    pruned: bool
    created_at: datetime


class Checkpoint(_Record):
    """A saved state of a run. status: `available`, `rejected` or `pruned`."""

    id: str
    job_id: str
    step: int
    sha256: str
    size_bytes: int
    status: str
    created_at: datetime


class TaskResult(_Record):
    """Result of a task: a file or scores."""

    sha256: str | None = None
    media_type: str | None = None
    step: int | None = None
    scores: Mapping[str, float] | None = None
    real: Mapping[str, float] | None = None
    protocol: str | None = None
    fingerprint: str | None = None
    fingerprints: Mapping[str, str] | None = None


class Task(_Record):
    """A sampling or scoring task on a checkpoint."""

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
    """Part of a job's output. next_offset: start of the next part. complete: the job has ended, no output follows."""

    offset: int
    next_offset: int
    text: str
    complete: bool


class Metric(_Record):
    """Current values of a metric. min, max: of the finite values. best: for scores only."""

    name: str
    step: int
    value: float
    min: float | None
    max: float | None
    best: float | None
    best_step: int | None


class Bucket(_Record):
    """Values of consecutive steps, summarized. step, last: the newest. nonfinite: number of NaN and infinite values."""

    first_step: int
    last_step: int
    step: int
    last: float
    min: float | None
    max: float | None
    count: int
    nonfinite: int
