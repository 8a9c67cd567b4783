"""Schemas of tasks."""

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from gan_mhe.config.names import DEFAULT_TASK, TASKS
from gan_mhe.records.result import read_fingerprints
from server.clock import optional_rfc3339, rfc3339
from server.http.schemas.jobs import Number
from server.queue.states import TERMINAL, State
from server.queue.tasks import SAMPLE
from server.store.rows import JobRow


class TaskResult(BaseModel):
    """Result of a task: a file for sampling, scores for scoring."""

    model_config = ConfigDict(extra="allow")

    sha256: str | None = None
    size_bytes: int | None = None
    media_type: str | None = None
    url: str | None = Field(default=None, description="Path of the file.")
    step: int | None = None
    scores: dict[str, Number] | None = None
    real: dict[str, Number] | None = Field(default=None, description="Scores of the real images.")
    protocol: str | None = None
    fingerprint: str | None = Field(default=None, description="Fingerprint of the score that ranks runs.")
    fingerprints: dict[str, str] | None = Field(
        default=None,
        description="Fingerprint of each score by name. Scores are comparable only if their fingerprints are equal.",
    )


class Task(BaseModel):
    """A sampling or scoring task on a checkpoint."""

    id: str
    object: Literal["task"] = "task"
    kind: Literal["sample", "score"]
    job_id: str
    checkpoint_id: str
    state: State
    terminal: bool = Field(description="Whether the task has ended.")
    reason: str | None
    message: str | None
    request: dict[str, Any] = Field(description="Parameters of the task.")
    result: TaskResult | None = Field(description="Available after the task has succeeded.")
    created_at: str
    started_at: str | None
    finished_at: str | None
    links: dict[str, str]

    @classmethod
    def of(cls, row: JobRow) -> Self:
        """The task of a database row."""
        own = f"/v1/tasks/{row['id']}"
        request = dict(row["request"])
        content = {"content": f"{own}/content"} if row["kind"] == SAMPLE else {}
        values = {
            **row,
            "job_id": request.pop("job_id"),
            "checkpoint_id": request.pop("checkpoint_id"),
            "terminal": row["state"] in TERMINAL,
            "request": request,
            "result": _readable(row["result"]),
            "created_at": rfc3339(row["created_at"]),
            "started_at": optional_rfc3339(row["started_at"]),
            "finished_at": optional_rfc3339(row["finished_at"]),
            "links": {"self": own, "cancel": f"{own}/cancel", "stream": f"/v1/jobs/{row['id']}/stream", **content},
        }
        return cls.model_validate(values)


def _readable(result: Mapping[str, Any] | None) -> TaskResult | None:
    """The result; None if it cannot be read, because one row must not fail a list."""
    try:
        return _result(result)
    except (AttributeError, TypeError, ValueError):
        return None


def _result(result: Mapping[str, Any] | None) -> TaskResult | None:
    if result is None:
        return None
    if "sha256" in result:
        return TaskResult(**{**result, "url": f"/v1/blobs/{result['sha256']}"})
    fingerprints = read_fingerprints(result)
    return TaskResult(
        **{**result, "fingerprints": fingerprints, "fingerprint": fingerprints.get(TASKS[DEFAULT_TASK].metric)},
    )
