"""The history of a metric: its buckets are what the points make, and its pages are every point once."""

import math
import time
from collections.abc import Callable
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Connection, text

from gan_mhe.records.events import decode_number, encode_number
from server.store import tables
from server.store.metric_history import MAX_POINTS
from server.store.metric_points import BLOCK_STEPS
from server.store.store import Store
from tests.support.metrics import (
    DENSE,
    WIDE,
    Values,
    bucketed,
    check,
    history,
    measure,
    new_job,
    property_test,
    read_all,
)


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
            assert found.bucket_steps % BLOCK_STEPS == 0

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
        measure(store, job, dict.fromkeys(range(MAX_POINTS + 10), 1.0))
        assert len(history(store, job, max_points=10**9).points) <= MAX_POINTS

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


def test_a_million_points_come_as_a_thousand_buckets(store: Store, report: Callable[[str], None]) -> None:
    job = new_job(store)
    measure(store, job, {0: 0.0})

    def fill(connection: Connection) -> None:
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
