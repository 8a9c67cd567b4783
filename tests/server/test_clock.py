"""Somebody sets the wall clock while the service runs: nothing fails, freezes or loses its place."""

import itertools

import pytest
from sqlalchemy import select
from structlog.testing import capture_logs

from server import clock
from server.queue import queue
from server.queue.states import State
from server.store import tables
from tests.support.world import World

TWO_HOURS = 7200.0
COMPLETED = {"outcome": "completed", "result": {"status": "completed", "step": 12}}
BOTH_WAYS = pytest.mark.parametrize("step", [TWO_HOURS, -TWO_HOURS])


class TestClock:
    def test_time_goes_on_as_fast_as_it_passes_whatever_the_wall_clock_says(self) -> None:
        wall, elapsed = [5_000_000_000], [1_000_000_000]
        moved = clock.Clock(lambda: wall[0], lambda: elapsed[0])
        wall[0] += 7_200_000_000_000
        elapsed[0] += 3_000_000
        assert (moved.now_ms(), moved.wall_ms()) == (5003, 7_205_000)

    def test_a_moment_of_a_wall_clock_that_was_set_is_the_same_moment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        wall = [10_000_000_000_000]
        monkeypatch.setattr(clock, "_clock", clock.Clock(lambda: wall[0], lambda: 0))
        wall[0] += 1_000_000_000
        assert clock.from_wall(10_000_000 + 60_000) == 10_060_000  # it drifted
        wall[0] += 7_200_000_000_000
        assert clock.from_wall(wall[0] // 1_000_000 + 60_000) == 10_060_000

    def test_a_process_starts_with_the_wall_clock(self) -> None:
        assert abs(clock.Clock().now_ms() - clock.wall_ms()) < 1000


class TestSteps:
    @BOTH_WAYS
    def test_a_running_job_has_used_what_its_supervisor_measured(self, world: World, step: float) -> None:
        job_id = world.submit(wall_seconds_limit=600.0)
        world.runs(job_id)
        world.passes(10)
        world.steps(step)
        world.does(queue.pause, job_id)
        world.ends(job_id, exit_code=75, cause="stop", outcome={"outcome": "stopped"})
        assert world.job(job_id)["wall_seconds_used"] == 10
        world.does(queue.resume, job_id)
        assert world.executor.launched[world.runs(job_id)].wall_seconds == 590

    @BOTH_WAYS
    @pytest.mark.parametrize("restarted", [False, True])
    def test_a_backoff_lasts_no_longer_than_it_was_to(self, world: World, step: float, restarted: bool) -> None:
        job_id = world.submit()
        world.runs(job_id)
        world.ends(job_id, exit_code=None, signal=9)
        world.steps(step)
        if restarted:
            world.restart()
        world.passes(1)
        world.tick()
        assert world.state(job_id) is State.STARTING

    def test_a_backoff_lasts_as_long_as_it_was_to_when_the_clock_is_set_forward(self, world: World) -> None:
        job_id = world.submit()
        world.runs(job_id)
        world.ends(job_id, exit_code=None, signal=9)
        world.steps(TWO_HOURS)
        world.passes(0.04)
        world.tick()
        assert world.state(job_id) is State.QUEUED

    @BOTH_WAYS
    def test_a_start_deadline_comes_when_it_was_to(self, world: World, step: float) -> None:
        world.executor.slots = []
        job_id = world.submit(start_deadline=round(world.now * 1000) + 5000)
        world.steps(step)
        world.passes(4)
        world.tick()
        assert world.state(job_id) is State.QUEUED
        world.passes(2)
        world.tick()
        assert world.state(job_id) is State.CANCELLED

    @BOTH_WAYS
    def test_jobs_keep_their_order(self, world: World, step: float) -> None:
        world.executor.slots = world.executor.slots[:1]
        made = []
        for _ in range(3):
            made.append(world.submit())
            world.passes(1)
            world.steps(step)
        for job_id in made:
            world.runs(job_id)
            assert world.ends(job_id, outcome=COMPLETED) is State.SUCCEEDED
        starts = [world.job(job_id)["started_at"] or 0 for job_id in made]
        assert all(earlier <= later for earlier, later in itertools.pairwise(starts))

    @pytest.mark.parametrize("ended", ["finished", "cancelled while paused"])
    def test_no_job_ends_before_it_started(self, world: World, ended: str) -> None:
        job_id = world.submit()
        attempt = world.runs(job_id)
        world.steps(-TWO_HOURS)
        world.restart()
        if ended == "finished":
            world.executor.exits(attempt, outcome=COMPLETED)
        else:
            world.does(queue.pause, job_id)
            world.executor.exits(attempt, outcome={"outcome": "stopped"})
        world.tick()
        if ended != "finished":
            world.store.write(lambda connection: queue.cancel_many(connection, [world.job(job_id)]))
        job, row = world.job(job_id), world.attempts(job_id)[0]
        assert job["started_at"] <= job["finished_at"] and row["started_at"] <= row["ended_at"]

    def test_the_log_says_once_that_the_clock_was_set(self, world: World) -> None:
        world.tick()
        world.steps(-TWO_HOURS)
        with capture_logs() as logs:
            for _ in range(3):
                world.passes(60)
                world.tick()
        assert [(entry["event"], entry["seconds"]) for entry in logs] == [("clock_stepped", -7200.0)]

    @BOTH_WAYS
    def test_the_heartbeat_shows_the_wall_clock_that_other_machines_compare(self, world: World, step: float) -> None:
        world.steps(step)
        world.tick()
        query = select(tables.service_state.c.value).where(tables.service_state.c.key == "heartbeat")
        value = world.store.read(lambda connection: connection.execute(query).scalar_one())
        assert value["time"] == round((world.now + step) * 1000)
