"""Reading metrics: the latest values of a job, and a metric's history in a limited number of points."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypedDict

from sqlalchemy import ColumnElement, Connection, Select, Subquery, and_, func, literal, select, union_all

from server.store import tables
from server.store.metric_points import BLOCK_STEPS, FINITE, finite_value, is_nonfinite, to_json
from server.store.rows import JobRow, MetricSummaryRow, fetch_all

MAX_POINTS = 5000

Mode = Literal["minmax", "raw"]
Attempts = Literal["effective", "all"]

_names, _points, _blocks, _summary = (
    tables.metric_names,
    tables.metric_points,
    tables.metric_blocks,
    tables.metric_summary,
)


class LatestMetric(TypedDict):
    """A metric's newest value and its step, its minimum and maximum and, for a score, its best value.

    value: a number, or the name of a non-finite one. min, max, best: of the finite values, None if there is none.
    """

    name: str
    step: int
    value: float | str
    min: float | None
    max: float | None
    best: float | None
    best_step: int | None


class Bucket(TypedDict):
    """The points of the steps from first_step to last_step. last: the value at `step`, the newest of them.

    min, max: of the finite values, None if there is none.
    """

    first_step: int
    last_step: int
    step: int
    last: float | str
    min: float | None
    max: float | None
    count: int
    nonfinite: int


class Point(TypedDict):
    """One measured value. attempt: the number of the attempt that measured it."""

    step: int
    attempt: int
    value: float | str


@dataclass(frozen=True)
class History:
    """One metric over the steps, oldest first. Non-finite numbers are strings: NaN, Infinity, -Infinity."""

    name: str
    mode: Mode
    bucket_steps: int
    """Steps per bucket; 1 if there are no more points than asked for, so that each bucket is one point."""
    points: Sequence[Bucket] | Sequence[Point]
    """Buckets in mode `minmax`, points in mode `raw`."""
    total_points: int
    """Measured points between from_step and to_step."""
    next_after: int | None
    """`after` of the next page, None on the last one and in mode `minmax`."""
    last_seq: int
    """Lines of the run's journal that this covers: equal numbers mean an equal history."""


class _PointRow(TypedDict):
    step: int
    attempt: int
    value: float
    kind: int


class _BucketRow(TypedDict):
    bucket: int
    last_step: int
    min: float | None
    max: float | None
    points: int
    nonfinite: int
    value: float
    kind: int


def latest(connection: Connection, job: JobRow) -> list[LatestMetric]:
    """Return the latest values of all metrics of a job, by name."""
    query = select(_summary).where(_summary.c.job_seq == job["seq"]).order_by(_summary.c.name)
    return [
        {
            "name": row["name"],
            "step": row["step"],
            "value": to_json(row["value"], row["kind"]),
            "min": row["min"],
            "max": row["max"],
            "best": row["best"],
            "best_step": row["best_step"],
        }
        for row in fetch_all(connection, query, MetricSummaryRow)
    ]


@dataclass(frozen=True)
class _Series:
    """The points of one metric from step `first` to step `last`, both included. last: None for no limit."""

    job_seq: int
    name_id: int | None
    attempts: Attempts
    first: int
    last: int | None

    def conditions(self) -> list[ColumnElement[bool]]:
        within = [_points.c.step >= self.first]
        if self.last is not None:
            within.append(_points.c.step <= self.last)
        return self.at_any_step() + within

    def at_any_step(self) -> list[ColumnElement[bool]]:
        mine = [_points.c.job_seq == self.job_seq, _points.c.name_id == self.name_id]
        return mine if self.attempts == "all" else [*mine, ~_points.c.superseded]

    def rows(self, connection: Connection, limit: int | None = None) -> list[_PointRow]:
        columns = (_points.c.step, _points.c.attempt, _points.c.value, _points.c.kind)
        query = select(*columns).where(*self.conditions()).order_by(_points.c.step, _points.c.attempt).limit(limit)
        return fetch_all(connection, query, _PointRow)

    def newest_step(self) -> Select[Any]:
        return select(_points.c.step).where(*self.conditions()).order_by(_points.c.step.desc()).limit(1)


def history(
    connection: Connection,
    job: JobRow,
    name: str,
    *,
    from_step: int | None = None,
    to_step: int | None = None,
    max_points: int = 1000,
    mode: Mode = "minmax",
    attempt: Attempts = "effective",
    after: int | None = None,
) -> History:
    """Return the history of a job's metric; it is empty if the job has no metric of this name.

    from_step, to_step: the range of steps, both included. max_points: at most so many, and never more than MAX_POINTS;
    in mode `raw` a page is longer if several attempts measured its last step. attempt: `effective` omits points that a
    later attempt repeated. after: only steps above this one.
    """
    first = max(from_step or 0, 0 if after is None else after + 1)
    name_id = connection.execute(select(_names.c.id).where(_names.c.name == name)).scalar_one_or_none()
    series = _Series(job["seq"], name_id, attempt, first, to_step)
    last_seq = connection.execute(select(tables.jobs.c.events_seq).where(tables.jobs.c.seq == job["seq"])).scalar_one()
    limit = min(max_points, MAX_POINTS)
    rows = series.rows(connection, limit + 1)
    if mode == "raw":
        everything = replace(series, first=from_step or 0)
        points, next_after = _page(connection, series, rows, limit)
        return History(name, mode, 1, points, _count(connection, everything), next_after, last_seq)
    if len(rows) <= limit:
        return History(name, mode, 1, [_bucket_of_one(row) for row in rows], len(rows), None, last_seq)
    width, buckets = _buckets(connection, series, rows[0]["step"], limit)
    return History(name, mode, width, buckets, sum(bucket["count"] for bucket in buckets), None, last_seq)


