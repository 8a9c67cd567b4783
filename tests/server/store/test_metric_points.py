"""Metric points: what comes back is what was measured, in as many buckets as asked for, without what was voided."""

import math
import time
from collections.abc import Callable, Mapping
from itertools import product
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select, text

from gan_mhe.records.events import decode_number, encode_number
from server.queue import queue
from server.store import metric_points, tables
from server.store.store import Store

Values = Mapping[int, float]
Row = Mapping[str, Any]

# Databases and jobs of their own for each example, so that examples may share the fixture.
property_test = settings(
    deadline=None, derandomize=True, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def new_job(store: Store) -> Row:
    new = queue.NewJob(project="p", request={}, request_sha256="0")
    return store.write(lambda connection: queue.create(connection, new))


def measure(store: Store, job: Row, values: Values, *, name: str = "loss", attempt: int = 1) -> None:
    points = [(step, {name: number}) for step, number in values.items()]
    store.write(lambda connection: metric_points.ingest(connection, job, attempt, points), durable=False)


def void(store: Store, job: Row, after_step: int) -> None:
    store.write(lambda connection: metric_points.void(connection, job, after_step))


def history(store: Store, job: Row, name: str = "loss", **options: Any) -> metric_points.History:
    return store.read(lambda connection: metric_points.history(connection, job, name, **options))


def latest(store: Store, job: Row) -> dict[str, dict[str, Any]]:
    return {row.pop("name"): row for row in store.read(lambda connection: metric_points.latest(connection, job))}


def read_all(store: Store, job: Row, page: int, **options: Any) -> list[dict[str, Any]]:
    found, after = [], None
    while True:
        part = history(store, job, mode="raw", max_points=page, after=after, **options)
        found += part.points
        after = part.next_after
        if after is None:
            return found


def bucketed(values: Values, origin: int, width: int) -> list[dict[str, Any]]:
    """What the buckets should be, the slow way."""
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


def check(found: metric_points.History, values: Values, max_points: int) -> None:
    """The history is what these values make in buckets of the width that it states."""
    assert len(found.points) <= max_points
    assert found.total_points == len(values)
    if len(values) <= max_points:
        assert found.bucket_steps == 1
    origin = found.points[0]["first_step"] if found.points else 0
    assert found.points == bucketed(values, origin, found.bucket_steps)


NUMBERS = st.floats(allow_nan=True, allow_infinity=True)
DENSE = st.dictionaries(st.integers(0, 300), NUMBERS, max_size=120)
WIDE = st.dictionaries(st.integers(0, 3000), NUMBERS, max_size=120)


class TestBuckets:
    @property_test
    @given(values=DENSE | WIDE, max_points=st.integers(1, 40))
    def test_are_what_the_points_make(self, store: Store, values: Values, max_points: int) -> None:
        job = new_job(store)
        measure(store, job, values)
        check(history(store, job, max_points=max_points), values, max_points)

    @property_test
    @given(values=WIDE, max_points=st.integers(1, 5), bounds=st.tuples(st.integers(0, 3000), st.integers(0, 3000)))
    def test_between_two_steps_are_what_the_points_there_make(
        self, store: Store, values: Values, max_points: int, bounds: tuple[int, int]
    ) -> None:
        job = new_job(store)
        measure(store, job, values)
        low, high = min(bounds), max(bounds)
        within = {step: number for step, number in values.items() if low <= step <= high}
        check(history(store, job, from_step=low, to_step=high, max_points=max_points), within, max_points)

    def test_begin_and_end_within_what_is_summed_up(self, store: Store) -> None:
        job = new_job(store)
        values = {step: float(step % 7) for step in range(600)}
        measure(store, job, values)
        for low, high in product((0, 1, 63, 64, 65, 100), (383, 384, 385, 447, 448, 500)):
            within = {step: number for step, number in values.items() if low <= step <= high}
            found = history(store, job, from_step=low, to_step=high, max_points=3)
            check(found, within, 3)
            assert found.bucket_steps % metric_points.BLOCK_STEPS == 0

    def test_keep_a_spike_of_one_point_among_many(self, store: Store) -> None:
        job = new_job(store)
        measure(store, job, dict.fromkeys(range(20000), 0.5) | {12_345: 99.0})
        found = history(store, job, max_points=100)
        assert max(bucket["max"] for bucket in found.points) == 99.0
        assert [bucket["max"] for bucket in found.points].count(99.0) == 1

    def test_say_when_all_numbers_in_them_are_not_finite(self, store: Store) -> None:
        job = new_job(store)
        measure(store, job, dict.fromkeys(range(10), math.nan))
        (bucket,) = history(store, job, max_points=1).points
        assert (bucket["min"], bucket["max"], bucket["last"]) == (None, None, "NaN")
        assert bucket["nonfinite"] == bucket["count"] == 10

    def test_of_few_points_are_the_exact_points(self, store: Store) -> None:
        job = new_job(store)
        values = {50: 0.1, 100: 1 / 3, 100_000: -0.25}
        measure(store, job, values)
        found = history(store, job, max_points=3)
        assert found.bucket_steps == 1
        assert [(bucket["step"], bucket["last"]) for bucket in found.points] == list(values.items())
        assert all(bucket["first_step"] == bucket["last_step"] == bucket["step"] for bucket in found.points)

    def test_are_never_more_than_the_cap(self, store: Store) -> None:
        job = new_job(store)
        measure(store, job, dict.fromkeys(range(metric_points.MAX_POINTS + 10), 1.0))
        assert len(history(store, job, max_points=10**9).points) <= metric_points.MAX_POINTS

    def test_of_a_name_never_heard_of_are_none(self, store: Store) -> None:
        job = new_job(store)
        measure(store, job, {1: 1.0})
        assert history(store, job, "no_such").points == []

    def test_of_another_job_stay_out(self, store: Store) -> None:
        job, other = new_job(store), new_job(store)
        measure(store, job, {1: 1.0})
        measure(store, other, {2: 2.0})
        assert [bucket["step"] for bucket in history(store, job).points] == [1]

    def test_come_with_the_number_of_lines_they_cover(self, store: Store) -> None:
        job = new_job(store)
        change = tables.jobs.update().where(tables.jobs.c.seq == job["seq"]).values(events_seq=17)
        store.write(lambda connection: connection.execute(change))
        assert history(store, job).last_seq == 17


class TestRaw:
    @property_test
    @given(values=DENSE, page=st.integers(1, 50))
    def test_pages_together_are_every_point_once(self, store: Store, values: Values, page: int) -> None:
        job = new_job(store)
        measure(store, job, values)
        found = read_all(store, job, page)
        expected = [
            {"step": step, "attempt": 1, "value": encode_number(number)} for step, number in sorted(values.items())
        ]
        assert found == expected

    def test_a_page_ends_with_all_attempts_of_its_last_step(self, store: Store) -> None:
        job = new_job(store)
        for attempt in (1, 2, 3):
            measure(store, job, {step: float(attempt) for step in (10, 20, 30)}, attempt=attempt)
        found = [(point["step"], point["attempt"]) for point in read_all(store, job, 2, attempt="all")]
        assert found == [(step, attempt) for step in (10, 20, 30) for attempt in (1, 2, 3)]

    def test_the_total_does_not_depend_on_the_page(self, store: Store) -> None:
        job = new_job(store)
        measure(store, job, dict.fromkeys(range(100), 1.0))
        assert history(store, job, mode="raw", max_points=7, after=90).total_points == 100

    @pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, 1e-300, -1.5e300, 0.1])
    def test_a_number_comes_back_exactly(self, store: Store, number: float) -> None:
        job = new_job(store)
        measure(store, job, {1: number})
        (point,) = history(store, job, mode="raw").points
        assert repr(decode_number(point["value"])) == repr(number)


