"""Writing metric points, and discarding those of steps that a later attempt repeats.

Three tables hold the same numbers: every point; summaries of blocks of BLOCK_STEPS steps, from which a long history is
read; and one summary per metric, for lists of jobs. Blocks and summaries cover only the points that are not superseded.
`metric_history` reads all three.
"""

import math
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from operator import itemgetter
from typing import TypedDict

from sqlalchemy import (
    ColumnElement,
    Connection,
    and_,
    case,
    cast,
    delete,
    func,
    insert,
    select,
    update,
)
from sqlalchemy import Integer as SqlInteger

from gan_mhe.evaluation.metrics import METRICS
from server.store import tables
from server.store.rows import JobRow, MetricSummaryRow, fetch_all
from server.store.sqlite import pieces, upsert, upsert_tuples

BLOCK_STEPS = 64
MAX_NAMES = 5000
"""Most metrics of one job. A run has some dozens; lists and answers hold all of them."""
FINITE, NAN, INFINITY, MINUS_INFINITY = range(4)

Points = Sequence[tuple[int, Mapping[str, float]]]
"""Values of all metrics, step by step."""

_names, _points, _blocks, _summary = (
    tables.metric_names,
    tables.metric_points,
    tables.metric_blocks,
    tables.metric_summary,
)
_JSON_NAMES = {NAN: "NaN", INFINITY: "Infinity", MINUS_INFINITY: "-Infinity"}


class _NewestPoint(TypedDict):
    """A metric's newest point, with the minimum and maximum of all its finite values."""

    name_id: int
    step: int
    min: float | None
    max: float | None
    value: float
    kind: int


def to_columns(number: float) -> tuple[float, int]:
    """Convert a number to the columns `value` and `kind`. The database has no NaN; it would store NULL."""
    if math.isfinite(number):
        return number, FINITE
    if math.isnan(number):
        return 0.0, NAN
    return 0.0, INFINITY if number > 0 else MINUS_INFINITY


def to_json(value: float, kind: int) -> float | str:
    """Convert the columns `value` and `kind` to a JSON value: the number, or the name of a non-finite one."""
    return _JSON_NAMES.get(kind, value)


def admit(connection: Connection, job: JobRow, points: Points) -> tuple[Points, bool]:
    """Return the points without those of names beyond MAX_NAMES, and whether the job has reached this number now."""
    query = select(_summary.c.name).where(_summary.c.job_seq == job["seq"])
    known = set(connection.execute(query).scalars())
    new = [name for name in dict.fromkeys(name for _, values in points for name in values) if name not in known]
    room = max(MAX_NAMES - len(known), 0)
    if len(new) < room or not new:
        return points, False
    kept = known.union(new[:room])
    named = ((step, {name: number for name, number in values.items() if name in kept}) for step, values in points)
    return [(step, values) for step, values in named if values], room > 0


def add(connection: Connection, job: JobRow, attempt: int, points: Points) -> None:
    """Add the points that an attempt measured. Adding the same points again changes nothing. attempt: its number."""
    ids = _name_ids(connection, {name for _, values in points for name in values})
    if not ids:
        return
    seq, superseded = job["seq"], False
    rows = [
        (seq, ids[name], step, attempt, *to_columns(number), superseded)
        for step, values in points
        for name, number in values.items()
    ]
    upsert_tuples(connection, _points, rows)
    steps = [step for step, _ in points]
    _recompute_blocks(connection, job, ids.values(), min(steps), max(steps))
    _extend_summaries(connection, job, points, ids)


def _name_ids(connection: Connection, names: Collection[str]) -> dict[str, int]:
    """Return the ids of metric names; new names get one."""
    found = _known_ids(connection, names)
    new = sorted(set(names) - found.keys())
    if not new:
        return found
    connection.execute(_names.insert(), [{"name": name} for name in new])
    return found | _known_ids(connection, new)


