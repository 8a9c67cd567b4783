"""Metric points: superseded points disappear from history and summaries, and summaries follow the points."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Connection, func, select

from server.queue import queue, removal
from server.store import metric_points, tables
from server.store.rows import JobRow
from server.store.store import Store
from tests.support.few_parameters import few_parameters
from tests.support.metrics import (
    DENSE,
    WIDE,
    Values,
    check,
    history,
    latest,
    measure,
    new_job,
    property_test,
    supersede,
)


class TestSupersede:
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
        supersede(store, job, after_step)
        measure(store, job, again, attempt=2)
        check(history(store, job, max_points=max_points), stands | again, max_points)

    @property_test
    @given(before=DENSE | WIDE, after_step=st.integers(-1, 400), then=DENSE, name=st.sampled_from(["loss", "fid"]))
    def test_leaves_summaries_as_if_the_superseded_points_never_existed(
        self, store: Store, before: Values, after_step: int, then: Values, name: str
    ) -> None:
        job, never = new_job(store), new_job(store)
        again = {step: number for step, number in then.items() if step > after_step}
        measure(store, job, before, name=name)
        supersede(store, job, after_step)
        measure(store, job, again, name=name, attempt=2)
        measure(store, never, {step: number for step, number in before.items() if step <= after_step}, name=name)
        measure(store, never, again, name=name, attempt=2)
        assert latest(store, job) == latest(store, never)

    def test_keeps_older_numbers_readable(self, store: Store) -> None:
        job = new_job(store)
        measure(store, job, {10: 1.0, 20: 2.0})
        supersede(store, job, 10)
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
        supersede(store, job, -1)
        measure(store, job, dict.fromkeys(range(10), 2.0), attempt=2)
        (bucket,) = history(store, job, max_points=1, attempt="all").points
        assert (bucket["last"], bucket["count"]) == (2.0, 20)

    def test_of_one_job_leaves_the_others_alone(self, store: Store) -> None:
        job, other = new_job(store), new_job(store)
        for each in (job, other):
            measure(store, each, {1: 1.0})
        supersede(store, job, -1)
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

    def test_still_has_the_first_step_with_the_best_score_after_a_resume(self, store: Store) -> None:
        job = new_job(store)
        measure(store, job, {10: 7.0, 20: 3.0, 30: 7.0, 40: 9.0}, name="inception_score")
        supersede(store, job, 30)
        found = latest(store, job)["inception_score"]
        assert (found["step"], found["best"], found["best_step"]) == (30, 7.0, 10)

    def test_does_not_depend_on_how_points_were_split(self, store: Store) -> None:
        values = {step: math.sin(step) for step in range(100)}
        together, apart = new_job(store), new_job(store)
        measure(store, together, values, name="inception_score")
        for step, number in values.items():
            measure(store, apart, {step: number}, name="inception_score")
        assert latest(store, together) == latest(store, apart)


def test_adding_the_same_points_again_changes_nothing(store: Store) -> None:
    job = new_job(store)
    values = {step: float(step) for step in range(200)}
    measure(store, job, values)
    before = history(store, job, max_points=2), latest(store, job)
    measure(store, job, values)
    assert (history(store, job, max_points=2), latest(store, job)) == before


def test_deleting_a_job_deletes_its_numbers(store: Store) -> None:
    job = new_job(store)
    measure(store, job, {1: 1.0})

    def remove(connection: Connection) -> None:
        removal.remove(connection, queue.cancel(connection, queue.get(connection, job["id"])))

    store.write(remove)
    for table in (tables.metric_points, tables.metric_blocks, tables.metric_summary):
        count = select(func.count()).select_from(table)
        assert store.read(lambda connection, count=count: connection.execute(count).scalar_one()) == 0


class TestNames:
    """More of them than one statement of SQLite may have parameters."""

    def names(self, count: int) -> dict[str, float]:
        return {f"n{number}": float(number) for number in range(count)}

    def test_many_at_one_step_are_stored_and_superseded(self, store: Store) -> None:
        job, values = new_job(store), self.names(1200)
        store.write(few_parameters)
        store.write(lambda c: metric_points.add(c, job, 1, [(1, {"n0": 5.0}), (2, values)]))
        assert {name: row["value"] for name, row in latest(store, job).items()} == values
        supersede(store, job, 1)
        assert {name: row["value"] for name, row in latest(store, job).items()} == {"n0": 5.0}

    def admit(self, store: Store, job: JobRow, values: dict[str, float]) -> tuple[int, bool]:
        """The number of names that were admitted and stored, and whether that is the first time that some are not."""

        def work(connection: Connection) -> tuple[int, bool]:
            points, full = metric_points.admit(connection, job, [(1, values)])
            metric_points.add(connection, job, 1, points)
            return sum(len(row) for _, row in points), full

        return store.write(work)

    def test_beyond_the_bound_are_left_out_and_said_once(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(metric_points, "MAX_NAMES", 10)
        job = new_job(store)
        assert self.admit(store, job, self.names(9)) == (9, False)
        assert self.admit(store, job, self.names(12)) == (10, True)
        assert self.admit(store, job, self.names(12)) == (10, False)
        assert len(latest(store, job)) == 10

    def test_are_counted_job_by_job(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(metric_points, "MAX_NAMES", 10)
        for _ in range(2):
            assert self.admit(store, new_job(store), self.names(9)) == (9, False)