def _count(connection: Connection, series: _Series) -> int:
    return connection.execute(select(func.count()).select_from(_points).where(*series.conditions())).scalar_one()


def _page(
    connection: Connection, series: _Series, rows: Sequence[_PointRow], limit: int
) -> tuple[list[Point], int | None]:
    """Return the first `limit` rows, with all other rows of the last step among them, and the next page's `after`."""
    next_after = None
    if len(rows) > limit:
        next_after = rows[limit - 1]["step"]
        rows = replace(series, last=next_after).rows(connection)
    page: list[Point] = [
        {"step": row["step"], "attempt": row["attempt"], "value": to_json(row["value"], row["kind"])} for row in rows
    ]
    return page, next_after


def _bucket_of_one(row: _PointRow) -> Bucket:
    finite = row["value"] if row["kind"] == FINITE else None
    return {
        "first_step": row["step"],
        "last_step": row["step"],
        "step": row["step"],
        "last": to_json(row["value"], row["kind"]),
        "min": finite,
        "max": finite,
        "count": 1,
        "nonfinite": int(finite is None),
    }


def _buckets(connection: Connection, series: _Series, first: int, limit: int) -> tuple[int, list[Bucket]]:
    """Return the width in steps and the buckets, at most `limit`, from step `first` on."""
    last = connection.execute(series.newest_step()).scalar_one()
    by_blocks = series.attempts == "effective" and last - first >= BLOCK_STEPS * limit
    unit = BLOCK_STEPS if by_blocks else 1
    origin = first // unit * unit
    width = -(-(last - origin + 1) // (unit * limit)) * unit
    spans = _block_spans(series, origin, width, last) if by_blocks else _point_spans(series, origin, width).subquery()
    buckets: dict[int, Bucket] = {}
    for row in fetch_all(connection, _grouped(series, spans), _BucketRow):
        buckets[row["bucket"]] = {
            "first_step": origin + row["bucket"] * width,
            "last_step": origin + row["bucket"] * width + width - 1,
            "step": row["last_step"],
            "last": to_json(row["value"], row["kind"]),
            "min": row["min"],
            "max": row["max"],
            "count": row["points"],
            "nonfinite": row["nonfinite"],
        }
    return width, list(buckets.values())


def _grouped(series: _Series, spans: Subquery) -> Select[Any]:
    """Select the spans by bucket, each with its newest point; of several attempts at its step the newest comes last."""
    buckets = (
        select(
            spans.c.bucket,
            func.max(spans.c.last_step).label("last_step"),
            func.min(spans.c.min).label("min"),
            func.max(spans.c.max).label("max"),
            func.sum(spans.c.points).label("points"),
            func.sum(spans.c.nonfinite).label("nonfinite"),
        )
        .group_by(spans.c.bucket)
        .subquery()
    )
    # No range of steps here: SQLite would scan the range for every bucket instead of looking the step up.
    newest = and_(*series.at_any_step(), _points.c.step == buckets.c.last_step)
    query = select(buckets, _points.c.value, _points.c.kind).join(_points, newest)
    return query.order_by(buckets.c.bucket, _points.c.attempt)


def _point_spans(series: _Series, origin: int, width: int) -> Select[Any]:
    """Select every point as a span of one step."""
    return select(
        ((_points.c.step - origin) // width).label("bucket"),
        _points.c.step.label("last_step"),
        finite_value().label("min"),
        finite_value().label("max"),
        literal(1).label("points"),
        is_nonfinite().label("nonfinite"),
    ).where(*series.conditions())


def _block_spans(series: _Series, origin: int, width: int, last: int) -> Subquery:
    """Select the blocks that lie wholly in the series, and the points of the blocks that it covers in part."""
    low = -(-series.first // BLOCK_STEPS)
    high = last // BLOCK_STEPS + 1 if series.last is None else (series.last + 1) // BLOCK_STEPS
    blocks = select(
        ((_blocks.c.block * BLOCK_STEPS - origin) // width).label("bucket"),
        *(_blocks.c[name] for name in ("last_step", "min", "max", "points", "nonfinite")),
    ).where(
        _blocks.c.job_seq == series.job_seq,
        _blocks.c.name_id == series.name_id,
        _blocks.c.block >= low,
        _blocks.c.block < high,
    )
    # One bound on each side: with two lower bounds SQLite would look up the first and scan from there.
    before = _point_spans(replace(series, last=low * BLOCK_STEPS - 1), origin, width)
    behind = _point_spans(replace(series, first=high * BLOCK_STEPS), origin, width)
    return union_all(before, blocks, behind).subquery()