class TestVoid:
    @property_test
    @given(
        before=DENSE | WIDE,
        after_step=st.integers(-1, 400),
        then=DENSE | WIDE,
        max_points=st.sampled_from([1, 3, 1000]),
    )
    def test_hides_later_steps_and_what_comes_after_takes_their_place(
        self, store: Store, before: Values, after_step: int, then: Values, max_points: int
    ) -> None:
        job = new_job(store)
        stands = {step: number for step, number in before.items() if step <= after_step}
        again = {step: number for step, number in then.items() if step > after_step}
        measure(store, job, before)
        void(store, job, after_step)
        measure(store, job, again, attempt=2)
        check(history(store, job, max_points=max_points), stands | again, max_points)

    @property_test
    @given(before=DENSE | WIDE, after_step=st.integers(-1, 400), then=DENSE, name=st.sampled_from(["loss", "fid"]))
    def test_leaves_summaries_as_if_the_voided_had_never_been(
        self, store: Store, before: Values, after_step: int, then: Values, name: str
    ) -> None:
        job, never = new_job(store), new_job(store)
        again = {step: number for step, number in then.items() if step > after_step}
        measure(store, job, before, name=name)
        void(store, job, after_step)
        measure(store, job, again, name=name, attempt=2)
        measure(store, never, {step: number for step, number in before.items() if step <= after_step}, name=name)
        measure(store, never, again, name=name, attempt=2)
        assert latest(store, job) == latest(store, never)

    def test_keeps_older_numbers_readable(self, store: Store) -> None:
        job = new_job(store)
        measure(store, job, {10: 1.0, 20: 2.0})
        void(store, job, 10)
        measure(store, job, {20: 3.0}, attempt=2)
        found = history(store, job, mode="raw", attempt="all").points
        assert [(point["step"], point["attempt"], point["value"]) for point in found] == [
            (10, 1, 1.0),
            (20, 1, 2.0),
            (20, 2, 3.0),
        ]

    def test_of_all_attempts_the_newest_is_the_last_of_a_bucket(self, store: Store) -> None:
        job = new_job(store)
        measure(store, job, dict.fromkeys(range(10), 1.0))
        void(store, job, -1)
        measure(store, job, dict.fromkeys(range(10), 2.0), attempt=2)
        (bucket,) = history(store, job, max_points=1, attempt="all").points
        assert (bucket["last"], bucket["count"]) == (2.0, 20)

    def test_of_one_job_leaves_the_others_alone(self, store: Store) -> None:
        job, other = new_job(store), new_job(store)
        for each in (job, other):
            measure(store, each, {1: 1.0})
        void(store, job, -1)
        assert latest(store, job) == {}
        assert latest(store, other)["loss"]["value"] == 1.0


