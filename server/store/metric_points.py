"""Metric points: taken in, voided when a later attempt goes over their steps again, and read back in buckets.

Three tables hold the same numbers at three grains: the points; blocks of BLOCK_STEPS steps, from which a long history
is drawn; one summary a name, for lists. Blocks and summaries cover the points that still hold, never the voided ones.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    Subquery,
    and_,
    case,
    cast,
    delete,
    func,
    insert,
    literal,
    select,
    union_all,
    update,
)
from sqlalchemy import Integer as SqlInteger

from gan_mhe.evaluation.metrics import METRICS
from server.store import tables
from server.store.rows import Row
from server.store.sqlite import upsert

BLOCK_STEPS = 64
MAX_POINTS = 5000

Mode = Literal["minmax", "raw"]
Attempts = Literal["effective", "all"]
Points = Sequence[tuple[int, Mapping[str, float]]]

_names, _points, _blocks, _summary = (
    tables.metric_names,
    tables.metric_points,
    tables.metric_blocks,
    tables.metric_summary,
)
_FINITE, _NAN, _INFINITY, _MINUS_INFINITY = range(4)
_SHOWN = {_NAN: "NaN", _INFINITY: "Infinity", _MINUS_INFINITY: "-Infinity"}


def stored(number: float) -> tuple[float, int]:
    """A number as the columns `value` and `kind`: the database has no NaN, and would make it NULL."""
    if math.isfinite(number):
        return number, _FINITE
    if math.isnan(number):
        return 0.0, _NAN
    return 0.0, _INFINITY if number > 0 else _MINUS_INFINITY


def shown(value: float, kind: int) -> float | str:
    """The columns `value` and `kind` as a JSON value; non-finite numbers by name."""
    return _SHOWN.get(kind, value)


def ingest(connection: Connection, job: Row, attempt: int, points: Points) -> None:
    """Take in what attempt number `attempt` measured, by step. Taking the same in again changes nothing."""
    ids = _name_ids(connection, {name for _, values in points for name in values})
    if not ids:
        return
    rows = [
        {
            "job_seq": job["seq"],
            "name_id": ids[name],
            "step": step,
            "attempt": attempt,
            **dict(zip(("value", "kind"), stored(number), strict=True)),
            "superseded": False,
        }
        for step, values in points
        for name, number in values.items()
    ]
    upsert(connection, _points, rows)
    steps = [step for step, _ in points]
    _sum_blocks(connection, job, ids.values(), min(steps), max(steps))
    _sum_up(connection, job, points, ids)


def _name_ids(connection: Connection, names: Collection[str]) -> dict[str, int]:
    """The numbers of metric names, new ones among them."""
    query = select(_names.c.name, _names.c.id).where(_names.c.name.in_(names))
    found = _pairs(connection, query)
    new = sorted(set(names) - found.keys())
    if not new:
        return found
    connection.execute(_names.insert(), [{"name": name} for name in new])
    return _pairs(connection, query)


def _pairs(connection: Connection, query: Select[str, int]) -> dict[str, int]:
    return {row[0]: row[1] for row in connection.execute(query)}


def _sum_blocks(connection: Connection, job: Row, name_ids: Collection[int], first: int, last: int) -> None:
    """Sum up again the blocks that have points from step `first` to `last`."""
    low, high = first // BLOCK_STEPS, last // BLOCK_STEPS
    mine = (_blocks.c.job_seq == job["seq"], _blocks.c.name_id.in_(name_ids))
    connection.execute(delete(_blocks).where(*mine, _blocks.c.block.between(low, high)))
    block = _points.c.step // BLOCK_STEPS
    sums = (
        select(
            _points.c.job_seq,
            _points.c.name_id,
            block,
            func.max(_points.c.step),
            func.min(_finite()),
            func.max(_finite()),
            func.count(),
            func.sum(_nonfinite()),
        )
        .where(
            _points.c.job_seq == job["seq"],
            _points.c.name_id.in_(name_ids),
            _points.c.step.between(low * BLOCK_STEPS, high * BLOCK_STEPS + BLOCK_STEPS - 1),
            ~_points.c.superseded,
        )
        .group_by(_points.c.job_seq, _points.c.name_id, block)
    )
    connection.execute(insert(_blocks).from_select(list(_blocks.c.keys()), sums))


def _finite() -> ColumnElement[float]:
    """The value where it is finite; aggregates pass over the rest."""
    return case((_points.c.kind == _FINITE, _points.c.value))


def _nonfinite() -> ColumnElement[int]:
    return cast(_points.c.kind != _FINITE, SqlInteger)


def _sum_up(connection: Connection, job: Row, points: Points, names: Iterable[str]) -> None:
    """Carry the summaries on by new points."""
    query = select(_summary).where(_summary.c.job_seq == job["seq"], _summary.c.name.in_(list(names)))
    summaries = {row["name"]: dict(row) for row in connection.execute(query).mappings()}
    for step, values in points:
        for name, number in values.items():
            _fold(summaries.setdefault(name, _empty_summary(job, name)), step, number)
    upsert(connection, _summary, list(summaries.values()))


def _empty_summary(job: Row, name: str) -> dict[str, Any]:
    nothing = dict.fromkeys(("min", "max", "best", "best_step"))
    return {"job_seq": job["seq"], "name": name, "step": -1, "value": 0.0, "kind": _FINITE, **nothing}


def _fold(summary: dict[str, Any], step: int, number: float) -> None:
    value, kind = stored(number)
    if step >= summary["step"]:
        summary.update(step=step, value=value, kind=kind)
    if kind != _FINITE:
        return
    summary["min"] = value if summary["min"] is None else min(value, summary["min"])
    summary["max"] = value if summary["max"] is None else max(value, summary["max"])
    metric = METRICS.get(summary["name"])
    if metric and metric.better(value, summary["best"]):
        summary.update(best=value, best_step=step)


def void(connection: Connection, job: Row, after_step: int) -> None:
    """Mark what was measured after a step as gone over again: the job went back there. -1 voids everything."""
    later = (_summary.c.job_seq == job["seq"], _summary.c.step > after_step)
    query = select(_names.c.id, _names.c.name, _summary.c.step).join(_summary, _summary.c.name == _names.c.name)
    found = connection.execute(query.where(*later)).all()
    if not found:
        return
    names = {row.id: row.name for row in found}
    mine = (_points.c.job_seq == job["seq"], _points.c.name_id.in_(names))
    connection.execute(update(_points).where(*mine, _points.c.step > after_step).values(superseded=True))
    _sum_blocks(connection, job, names, after_step + 1, max(row.step for row in found))
    connection.execute(delete(_summary).where(*later))
    upsert(connection, _summary, _summaries_anew(connection, job, names))


def _summaries_anew(connection: Connection, job: Row, names: Mapping[int, str]) -> list[dict[str, Any]]:
    """Summaries from the points that still hold; none of a name that has none."""
    sums = (
        select(
            _blocks.c.name_id,
            func.max(_blocks.c.last_step).label("step"),
            func.min(_blocks.c.min).label("min"),
            func.max(_blocks.c.max).label("max"),
        )
        .where(_blocks.c.job_seq == job["seq"], _blocks.c.name_id.in_(names))
        .group_by(_blocks.c.name_id)
        .subquery()
    )
    last = and_(
        _points.c.job_seq == job["seq"],
        _points.c.name_id == sums.c.name_id,
        _points.c.step == sums.c.step,
        ~_points.c.superseded,
    )
    query = select(sums, _points.c.value, _points.c.kind).join(_points, last).order_by(_points.c.attempt)
    summaries = []
    for row in _rows(connection, query):
        name = names[row["name_id"]]
        best, best_step = _best(connection, job, name, row)
        numbers = {key: row[key] for key in ("step", "value", "kind", "min", "max")}
        summaries.append({"job_seq": job["seq"], "name": name, **numbers, "best": best, "best_step": best_step})
    return summaries


def _best(connection: Connection, job: Row, name: str, sums: Row) -> tuple[float | None, int | None]:
    """The best value of a score and the step that reached it first; (None, None) for what is no score."""
    metric = METRICS.get(name)
    best = None if metric is None else sums["max" if metric.higher_is_better else "min"]
    if best is None:
        return None, None
    mine = (_points.c.job_seq == job["seq"], _points.c.name_id == sums["name_id"], ~_points.c.superseded)
    query = select(func.min(_points.c.step)).where(*mine, _points.c.kind == _FINITE, _points.c.value == best)
    return best, connection.execute(query).scalar_one()


def latest(connection: Connection, job: Row) -> list[dict[str, Any]]:
    """Of each metric of a job the newest number with its step, smallest, largest, and for scores the best.

    Keys: name, step, value, min, max, best, best_step. `value` may be a non-finite number's name; min, max and best
    are of the finite ones, None when there is none.
    """
    query = select(_summary).where(_summary.c.job_seq == job["seq"]).order_by(_summary.c.name)
    return [
        {
            "name": row["name"],
            "step": row["step"],
            "value": shown(row["value"], row["kind"]),
            **{key: row[key] for key in ("min", "max", "best", "best_step")},
        }
        for row in connection.execute(query).mappings()
    ]


@dataclass(frozen=True)
class History:
    """One metric over the steps, oldest first; numbers as JSON values, non-finite ones by name.

    points: in mode `minmax` buckets {first_step, last_step, step, last, min, max, count, nonfinite} of `bucket_steps`
    steps, where `last` is the number at `step`, the bucket's newest, and min and max are of the finite ones; with no
    more points than asked for, each is a bucket by itself and bucket_steps is 1. In mode `raw` {step, attempt, value}.
    total_points: how many there are between from_step and to_step. next_after: `after` of the next page, None at the
    end. last_seq: lines of the run's journal that this covers, so equal ones mean an equal history.
    """

    name: str
    mode: Mode
    bucket_steps: int
    points: list[dict[str, Any]]
    total_points: int
    next_after: int | None
    last_seq: int


@dataclass(frozen=True)
class _Series:
    """The points of one metric between two steps, both included."""

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

    def rows(self, limit: int | None = None) -> Select[Any]:
        columns = (_points.c.step, _points.c.attempt, _points.c.value, _points.c.kind)
        return select(*columns).where(*self.conditions()).order_by(_points.c.step, _points.c.attempt).limit(limit)

    def newest_step(self) -> Select[Any]:
        return select(_points.c.step).where(*self.conditions()).order_by(_points.c.step.desc()).limit(1)


def history(
    connection: Connection,
    job: Row,
    name: str,
    *,
    from_step: int | None = None,
    to_step: int | None = None,
    max_points: int = 1000,
    mode: Mode = "minmax",
    attempt: Attempts = "effective",
    after: int | None = None,
) -> History:
    """A metric of a job, empty when it has none by this name.

    from_step, to_step: both included. max_points: of the answer, at most MAX_POINTS; in mode `raw` a page, which is
    longer where attempts share its last step. attempt: `effective` leaves out what a later attempt went over again.
    after: only steps after this one.
    """
    first = max(from_step or 0, 0 if after is None else after + 1)
    name_id = connection.execute(select(_names.c.id).where(_names.c.name == name)).scalar_one_or_none()
    series = _Series(job["seq"], name_id, attempt, first, to_step)
    last_seq = connection.execute(select(tables.jobs.c.events_seq).where(tables.jobs.c.seq == job["seq"])).scalar_one()
    limit = min(max_points, MAX_POINTS)
    rows = _rows(connection, series.rows(limit + 1))
    if mode == "raw":
        everything = replace(series, first=from_step or 0)
        points, next_after = _page(connection, series, rows, limit)
        return History(name, mode, 1, points, _count(connection, everything), next_after, last_seq)
    if len(rows) <= limit:
        return History(name, mode, 1, [_bucket_of_one(row) for row in rows], len(rows), None, last_seq)
    width, buckets = _buckets(connection, series, rows[0]["step"], limit)
    return History(name, mode, width, buckets, sum(bucket["count"] for bucket in buckets), None, last_seq)


def _rows(connection: Connection, query: Select[Any]) -> list[Row]:
    return [dict(row) for row in connection.execute(query).mappings()]


def _count(connection: Connection, series: _Series) -> int:
    return connection.execute(select(func.count()).select_from(_points).where(*series.conditions())).scalar_one()


def _page(
    connection: Connection, series: _Series, rows: Sequence[Row], limit: int
) -> tuple[list[dict[str, Any]], int | None]:
    """The first `limit` of the rows, and all others of the step that the page would end in."""
    next_after = None
    if len(rows) > limit:
        next_after = rows[limit - 1]["step"]
        rows = _rows(connection, replace(series, last=next_after).rows())
    page = [{"step": row["step"], "attempt": row["attempt"], "value": shown(row["value"], row["kind"])} for row in rows]
    return page, next_after


def _bucket_of_one(row: Row) -> dict[str, Any]:
    finite = row["value"] if row["kind"] == _FINITE else None
    return {
        **dict.fromkeys(("first_step", "last_step", "step"), row["step"]),
        "last": shown(row["value"], row["kind"]),
        "min": finite,
        "max": finite,
        "count": 1,
        "nonfinite": int(finite is None),
    }


def _buckets(connection: Connection, series: _Series, first: int, limit: int) -> tuple[int, list[dict[str, Any]]]:
    """At most `limit` buckets of one width from step `first` on, and that width."""
    last = connection.execute(series.newest_step()).scalar_one()
    blockwise = series.attempts == "effective" and last - first >= BLOCK_STEPS * limit
    unit = BLOCK_STEPS if blockwise else 1
    origin = first // unit * unit
    width = -(-(last - origin + 1) // (unit * limit)) * unit
    spans = _blockwise(series, origin, width, last) if blockwise else _pointwise(series, origin, width).subquery()
    buckets: dict[int, dict[str, Any]] = {}
    for row in _rows(connection, _grouped(series, spans)):
        buckets[row["bucket"]] = {
            "first_step": origin + row["bucket"] * width,
            "last_step": origin + row["bucket"] * width + width - 1,
            "step": row["last_step"],
            "last": shown(row["value"], row["kind"]),
            "min": row["min"],
            "max": row["max"],
            "count": row["points"],
            "nonfinite": row["nonfinite"],
        }
    return width, list(buckets.values())


def _grouped(series: _Series, spans: Subquery) -> Select[Any]:
    """The spans by bucket, each with its newest point; of several attempts at that step the newest comes last."""
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
    # No range of steps here: SQLite would go through all of it for every bucket instead of looking the step up.
    newest = and_(*series.at_any_step(), _points.c.step == buckets.c.last_step)
    query = select(buckets, _points.c.value, _points.c.kind).join(_points, newest)
    return query.order_by(buckets.c.bucket, _points.c.attempt)


def _pointwise(series: _Series, origin: int, width: int) -> Select[Any]:
    """Every point as a span of its own."""
    return select(
        ((_points.c.step - origin) // width).label("bucket"),
        _points.c.step.label("last_step"),
        _finite().label("min"),
        _finite().label("max"),
        literal(1).label("points"),
        _nonfinite().label("nonfinite"),
    ).where(*series.conditions())


def _blockwise(series: _Series, origin: int, width: int, last: int) -> Subquery:
    """Whole blocks, and the points of the blocks that the series has only a part of."""
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
    # One bound each way: of two lower ones SQLite looks up the first and goes through the rest.
    before = _pointwise(replace(series, last=low * BLOCK_STEPS - 1), origin, width)
    behind = _pointwise(replace(series, first=high * BLOCK_STEPS), origin, width)
    return union_all(before, blocks, behind).subquery()
