"""The rows of the tables as Python types, and the two functions that read rows from a query.

There is one TypedDict per table that is read by whole rows. Its keys are the table's columns and its types are the
columns' types; a nullable column is Optional. A type checker therefore finds a misspelt column. A query of fewer or
other columns has a small TypedDict of its own, next to the query.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict, TypeVar, cast

from sqlalchemy import Connection, Executable

RowT = TypeVar("RowT", bound=Mapping[str, object])


def fetch_all(connection: Connection, query: Executable, row_type: type[RowT]) -> list[RowT]:
    """Return all rows of a query. row_type: the TypedDict of its columns; it is not checked at run time."""
    return [cast(RowT, dict(row)) for row in connection.execute(query).mappings()]


def fetch_one(connection: Connection, query: Executable, row_type: type[RowT]) -> RowT | None:
    """Return the only row of a query, or None if there is none. row_type: as for `fetch_all`.

    Raises sqlalchemy.exc.MultipleResultsFound if the query has several rows.
    """
    row = connection.execute(query).mappings().one_or_none()
    return None if row is None else cast(RowT, dict(row))


class FileRow(TypedDict):
    """The columns by which a file is found; sample and blob rows have them. path: relative to the job's directory."""

    job_id: str
    path: str


class ListedKeyRow(TypedDict):
    """An API key without its secret. max_priority, max_queued_jobs, max_streams: its limits; None: the settings'."""

    prefix: str
    name: str
    project: str
    scopes: Sequence[str]
    created_at: int
    revoked_at: int | None
    max_priority: int | None
    max_queued_jobs: int | None
    max_streams: int | None


class KeyRow(ListedKeyRow):
    """`api_keys`."""

    secret_sha256: str


class NewExperimentRow(TypedDict):
    """An experiment that has no number yet. base: the keys preset, config and overrides, as far as they were sent."""

    id: str
    project: str
    name: str | None
    labels: Mapping[str, str]
    base: Mapping[str, Any]
    matrix: Mapping[str, Sequence[Any]]
    created_at: int


class ExperimentRow(NewExperimentRow):
    """`experiments`."""

    seq: int


class CellRow(TypedDict):
    """The columns of a job that an experiment shows."""

    id: str
    state: str
    cell: Mapping[str, Any] | None


class ForkedFrom(TypedDict):
    """The checkpoint that a forked job starts from.

    same_config: the fork only trains for longer. one_config: so does every fork before it, back to a job that is none.
    """

    job_id: str
    checkpoint_id: str
    step: int
    same_config: bool
    one_config: bool


class JobRow(TypedDict):
    """`jobs`. request: a RunConfig document, or a task's parameters. result: as the worker reported it."""

    seq: int
    id: str
    project: str
    kind: str
    name: str | None
    labels: Mapping[str, str]
    origin: str
    experiment_id: str | None
    cell: Mapping[str, Any] | None
    forked_from: ForkedFrom | None
    request: Mapping[str, Any]
    request_sha256: str
    variant: str | None
    seed: int | None
    device: str
    wall_seconds_limit: float | None
    start_deadline: int | None
    state: str
    reason: str | None
    message: str | None
    exit_code: int | None
    priority: int
    rank: int
    not_before: int | None
    lease_epoch: int
    attempts: int
    infrastructure_used: int
    program_used: int
    stop_mode: str | None
    stop_at: int | None
    step: int
    total_steps: int | None
    steps_per_second: float | None
    images_per_second: float | None
    eta_seconds: float | None
    result: Mapping[str, Any] | None
    wall_seconds_used: float
    events_offset: int
    events_seq: int
    console_offset: int
    journal_seq: int
    revision: int
    created_at: int
    queued_at: int | None
    started_at: int | None
    finished_at: int | None


class JobChanges(TypedDict, total=False):
    """Columns of `jobs` that change during a job's life, other than its state."""

    reason: str | None
    message: str | None
    exit_code: int | None
    rank: int
    not_before: int | None
    lease_epoch: int
    attempts: int
    infrastructure_used: int
    program_used: int
    stop_mode: str | None
    stop_at: int | None
    step: int
    total_steps: int | None
    steps_per_second: float | None
    images_per_second: float | None
    eta_seconds: float | None
    result: Mapping[str, Any] | None
    wall_seconds_used: float
    events_offset: int
    events_seq: int
    console_offset: int
    created_at: int
    queued_at: int | None
    started_at: int | None
    finished_at: int | None


class AttemptRow(TypedDict):
    """`attempts`. handle: how the executor identifies the attempt; None until it is launched."""

    id: str
    job_id: str
    number: int
    epoch: int
    executor: str
    slot: str
    handle: Mapping[str, Any] | None
    live: bool
    resumed_from_step: int | None
    created_at: int
    started_at: int | None
    ended_at: int | None
    exit_code: int | None
    signal: int | None
    cause: str | None
    reason: str | None
    message: str | None


class NewJournalRow(TypedDict):
    """A journal row that has no number yet."""

    job_id: str
    job_seq: int
    type: str
    time: int
    data: Mapping[str, Any]


class JournalRow(NewJournalRow):
    """`journal`."""

    seq: int


class MetricSummaryRow(TypedDict):
    """`metric_summary`."""

    job_seq: int
    name: str
    step: int
    value: float
    kind: int
    min: float | None
    max: float | None
    best: float | None
    best_step: int | None


class EvaluationRow(TypedDict):
    """`evaluations`. scores: by metric name; a non-finite number is its name as a string."""

    job_id: str
    step: int
    purpose: str
    attempt: int
    scores: Mapping[str, float | str]
    protocol: str
    fingerprint: str
    seconds: float


class SampleRow(TypedDict):
    """`samples`: one grid of images."""

    job_id: str
    step: int
    attempt: int
    sha256: str
    path: str
    size_bytes: int
    width: int
    height: int
    created_at: int
    pruned_at: int | None


class NewCheckpointRow(TypedDict):
    """A checkpoint that has no id yet."""

    job_id: str
    step: int
    attempt: int
    sha256: str
    path: str
    size_bytes: int
    status: Literal["available", "rejected", "pruned"]
    created_at: int


class CheckpointRow(NewCheckpointRow):
    """`checkpoints`."""

    id: str


class BlobRow(TypedDict):
    """`blobs`."""

    sha256: str
    job_id: str
    path: str
    media_type: str
    size_bytes: int


class IdempotencyKeyRow(TypedDict):
    """`idempotency_keys`. body: a JSON document as text."""

    owner: str
    method: str
    path: str
    key: str
    body_sha256: str
    status: int
    headers: Mapping[str, str]
    body: str
    created_at: int