class TestSummary:
    def test_has_latest_smallest_and_largest_of_the_finite(self, store: Store) -> None:
        job = new_job(store)
        measure(store, job, {1: 5.0, 2: -1.0, 3: math.inf, 4: math.nan})
        assert latest(store, job) == {
            "loss": {"step": 4, "value": "NaN", "min": -1.0, "max": 5.0, "best": None, "best_step": None}
        }

    @pytest.mark.parametrize(("name", "best", "best_step"), [("inception_score", 7.0, 20), ("fid", 3.0, 10)])
    def test_has_the_best_score_by_its_direction_and_the_first_step_with_it(
        self, store: Store, name: str, best: float, best_step: int
    ) -> None:
        job = new_job(store)
        measure(store, job, {10: 3.0, 20: 7.0, 30: math.inf, 40: 7.0, 50: 3.0}, name=name)
        found = latest(store, job)[name]
        assert (found["best"], found["best_step"]) == (best, best_step)

    def test_still_has_the_first_step_with_the_best_score_after_a_void(self, store: Store) -> None:
        job = new_job(store)
        measure(store, job, {10: 7.0, 20: 3.0, 30: 7.0, 40: 9.0}, name="inception_score")
        void(store, job, 30)
        found = latest(store, job)["inception_score"]
        assert (found["step"], found["best"], found["best_step"]) == (30, 7.0, 10)

    def test_does_not_depend_on_how_points_were_split(self, store: Store) -> None:
        values = {step: math.sin(step) for step in range(100)}
        together, apart = new_job(store), new_job(store)
        measure(store, together, values, name="inception_score")
        for step, number in values.items():
            measure(store, apart, {step: number}, name="inception_score")
        assert latest(store, together) == latest(store, apart)


def test_taking_the_same_points_in_again_changes_nothing(store: Store) -> None:
    job = new_job(store)
    values = {step: float(step) for step in range(200)}
    measure(store, job, values)
    before = history(store, job, max_points=2), latest(store, job)
    measure(store, job, values)
    assert (history(store, job, max_points=2), latest(store, job)) == before


def test_deleting_a_job_deletes_its_numbers(store: Store) -> None:
    job = new_job(store)
    measure(store, job, {1: 1.0})

    def remove(connection: Any) -> None:
        queue.remove(connection, queue.cancel(connection, queue.get(connection, job["id"])))

    store.write(remove)
    for table in (tables.metric_points, tables.metric_blocks, tables.metric_summary):
        count = select(func.count()).select_from(table)
        assert store.read(lambda connection, count=count: connection.execute(count).scalar_one()) == 0


def test_a_million_points_come_as_a_thousand_buckets(store: Store, report: Callable[[str], None]) -> None:
    job = new_job(store)
    measure(store, job, {0: 0.0})

    def fill(connection: Any) -> None:
        connection.execute(
            text(
                "WITH RECURSIVE s(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM s WHERE i < 999999)"
                " INSERT INTO metric_points SELECT job_seq, name_id, i, 1, i % 1000, 0, 0 FROM s, metric_points"
                " WHERE step = 0"
            )
        )

    store.write(fill, durable=False)
    measure(store, job, {0: 0.0, 999_999: 999.0})  # sums up all blocks between
    began = time.perf_counter()
    found = history(store, job, max_points=1000)
    report(f"1,000,000 points as {len(found.points)} buckets: {1000 * (time.perf_counter() - began):.0f} ms")
    assert found.total_points == 1_000_000
    assert found.points == bucketed({step: float(step % 1000) for step in range(1_000_000)}, 0, found.bucket_steps)


@pytest.fixture
def report(capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    """Print past the capture: how long something took is worth seeing and not worth failing for."""

    def say(line: str) -> None:
        with capsys.disabled():
            print(f"\n{line}")  # noqa: T201

    return say
