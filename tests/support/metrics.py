"""Metric points in tests: written and read through the store, and the same buckets computed point by point."""

import math
from collections.abc import Mapping
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from gan_mhe.records.events import encode_number
from server.queue import queue
from server.store import metric_history, metric_points
from server.store.rows import JobRow
from server.store.store import Store

Values = Mapping[int, float]

# Each example makes its own job, so that examples may share the store fixture.
property_test = settings(
    deadline=None, derandomize=True, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

NUMBERS = st.floats(allow_nan=True, allow_infinity=True)
DENSE = st.dictionaries(st.integers(0, 300), NUMBERS, max_size=120)
WIDE = st.dictionaries(st.integers(0, 3000), NUMBERS, max_size=120)


def new_job(store: Store) -> JobRow:
    new = queue.NewJob(project="p", request={}, request_sha256="0")
    return store.write(lambda connection: queue.create(connection, new))


def measure(store: Store, job: JobRow, values: Values, *, name: str = "loss", attempt: int = 1) -> None:
    points = [(step, {name: number}) for step, number in values.items()]
    store.write(lambda connection: metric_points.add(connection, job, attempt, points), durable=False)


def supersede(store: Store, job: JobRow, after_step: int) -> None:
    store.write(lambda connection: metric_points.supersede_after(connection, job, after_step))


def history(store: Store, job: JobRow, name: str = "loss", **options: Any) -> metric_history.History:
    return store.read(lambda connection: metric_history.history(connection, job, name, **options))


def latest(store: Store, job: JobRow) -> dict[str, dict[str, Any]]:
    return {row.pop("name"): row for row in store.read(lambda connection: metric_history.latest(connection, job))}


def read_all(store: Store, job: JobRow, page: int, **options: Any) -> list[dict[str, Any]]:
    found, after = [], None
    while True:
        part = history(store, job, mode="raw", max_points=page, after=after, **options)
        found += part.points
        after = part.next_after
        if after is None:
            return found


def bucketed(values: Values, origin: int, width: int) -> list[dict[str, Any]]:
    """The buckets of these values, computed point by point."""
    buckets: dict[int, list[tuple[int, float]]] = {}
    for step, number in sorted(values.items()):
        buckets.setdefault((step - origin) // width, []).append((step, number))
    found = []
    for index, members in buckets.items():
        finite = [number for _, number in members if math.isfinite(number)]
        found.append(
            {
                "first_step": origin + index * width,
                "last_step": origin + index * width + width - 1,
                "step": members[-1][0],
                "last": encode_number(members[-1][1]),
                "min": min(finite, default=None),
                "max": max(finite, default=None),
                "count": len(members),
                "nonfinite": len(members) - len(finite),
            }
        )
    return found


def check(found: metric_history.History, values: Values, max_points: int) -> None:
    """Check that a history has exactly the buckets of these values, in the width that it states."""
    assert len(found.points) <= max_points
    assert found.total_points == len(values)
    if len(values) <= max_points:
        assert found.bucket_steps == 1
    origin = found.points[0]["first_step"] if found.points else 0
    assert found.points == bucketed(values, origin, found.bucket_steps)
