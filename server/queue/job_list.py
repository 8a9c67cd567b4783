"""Pages of training jobs, and what is shown beside their rows: one query a page each, never one a job."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import ColumnElement, Connection, Table, and_, select

from gan_mhe.config.names import DEFAULT_TASK, TASKS
from server.queue.queue import TRAIN
from server.store import metric_points, tables
from server.store.rows import Row

Order = Literal["asc", "desc"]

_jobs, _attempts, _labels, _summary = tables.jobs, tables.attempts, tables.job_labels, tables.metric_summary


@dataclass(frozen=True)
class JobFilter:
    """Which jobs. Several states or variants are alternatives; several labels must all be there.

    created_after, created_before: milliseconds, both exclusive. name: part of the name, upper and lower case alike.
    """

    states: Sequence[str] = ()
    variants: Sequence[str] = ()
    labels: Sequence[tuple[str, str]] = ()
    experiment_id: str | None = None
    name: str | None = None
    created_after: int | None = None
    created_before: int | None = None

    def conditions(self) -> list[ColumnElement[bool]]:
        """As SQL."""
        found: list[ColumnElement[bool]] = []
        if self.states:
            found.append(_jobs.c.state.in_(self.states))
        if self.variants:
            found.append(_jobs.c.variant.in_(self.variants))
        if self.experiment_id is not None:
            found.append(_jobs.c.experiment_id == self.experiment_id)
        if self.name is not None:
            found.append(_jobs.c.name.icontains(self.name, autoescape=True))
        if self.created_after is not None:
            found.append(_jobs.c.created_at > self.created_after)
        if self.created_before is not None:
            found.append(_jobs.c.created_at < self.created_before)
        return [*found, *(_labelled(key, value) for key, value in self.labels)]


def _labelled(key: str, value: str) -> ColumnElement[bool]:
    having = select(_labels.c.job_seq).where(_labels.c.key == key, _labels.c.value == value)
    return _jobs.c.seq.in_(having)


def page(
    connection: Connection, project: str, which: JobFilter, *, order: Order, after: int | None, limit: int
) -> tuple[list[Row], bool]:
    """Up to `limit` jobs in the order they were made, or the reverse, and whether more follow. after: a job's seq."""
    conditions = [_jobs.c.project == project, _jobs.c.kind == TRAIN, *which.conditions()]
    return keyset_page(connection, _jobs, conditions, order=order, after=after, limit=limit)


def keyset_page(
    connection: Connection,
    table: Table,
    conditions: Sequence[ColumnElement[bool]],
    *,
    order: Order,
    after: int | None,
    limit: int,
) -> tuple[list[Row], bool]:
    """Up to `limit` rows of a table sorted by its `seq`, and whether more follow. One row too many is asked for."""
    behind = []
    if after is not None:
        behind = [table.c.seq > after if order == "asc" else table.c.seq < after]
    sorting = table.c.seq.asc() if order == "asc" else table.c.seq.desc()
    query = select(table).where(*conditions, *behind).order_by(sorting).limit(limit + 1)
    rows: list[Row] = [dict(row) for row in connection.execute(query).mappings()]
    return rows[:limit], len(rows) > limit


def newest_attempts(connection: Connection, rows: Sequence[Row]) -> dict[str, Row]:
    """The newest attempt of each job that had one, by job id."""
    newest = and_(_attempts.c.job_id == _jobs.c.id, _attempts.c.number == _jobs.c.attempts)
    query = select(_attempts).join(_jobs, newest).where(_jobs.c.id.in_([row["id"] for row in rows]))
    return {row["job_id"]: dict(row) for row in connection.execute(query).mappings()}


def primary_metrics(connection: Connection, rows: Sequence[Row]) -> dict[int, Mapping[str, Any]]:
    """Latest and best score of each scored job in the metric that ranks it, by seq; non-finite numbers by name."""
    metrics = {row["seq"]: _ranking_metric(row) for row in rows}
    scored = (_summary.c.job_seq.in_(metrics), _summary.c.name.in_(set(metrics.values())))
    found = connection.execute(select(_summary).where(*scored)).mappings()
    return {
        row["job_seq"]: {
            "name": row["name"],
            "step": row["step"],
            "latest": metric_points.shown(row["value"], row["kind"]),
            "best": row["best"],
            "best_step": row["best_step"],
        }
        for row in found
        if row["name"] == metrics[row["job_seq"]]
    }


def _ranking_metric(row: Row) -> str:
    """The one that the job's result names; until there is a result, that of its task."""
    metric: str = (row["result"] or {}).get("metric") or TASKS[DEFAULT_TASK].metric
    return metric