def _known_ids(connection: Connection, names: Collection[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for piece in pieces(names):
        query = select(_names.c.name, _names.c.id).where(_names.c.name.in_(piece))
        found.update(dict(connection.execute(query).all()))
    return found


def _recompute_blocks(connection: Connection, job: JobRow, name_ids: Collection[int], first: int, last: int) -> None:
    """Recompute the blocks of the steps from `first` to `last`."""
    for piece in pieces(name_ids):
        _recompute_some_blocks(connection, job, piece, first, last)


def _recompute_some_blocks(connection: Connection, job: JobRow, name_ids: list[int], first: int, last: int) -> None:
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
            func.min(finite_value()),
            func.max(finite_value()),
            func.count(),
            func.sum(is_nonfinite()),
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


def finite_value() -> ColumnElement[float]:
    """Return the SQL of a point's value: NULL if it is not finite, so that aggregates skip it."""
    return case((_points.c.kind == FINITE, _points.c.value))


def is_nonfinite() -> ColumnElement[int]:
    """Return the SQL of 1 for a point that is not finite, else 0."""
    return cast(_points.c.kind != FINITE, SqlInteger)


def _extend_summaries(connection: Connection, job: JobRow, points: Points, names: Collection[str]) -> None:
    summaries: dict[str, MetricSummaryRow] = {}
    for piece in pieces(names):
        query = select(_summary).where(_summary.c.job_seq == job["seq"], _summary.c.name.in_(piece))
        summaries |= {row["name"]: row for row in fetch_all(connection, query, MetricSummaryRow)}
    series: defaultdict[str, list[tuple[int, float]]] = defaultdict(list)
    for step, values in points:
        for name, number in values.items():
            series[name].append((step, number))
    for name, mine in series.items():
        _extend(summaries.setdefault(name, _empty_summary(job, name)), mine)
    upsert(connection, _summary, list(summaries.values()))


def _empty_summary(job: JobRow, name: str) -> MetricSummaryRow:
    return {
        "job_seq": job["seq"],
        "name": name,
        "step": -1,
        "value": 0.0,
        "kind": FINITE,
        "min": None,
        "max": None,
        "best": None,
        "best_step": None,
    }


def _extend(summary: MetricSummaryRow, series: Sequence[tuple[int, float]]) -> None:
    """Extend a summary by points in the order of their measurement."""
    step, newest = max(reversed(series), key=itemgetter(0))  # of several at the last step the one measured last
    if step >= summary["step"]:
        summary["step"], (summary["value"], summary["kind"]) = step, to_columns(newest)
    finite = [point for point in series if math.isfinite(point[1])]
    if not finite:
        return
    numbers = [number for _, number in finite]
    low, high = min(numbers), max(numbers)
    summary["min"] = low if summary["min"] is None else min(low, summary["min"])
    summary["max"] = high if summary["max"] is None else max(high, summary["max"])
    metric = METRICS.get(summary["name"])
    for step, number in finite if metric else ():
        if metric and metric.better(number, summary["best"]):
            summary["best"], summary["best_step"] = number, step


def supersede_after(connection: Connection, job: JobRow, step: int) -> None:
    """Mark the points of steps above `step` as superseded, because the job resumed there. -1 marks all points."""
    later = (_summary.c.job_seq == job["seq"], _summary.c.step > step)
    query = select(_names.c.id, _names.c.name, _summary.c.step).join(_summary, _summary.c.name == _names.c.name)
    found = [(name_id, name, last) for name_id, name, last in connection.execute(query.where(*later))]
    if not found:
        return
    names = {name_id: name for name_id, name, _ in found}
    for piece in pieces(names):
        mine = (_points.c.job_seq == job["seq"], _points.c.name_id.in_(piece))
        connection.execute(update(_points).where(*mine, _points.c.step > step).values(superseded=True))
    _recompute_blocks(connection, job, names, step + 1, max(last for _, _, last in found))
    connection.execute(delete(_summary).where(*later))
    for piece in pieces(names):
        recomputed = _recomputed_summaries(connection, job, {name_id: names[name_id] for name_id in piece})
        upsert(connection, _summary, recomputed)


def _recomputed_summaries(connection: Connection, job: JobRow, names: Mapping[int, str]) -> list[MetricSummaryRow]:
    """Compute the summaries from the points that are not superseded; none for a metric without such points."""
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
    return [
        _summary_of(connection, job, names[row["name_id"]], row) for row in fetch_all(connection, query, _NewestPoint)
    ]


def _summary_of(connection: Connection, job: JobRow, name: str, point: _NewestPoint) -> MetricSummaryRow:
    best, best_step = _best(connection, job, name, point)
    return {
        "job_seq": job["seq"],
        "name": name,
        "step": point["step"],
        "value": point["value"],
        "kind": point["kind"],
        "min": point["min"],
        "max": point["max"],
        "best": best,
        "best_step": best_step,
    }


def _best(connection: Connection, job: JobRow, name: str, point: _NewestPoint) -> tuple[float | None, int | None]:
    """Return a score's best value and the first step that reached it; (None, None) for metrics that are no scores."""
    metric = METRICS.get(name)
    if metric is None:
        return None, None
    best = point["max"] if metric.higher_is_better else point["min"]
    if best is None:
        return None, None
    mine = (_points.c.job_seq == job["seq"], _points.c.name_id == point["name_id"], ~_points.c.superseded)
    query = select(func.min(_points.c.step)).where(*mine, _points.c.kind == FINITE, _points.c.value == best)
    return best, connection.execute(query).scalar_one()
