"""Pages of training jobs, and what is shown with them: one query per page, never one per job."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

from sqlalchemy import Column, ColumnElement, Connection, Select, and_, func, select, tuple_

from gan_mhe.config.names import DEFAULT_TASK, TASKS
from server.queue.queue import TRAIN
from server.store import metric_points, sqlite, tables
from server.store.rows import AttemptRow, JobRow, MetricSummaryRow, RowT, SampleRow, fetch_all

Order = Literal["asc", "desc"]

_jobs, _attempts, _labels = tables.jobs, tables.attempts, tables.job_labels
_summary, _samples = tables.metric_summary, tables.samples


class PrimaryMetric(TypedDict):
    """A job's latest and best primary score. latest: a number, or the name of a non-finite one."""

    name: str
    step: int
    latest: float | str
    best: float | None
    best_step: int | None


@dataclass(frozen=True)
class JobFilter:
    """A selection of jobs. A job has one of the states, one of the variants, and all of the labels.

    created_after, created_before: milliseconds, both exclusive. name: part of the name, in any case of any alphabet.
    """

    states: Sequence[str] = ()
    variants: Sequence[str] = ()
    labels: Sequence[tuple[str, str]] = ()
    experiment_id: str | None = None
    name: str | None = None
    created_after: int | None = None
    created_before: int | None = None

    def conditions(self) -> list[ColumnElement[bool]]:
        """Return the SQL conditions of the selection."""
        found: list[ColumnElement[bool]] = []
        if self.states:
            found.append(_jobs.c.state.in_(self.states))
        if self.variants:
            found.append(_jobs.c.variant.in_(self.variants))
        if self.experiment_id is not None:
            found.append(_jobs.c.experiment_id == self.experiment_id)
        if self.name is not None:
            found.append(sqlite.contains_caseless(_jobs.c.name, self.name))
        if self.created_after is not None:
            found.append(_jobs.c.created_at > self.created_after)
        if self.created_before is not None:
            found.append(_jobs.c.created_at < self.created_before)
        return [*found, *(_labelled(key, value) for key, value in self.labels)]


def _labelled(key: str, value: str) -> ColumnElement[bool]:
    """The condition that a job has a label, looked up job by job: a page then ends with its last row, unsorted."""
    mine = (_labels.c.job_seq == _jobs.c.seq, _labels.c.key == key)
    return select(_labels.c.job_seq).where(*mine, _labels.c.value == value).exists()


def page(
    connection: Connection, project: str, which: JobFilter, *, order: Order, after: int | None, limit: int
) -> tuple[list[JobRow], bool]:
    """Return up to `limit` training jobs by creation, and whether more follow. after: the `seq` to start after."""
    query = select(_jobs).where(_jobs.c.project == project, _jobs.c.kind == TRAIN, *which.conditions())
    return keyset_page(connection, query, JobRow, _jobs.c.seq, order=order, after=after, limit=limit)


def keyset_page(
    connection: Connection,
    query: Select[Any],
    row_type: type[RowT],
    seq: Column[Any],
    *,
    order: Order,
    after: int | None,
    limit: int,
) -> tuple[list[RowT], bool]:
    """Return up to `limit` rows of a query sorted by the column `seq`, and whether more follow.

    after: the `seq` to start after, in the direction of `order`. It fetches one more row than it returns.
    """
    if after is not None:
        query = query.where(seq > after if order == "asc" else seq < after)
    query = query.order_by(seq.asc() if order == "asc" else seq.desc()).limit(limit + 1)
    rows = fetch_all(connection, query, row_type)
    return rows[:limit], len(rows) > limit


def newest_attempts(connection: Connection, rows: Sequence[JobRow]) -> dict[str, AttemptRow]:
    """Return the newest attempt of each job that had one, by job id."""
    newest = and_(_attempts.c.job_id == _jobs.c.id, _attempts.c.number == _jobs.c.attempts)
    query = select(_attempts).join(_jobs, newest).where(_jobs.c.id.in_([row["id"] for row in rows]))
    return {row["job_id"]: row for row in fetch_all(connection, query, AttemptRow)}


def newest_samples(connection: Connection, rows: Sequence[JobRow]) -> dict[str, SampleRow]:
    """Return the newest grid of each job that has one whose file is kept, by job id."""
    kept = (_samples.c.job_id.in_([row["id"] for row in rows]), _samples.c.pruned_at.is_(None))
    newest = select(_samples.c.job_id, func.max(_samples.c.step)).where(*kept).group_by(_samples.c.job_id)
    query = select(_samples).where(tuple_(_samples.c.job_id, _samples.c.step).in_(newest))
    return {row["job_id"]: row for row in fetch_all(connection, query, SampleRow)}


def primary_metrics(connection: Connection, rows: Sequence[JobRow]) -> dict[int, PrimaryMetric]:
    """Return the latest and the best score of each scored job in the metric that ranks it, by the job's `seq`."""
    metrics = {row["seq"]: _ranking_metric(row) for row in rows}
    scored = (_summary.c.job_seq.in_(metrics), _summary.c.name.in_(set(metrics.values())))
    found = fetch_all(connection, select(_summary).where(*scored), MetricSummaryRow)
    return {
        row["job_seq"]: {
            "name": row["name"],
            "step": row["step"],
            "latest": metric_points.to_json(row["value"], row["kind"]),
            "best": row["best"],
            "best_step": row["best_step"],
        }
        for row in found
        if row["name"] == metrics[row["job_seq"]]
    }


def _ranking_metric(row: JobRow) -> str:
    """Return the metric that the job's result names, or, without a result, that of its task."""
    metric = (row["result"] or {}).get("metric")
    return metric if isinstance(metric, str) and metric else TASKS[DEFAULT_TASK].metric
