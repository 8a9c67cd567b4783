"""Stalled runs are detected; slow runs, and runs busy with silent work, are left alone."""

from typing import Any

import pytest
from sqlalchemy import update

from gan_mhe.config.run_config import RunConfig
from server.queue.states import State
from server.store import journal, tables
from server.supervision import stall_detection
from tests.support.world import World

STOPPED = {"outcome": "stopped"}


class TestStalling:
    """A run of 20 steps/s that reports every 50 steps: 2.5 s between reports, so the limit is 120 s."""

    def stepping(self, world: World, **values: Any) -> str:
        job_id = world.submit(total_steps=1000)
        world.runs(job_id)
        world.sets(job_id, **{"step": 100, "steps_per_second": 20.0, **values})
        world.tick()
        return str(job_id)

    def test_a_silent_run_is_asked_to_save_and_stop(self, world: World) -> None:
        job_id = self.stepping(world)
        world.passes(119)
        world.tick()
        assert world.state(job_id) is State.RUNNING
        world.passes(2)
        world.tick(2)
        job = world.job(job_id)
        assert (job["state"], job["reason"]) == ("recovering", "worker_lost")
        assert job["message"] == "no progress for 121 s at step 100"
        assert world.signals(world.attempt(job_id)) == ["checkpoint_stop"]

    def test_the_stall_is_in_the_journal(self, world: World) -> None:
        job_id = self.stepping(world)
        world.passes(121)
        world.tick()
        rows = world.store.read(lambda connection: journal.of_job(connection, job_id, after=0, limit=100))
        assert [(row["type"], row["data"]) for row in rows if row["type"] == "job.stalled"] == [
            ("job.stalled", {"step": 100, "seconds": 121.0})
        ]

    def test_a_stalled_job_is_queued_again_after_it_stopped(self, world: World) -> None:
        job_id = self.stepping(world)
        world.passes(121)
        world.tick(2)
        assert world.ends(job_id, exit_code=75, cause="stop", outcome=STOPPED) is State.QUEUED
        job = world.job(job_id)
        assert (job["infrastructure_used"], job["message"]) == (1, "no progress for 121 s at step 100")

    def test_a_stalled_run_that_does_not_stop_is_killed(self, world: World) -> None:
        job_id = self.stepping(world)
        attempt = world.attempt(job_id)
        world.passes(121)
        world.tick(2)
        world.passes(world.settings.grace_seconds + 6)
        world.tick()
        assert world.signals(attempt) == ["checkpoint_stop", "kill"]

    def test_anything_in_the_journal_is_a_sign_of_life(self, world: World) -> None:
        job_id = self.stepping(world)
        for _ in range(10):
            world.passes(60)
            world.store.write(lambda connection: journal.append(connection, job_id, "metric.batch", {}))
            world.tick()
        assert world.state(job_id) is State.RUNNING

    def test_a_slow_run_may_be_silent_for_ten_of_its_intervals(self, world: World) -> None:
        job_id = self.stepping(world, steps_per_second=0.1)
        world.passes(10 * 500 - 1)
        world.tick()
        assert world.state(job_id) is State.RUNNING
        world.passes(2)
        world.tick()
        assert world.state(job_id) is State.RECOVERING

    @pytest.mark.parametrize(
        "values",
        [{"step": 0}, {"steps_per_second": None}, {"step": 950}, {"step": 1000}],
        ids=["before the first report", "of unknown speed", "before the final score", "at the final score"],
    )
    def test_a_run_without_a_limit_is_left_alone(self, world: World, values: dict[str, Any]) -> None:
        job_id = self.stepping(world, **values)
        world.passes(10**6)
        world.tick()
        assert world.state(job_id) is State.RUNNING

    def test_a_resumed_run_has_no_limit_before_its_first_report(self, world: World) -> None:
        job_id = self.stepping(world)
        resumed = update(tables.attempts).values(resumed_from_step=100)
        world.store.write(lambda connection: connection.execute(resumed))
        world.passes(10**6)
        world.tick()
        assert world.state(job_id) is State.RUNNING

    @pytest.mark.parametrize(
        ("every", "step", "expected"),
        [(200, 100, 120), (200, 149, 120), (200, 150, None), (200, 200, None), (200, 201, 120), (75, 50, None),
         (0, 100, 120), (0, 949, 120), (0, 950, None)],
    )  # fmt: skip
    def test_an_evaluation_may_be_silent_for_any_time(self, every: int, step: int, expected: float | None) -> None:
        request = RunConfig.model_validate({"evaluation": {"every_steps": every}}).document()
        job = {"kind": "train", "state": "running", "steps_per_second": 20.0, "step": step, "total_steps": 1000,
               "request": request}  # fmt: skip
        assert stall_detection.patience_seconds(job, {"resumed_from_step": None}) == expected

    def test_a_run_without_evaluations_is_supervised_to_its_end(self) -> None:
        request = RunConfig.model_validate({"evaluation": {"protocol": "none"}}).document()
        job = {"kind": "train", "state": "running", "steps_per_second": 20.0, "step": 990, "total_steps": 1000,
               "request": request}  # fmt: skip
        assert stall_detection.patience_seconds(job, {"resumed_from_step": 0}) == 120
