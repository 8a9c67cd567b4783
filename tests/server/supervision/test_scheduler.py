"""The scheduler with a scripted executor and a clock that the test controls."""

from typing import Any

import pytest
from sqlalchemy import select

from gan_mhe.config.run_config import RunConfig
from server import crash_points
from server.executors.base import Slot
from server.ids import new_id
from server.ingest import trash
from server.queue import queue
from server.queue.states import State
from server.store import tables
from server.supervision import scheduler
from tests.support.world import World

COMPLETED = {"outcome": "completed", "result": {"status": "completed", "step": 12}}
STOPPED = {"outcome": "stopped"}
GRACE, TTL = 2.0, 1.0


def killed_at(world: World, monkeypatch: pytest.MonkeyPatch, point: str) -> None:
    """One round of a server that is killed at a crash point, then a restart."""

    class Killed(BaseException):
        pass

    def kill(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setenv(crash_points.VARIABLE, point)
        patch.setattr(crash_points.os, "kill", kill)
        with pytest.raises(Killed):
            world.tick()
    world.restart()


class TestStarting:
    def test_a_queued_job_is_launched_with_its_full_specification(self, world: World) -> None:
        job_id = world.submit(wall_seconds_limit=60.0)
        world.tick()
        attempt = world.attempt(job_id)
        spec = world.executor.launched[attempt]
        directory = world.settings.job_dir(job_id)
        assert (spec.attempt_id, spec.job_id, spec.number, spec.epoch) == (attempt, job_id, 1, 1)
        assert (spec.directory, spec.console) == (directory / "attempts" / "1", directory / "console.log")
        assert (spec.grace_seconds, spec.lease_ttl_seconds, spec.wall_seconds) == (GRACE, TTL, 60)
        assert spec.slot.name == "cpu0"
        row = world.attempts(job_id)[0]
        assert (row["handle"], row["started_at"]) == ({"attempt_id": attempt}, round(world.now * 1000))
        assert world.state(job_id) is State.STARTING

    def test_no_slot_is_assigned_twice(self, world: World) -> None:
        made = [world.submit() for _ in range(4)]
        world.tick(3)
        assert [world.state(job_id) for job_id in made] == ["starting", "starting", "queued", "queued"]
        assert {spec.slot.name for spec in world.executor.launched.values()} == {"cpu0", "cpu1"}

    def test_a_slot_is_free_again_when_its_attempt_has_ended(self, world: World) -> None:
        first, second, third = (world.submit() for _ in range(3))
        world.tick()
        assert world.ends(first, outcome=COMPLETED) is State.SUCCEEDED
        assert world.executor.launched[world.attempt(third)].slot.name == "cpu0"
        assert world.state(second) is State.STARTING

    def test_a_slot_that_is_not_available_is_left_alone(self, world: World) -> None:
        world.executor.slots = [Slot("cpu0", "cpu", "train", available=False, note="in use")]
        job_id = world.submit()
        world.tick(2)
        assert world.state(job_id) is State.QUEUED

    def test_training_does_not_use_task_slots(self, world: World) -> None:
        for _ in range(3):
            world.submit()
        world.tick()
        task = world.submit("sample")
        world.tick()
        assert world.executor.launched[world.attempt(task)].slot.name == "task0"

    def test_a_task_runs_as_soon_as_its_process_does(self, world: World) -> None:
        task, training = world.submit("sample"), world.submit()
        world.tick(2)
        assert (world.state(task), world.state(training)) == (State.RUNNING, State.STARTING)

    def test_a_launch_that_works_the_second_time_is_a_second_attempt(self, world: World) -> None:
        world.executor.refuses = "no more processes"
        job_id = world.submit()
        world.tick()
        assert (world.state(job_id), world.job(job_id)["reason"]) == (State.QUEUED, "launch_failed")
        world.executor.refuses = None
        world.passes(1)
        world.tick()
        assert (world.state(job_id), world.job(job_id)["lease_epoch"]) == (State.STARTING, 2)

    def test_a_job_that_names_what_is_no_longer_offered_fails_without_a_retry(self, world: World) -> None:
        request = RunConfig.model_validate({"data": {"name": "image_folder", "root": "faces"}}).document()
        job_id = world.submit(request=request)
        world.tick()
        job = world.job(job_id)
        assert (job["state"], job["reason"]) == ("failed", "error")
        assert job["message"] == "data.root: the service no longer offers 'faces'; it offers none"
        assert not world.executor.launched

    def test_a_deadline_before_the_start_cancels(self, world: World) -> None:
        world.executor.slots = []
        job_id = world.submit(start_deadline=round(world.now * 1000) + 5000)
        world.tick()
        assert world.state(job_id) is State.QUEUED
        world.passes(6)
        world.tick()
        assert (world.state(job_id), world.job(job_id)["reason"]) == (State.CANCELLED, "deadline_before_start")

    def test_the_deadline_has_no_effect_after_the_start(self, world: World) -> None:
        job_id = world.submit(start_deadline=round(world.now * 1000) + 5000)
        world.runs(job_id)
        world.passes(6)
        world.ends(job_id, exit_code=None, signal=9)
        world.executor.slots = []
        world.passes(6)
        world.tick()
        assert world.state(job_id) is State.QUEUED


class TestEnding:
    def test_remaining_events_are_read_before_the_attempt_ends(self, world: World) -> None:
        job_id = world.submit()
        world.runs(job_id)
        world.ends(job_id, outcome=COMPLETED)
        assert world.reader.drained == [(job_id, True)]

    def test_a_completed_job_has_its_result_and_its_attempt_its_record(self, world: World) -> None:
        job_id = world.submit()
        world.runs(job_id)
        world.passes(8)
        assert world.ends(job_id, exit_code=0, outcome=COMPLETED) is State.SUCCEEDED
        job, attempt = world.job(job_id), world.attempts(job_id)[0]
        assert (job["result"], job["exit_code"], job["reason"]) == ({"status": "completed", "step": 12}, 0, None)
        assert (job["finished_at"], job["wall_seconds_used"]) == (round(world.now * 1000), 8)
        assert (attempt["live"], attempt["exit_code"], attempt["signal"], attempt["cause"]) == (False, 0, None, "exit")
        assert attempt["ended_at"] == round(world.now * 1000)

    def test_images_of_a_task_become_a_blob(self, world: World) -> None:
        job_id = world.submit("sample")
        world.tick()
        result = {"sha256": "a" * 64, "size_bytes": 5, "media_type": "image/png", "images": 4}
        world.ends(job_id, outcome={"outcome": "completed", "result": result})
        query = select(tables.blobs).where(tables.blobs.c.job_id == job_id)
        blob = world.store.read(lambda connection: dict(connection.execute(query).mappings().one()))
        assert blob == {"sha256": "a" * 64, "job_id": job_id, "path": "output/images.png", "media_type": "image/png",
                        "size_bytes": 5}  # fmt: skip

    def test_a_score_is_a_result_without_a_file(self, world: World) -> None:
        job_id = world.submit("score")
        world.tick()
        assert world.ends(job_id, outcome={"outcome": "completed", "result": {"scores": {}}}) is State.SUCCEEDED
        assert world.job(job_id)["result"] == {"scores": {}}

    def test_a_killed_worker_is_recovered_and_queued_with_the_reason(self, world: World) -> None:
        job_id = world.submit()
        world.runs(job_id)
        world.passes(3)
        assert world.ends(job_id, exit_code=None, signal=9) is State.QUEUED
        job, attempt = world.job(job_id), world.attempts(job_id)[0]
        assert world.states(job_id) == ["queued", "starting", "running", "recovering", "queued"]
        assert (job["reason"], job["infrastructure_used"], job["wall_seconds_used"]) == ("worker_killed", 1, 3)
        assert job["not_before"] == round(world.now * 1000) + 50
        assert (attempt["signal"], attempt["reason"]) == (9, "worker_killed") and "SIGKILL" in attempt["message"]

    def test_a_retry_waits_for_the_backoff(self, world: World) -> None:
        job_id = world.submit()
        world.runs(job_id)
        world.ends(job_id, exit_code=None, signal=9)
        world.passes(0.04)
        world.tick()
        assert world.state(job_id) is State.QUEUED
        world.passes(0.02)
        world.tick()
        assert (world.state(job_id), len(world.attempts(job_id))) == (State.STARTING, 2)

    def test_a_lost_worker_is_recovered(self, world: World) -> None:
        job_id = world.submit()
        world.executor.vanishes(world.runs(job_id))
        world.tick()
        assert (world.state(job_id), world.job(job_id)["reason"]) == (State.QUEUED, "worker_lost")

    def test_the_two_retry_limits_are_counted_separately(self, world: World) -> None:
        job_id = world.submit()
        for crash in range(7):
            world.passes(60)
            world.runs(job_id)
            ended = {"exit_code": 1, "outcome": {"outcome": "failed", "code": "error", "message": f"crash {crash}"}}
            world.ends(job_id, **(ended if crash in (2, 6) else {"exit_code": None, "signal": 9}))
        job = world.job(job_id)
        assert (job["infrastructure_used"], job["program_used"]) == (5, 1)
        assert (job["state"], job["reason"], job["message"]) == ("failed", "error", "crash 6")

    def test_the_next_attempt_has_the_remaining_wall_time(self, world: World) -> None:
        job_id = world.submit(wall_seconds_limit=10.0)
        world.runs(job_id)
        world.passes(7)
        world.ends(job_id, exit_code=None, signal=9)
        world.passes(1)
        assert world.executor.launched[world.runs(job_id)].wall_seconds == 3
        world.passes(30)
        assert world.ends(job_id, exit_code=None, signal=9, cause="timeout") is State.FAILED
        assert (world.job(job_id)["reason"], world.job(job_id)["wall_seconds_used"]) == ("timeout", 37)

    def test_exhausted_wall_time_is_zero_not_negative(self, world: World) -> None:
        job_id = world.submit(wall_seconds_limit=10.0)
        world.runs(job_id)
        world.passes(12)
        world.ends(job_id, exit_code=None, signal=9)
        world.passes(1)
        assert world.executor.launched[world.runs(job_id)].wall_seconds == 0

    def test_without_a_record_the_wall_time_is_that_of_the_last_lease(self, world: World) -> None:
        job_id = world.submit()
        attempt = world.runs(job_id)
        world.passes(9)
        world.executor.vanishes(attempt, seconds=7.5)
        world.tick()
        assert world.job(job_id)["wall_seconds_used"] == 7.5

    def test_nothing_is_written_when_the_transaction_fails(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        job_id = world.submit()
        attempt = world.runs(job_id)
        world.executor.exits(attempt, outcome=COMPLETED)
        before = (world.job(job_id), world.attempts(job_id))
        with monkeypatch.context() as patch:
            patch.setattr(queue, "move", lambda *_, **__: 1 / 0)
            with pytest.raises(ExceptionGroup):
                world.tick()
        assert (world.job(job_id), world.attempts(job_id)) == before
        world.tick()
        assert world.state(job_id) is State.SUCCEEDED


class TestStopping:
    @pytest.mark.parametrize("ask", [queue.cancel, queue.pause])
    @pytest.mark.parametrize(("mode", "signal"), [("graceful", "checkpoint_stop"), ("now", "stop")])
    def test_the_attempt_receives_one_signal_of_the_requested_kind(
        self, world: World, ask: Any, mode: str, signal: str
    ) -> None:
        job_id = world.submit()
        attempt = world.runs(job_id)
        world.does(ask, job_id, mode)
        world.tick(5)
        assert world.executor.signals == [(attempt, signal)]

    def test_an_immediate_stop_after_a_graceful_one_is_passed_on(self, world: World) -> None:
        job_id = world.submit()
        attempt = world.runs(job_id)
        for mode in ("graceful", "now"):
            world.does(queue.cancel, job_id, mode)
            world.tick(2)
        assert world.signals(attempt) == ["checkpoint_stop", "stop"]

    def test_a_cancel_after_a_pause_sends_no_second_signal(self, world: World) -> None:
        job_id = world.submit()
        attempt = world.runs(job_id)
        for ask in (queue.pause, queue.cancel):
            world.does(ask, job_id)
            world.tick()
        assert world.signals(attempt) == ["checkpoint_stop"]

    def test_the_state_changes_only_after_the_process_has_ended(self, world: World) -> None:
        job_id = world.submit()
        world.runs(job_id)
        world.does(queue.pause, job_id)
        world.tick(3)
        assert world.state(job_id) is State.PAUSING
        assert world.ends(job_id, exit_code=75, cause="stop", outcome=STOPPED) is State.PAUSED
        assert world.attempt(job_id) is None

    def test_a_paused_job_resumes_in_a_new_attempt(self, world: World) -> None:
        job_id = world.submit()
        world.runs(job_id)
        world.does(queue.pause, job_id)
        world.ends(job_id, exit_code=75, cause="stop", outcome=STOPPED)
        world.does(queue.resume, job_id)
        world.tick()
        assert (world.state(job_id), world.job(job_id)["attempts"]) == (State.STARTING, 2)
        assert world.job(job_id)["infrastructure_used"] == 0

    def test_a_job_that_completed_before_the_cancel_has_succeeded(self, world: World) -> None:
        job_id = world.submit()
        world.runs(job_id)
        world.does(queue.cancel, job_id)
        assert world.ends(job_id, outcome=COMPLETED) is State.SUCCEEDED

    def test_an_attempt_that_does_not_stop_is_killed_within_ten_seconds_after_the_grace(self, world: World) -> None:
        job_id = world.submit()
        attempt = world.runs(job_id)
        world.does(queue.cancel, job_id)
        world.tick()
        asked = world.now
        while "kill" not in world.signals(attempt):
            world.passes(0.5)
            world.tick()
        assert GRACE + 4 < world.now - asked < GRACE + 9

    def test_a_kill_without_effect_is_repeated_after_a_while(self, world: World) -> None:
        job_id = world.submit()
        attempt = world.runs(job_id)
        world.does(queue.cancel, job_id)
        for _ in range(40):
            world.tick()
            world.passes(0.5)
        kills = world.signals(attempt).count("kill")
        assert 2 <= kills <= 4

    def test_stopping_now_does_not_wait_for_a_long_grace(self, world: World) -> None:
        world.limited(grace_seconds=3600.0)
        slow, fast = world.submit(), world.submit()
        attempts_of = {job_id: world.runs(job_id) for job_id in (slow, fast)}
        world.does(queue.cancel, slow)
        world.does(queue.cancel, fast, "now")
        world.tick()
        world.passes(11)
        world.tick()
        assert world.signals(attempts_of[slow]) == ["checkpoint_stop"]
        assert world.signals(attempts_of[fast]) == ["stop", "kill"]

    def test_a_restarted_server_repeats_the_request_and_the_grace(self, world: World) -> None:
        job_id = world.submit()
        attempt = world.runs(job_id)
        world.does(queue.cancel, job_id)
        world.tick()
        world.passes(100)
        world.restart()
        world.tick(2)
        assert world.signals(attempt) == ["checkpoint_stop", "checkpoint_stop"]

    def test_an_unresponsive_attempt_still_receives_signals(self, world: World) -> None:
        job_id = world.submit()
        attempt = world.runs(job_id)
        world.executor.silent(attempt)
        world.does(queue.cancel, job_id)
        world.tick()
        world.passes(100)
        world.tick(2)
        assert world.signals(attempt) == ["checkpoint_stop", "kill"]
        assert world.state(job_id) is State.CANCELLING


class TestLostAttempts:
    def test_an_unknown_attempt_is_left_alone_within_the_ttl(self, world: World) -> None:
        job_id = world.submit()
        attempt = world.runs(job_id)
        world.executor.silent(attempt)
        world.tick()
        world.passes(TTL)
        world.tick()
        assert (world.state(job_id), world.signals(attempt)) == (State.RUNNING, [])

    def test_after_the_ttl_the_job_is_detached_and_the_attempt_killed(self, world: World) -> None:
        job_id = world.submit()
        attempt = world.runs(job_id)
        world.executor.silent(attempt)
        world.tick()
        world.passes(TTL + 0.1)
        world.tick()
        assert (world.state(job_id), world.job(job_id)["reason"]) == (State.RECOVERING, "worker_lost")
        world.tick()
        assert world.signals(attempt) == ["kill"]

    def test_the_job_is_queued_only_after_the_attempt_has_ended(self, world: World) -> None:
        job_id = world.submit()
        attempt = world.runs(job_id)
        world.executor.silent(attempt)
        for _ in range(20):
            world.tick()
            world.passes(1)
        assert (world.state(job_id), world.attempt(job_id)) == (State.RECOVERING, attempt)
        world.executor.vanishes(attempt)
        world.tick()
        assert (world.state(job_id), world.attempt(job_id)) == (State.QUEUED, None)
        job = world.job(job_id)
        assert (job["infrastructure_used"], job["stop_mode"]) == (1, None)
        assert job["message"].startswith("the supervisor has not responded for")

    def test_a_response_resets_the_silence(self, world: World) -> None:
        job_id = world.submit()
        attempt = world.runs(job_id)
        for _ in range(5):
            world.executor.silent(attempt)
            world.tick()
            world.passes(TTL * 0.9)
            world.executor.runs(attempt)
            world.tick()
        assert world.state(job_id) is State.RUNNING

    def test_a_running_attempt_with_an_expired_lease_is_lost(self, world: World) -> None:
        job_id = world.submit()
        attempt = world.runs(job_id)
        world.executor.runs(attempt, lease_age_seconds=1.5)
        world.tick()
        assert world.state(job_id) is State.RUNNING
        world.passes(TTL + 0.1)
        world.executor.runs(attempt, lease_age_seconds=2.6)
        world.tick()
        assert world.state(job_id) is State.RECOVERING

    def test_an_attempt_with_a_valid_lease_is_never_lost(self, world: World) -> None:
        job_id = world.submit()
        attempt = world.runs(job_id)
        for _ in range(50):
            world.executor.runs(attempt, lease_age_seconds=TTL)
            world.tick()
            world.passes(10)
        assert (world.state(job_id), world.signals(attempt)) == (State.RUNNING, [])

    def test_an_attempt_is_not_lost_because_the_server_or_machine_was_stopped(self, world: World) -> None:
        job_id = world.submit()
        attempt = world.runs(job_id)
        world.passes(8 * 3600)
        world.restart()
        world.executor.runs(attempt, lease_age_seconds=8 * 3600)
        world.tick()
        world.executor.runs(attempt)
        world.tick()
        assert (world.state(job_id), world.signals(attempt)) == (State.RUNNING, [])

    def test_a_job_whose_abandoned_attempt_had_completed_has_succeeded(self, world: World) -> None:
        job_id = world.submit()
        world.executor.silent(world.runs(job_id))
        world.tick()
        world.passes(TTL + 0.1)
        world.tick()
        assert world.ends(job_id, outcome=COMPLETED) is State.SUCCEEDED

    @pytest.mark.parametrize(("ask", "expected"), [(queue.cancel, State.CANCELLED), (queue.pause, State.PAUSED)])
    def test_a_user_can_stop_a_recovering_job(self, world: World, ask: Any, expected: State) -> None:
        job_id = world.submit()
        attempt = world.runs(job_id)
        world.executor.silent(attempt)
        world.tick()
        world.passes(TTL + 0.1)
        world.tick()
        world.does(ask, job_id)
        world.executor.vanishes(attempt)
        world.tick()
        assert world.state(job_id) is expected


class TestDisk:
    def full(self, world: World) -> None:
        world.limited(disk_reserve_bytes=100 * 2**20)
        world.free_bytes = 99 * 2**20

    def test_below_the_disk_reserve_nothing_is_started(self, world: World) -> None:
        self.full(world)
        job_id, task = world.submit(), world.submit("sample")
        world.tick(2)
        assert (world.state(job_id), world.state(task)) == (State.QUEUED, State.QUEUED)
        world.free_bytes = 100 * 2**20
        world.tick()
        assert world.state(job_id) is State.STARTING

    def test_running_training_saves_and_pauses(self, world: World) -> None:
        job_id = world.submit()
        attempt = world.runs(job_id)
        self.full(world)
        world.tick(2)
        job = world.job(job_id)
        assert (job["state"], job["reason"]) == ("pausing", "disk_full")
        assert job["message"] == "99 MiB of disk space are free; the reserve is 100 MiB"
        assert world.signals(attempt) == ["checkpoint_stop"]
        assert world.ends(job_id, exit_code=75, cause="stop", outcome=STOPPED) is State.PAUSED
        assert (world.job(job_id)["reason"], world.job(job_id)["message"]) == ("disk_full", job["message"])

    def test_the_job_stays_paused_when_space_is_free_again(self, world: World) -> None:
        job_id = world.submit()
        world.runs(job_id)
        self.full(world)
        world.tick()
        world.ends(job_id, exit_code=75, cause="stop", outcome=STOPPED)
        world.free_bytes = 10**12
        world.tick(3)
        assert world.state(job_id) is State.PAUSED

    def test_tasks_continue(self, world: World) -> None:
        task = world.submit("sample")
        world.tick(2)
        self.full(world)
        world.tick(2)
        assert world.state(task) is State.RUNNING


class TestRestart:
    def test_an_adopted_attempt_continues_undisturbed(self, world: World) -> None:
        job_id = world.submit()
        attempt = world.runs(job_id)
        world.restart()
        world.tick(3)
        assert (world.state(job_id), world.attempt(job_id)) == (State.RUNNING, attempt)
        assert len(world.executor.launched) == 1
        assert world.ends(job_id, outcome=COMPLETED) is State.SUCCEEDED

    @pytest.mark.parametrize("point", ["claim.before_commit", "claim.after_commit", "launch.after_start"])
    def test_a_server_killed_during_a_launch_launches_once(
        self, world: World, monkeypatch: pytest.MonkeyPatch, point: str
    ) -> None:
        job_id = world.submit()
        killed_at(world, monkeypatch, point)
        world.tick(3)
        assert len(world.executor.launched) == 1
        assert (world.state(job_id), len(world.attempts(job_id))) == (State.STARTING, 1)
        assert world.attempts(job_id)[0]["handle"] == {"attempt_id": world.attempt(job_id)}

    @pytest.mark.parametrize("point", ["state.before_commit", "state.after_commit"])
    def test_a_server_killed_while_it_ends_an_attempt_ends_it_once(
        self, world: World, monkeypatch: pytest.MonkeyPatch, point: str
    ) -> None:
        job_id = world.submit()
        world.executor.exits(world.runs(job_id), exit_code=None, signal=9)
        killed_at(world, monkeypatch, point)
        world.tick()
        assert world.job(job_id)["infrastructure_used"] == 1
        assert world.states(job_id) == ["queued", "starting", "running", "recovering", "queued"]

    @pytest.mark.parametrize(("ask", "expected"), [(queue.cancel, State.CANCELLED), (queue.pause, State.PAUSED)])
    def test_a_claimed_job_that_a_user_stopped_is_never_launched(
        self, world: World, monkeypatch: pytest.MonkeyPatch, ask: Any, expected: State
    ) -> None:
        job_id = world.submit()
        killed_at(world, monkeypatch, "claim.after_commit")
        world.does(ask, job_id)
        world.tick(2)
        assert (world.state(job_id), world.attempt(job_id)) == (expected, None)
        assert not world.executor.launched

    def test_a_cancel_between_claim_and_launch_prevents_the_launch(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        job_id = world.submit()
        write = world.store.write

        def write_then_cancel(work: Any, **options: Any) -> Any:
            result = write(work, **options)
            if options.get("name") == "claim":
                world.does(queue.cancel, job_id)
            return result

        monkeypatch.setattr(world.store, "write", write_then_cancel)
        world.tick()
        assert not world.executor.launched
        assert (world.state(job_id), world.attempt(job_id)) == (State.CANCELLED, None)

    def test_an_attempt_launched_before_the_restart_is_found_and_stopped(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        job_id = world.submit()
        killed_at(world, monkeypatch, "launch.after_start")
        world.does(queue.cancel, job_id)
        world.tick(2)
        assert world.signals(world.attempt(job_id)) == ["checkpoint_stop"]
        assert world.state(job_id) is State.CANCELLING

    def test_an_attempt_whose_slot_no_longer_exists_is_not_launched(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        job_id = world.submit()
        killed_at(world, monkeypatch, "claim.after_commit")
        world.executor.slots = []
        world.tick()
        assert (world.state(job_id), world.job(job_id)["message"]) == (State.QUEUED, "slot cpu0 no longer exists")

    def test_a_cancelled_queued_job_never_starts(self, world: World) -> None:
        job_id = world.submit()
        world.does(queue.cancel, job_id)
        world.tick(3)
        assert not world.executor.launched and world.state(job_id) is State.CANCELLED


class TestRounds:
    def test_an_error_with_one_job_does_not_affect_the_others(self, world: World) -> None:
        bad, good, waiting = world.submit(), world.submit(), world.submit()
        attempt = world.runs(bad)
        world.runs(good)
        world.executor.exits(world.attempt(good), outcome=COMPLETED)
        world.executor._seen.pop(attempt)
        with pytest.raises(ExceptionGroup) as raised:
            world.tick()
        assert [type(error) for error in raised.value.exceptions] == [KeyError]
        assert raised.value.exceptions[0].__notes__ == [f"job {bad}, attempt 1"]
        assert (world.state(good), world.state(waiting)) == (State.SUCCEEDED, State.STARTING)

    def test_a_heartbeat_that_cannot_be_written_does_not_keep_attempts_from_ending(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        job_id = world.submit()
        world.executor.exits(world.runs(job_id), outcome=COMPLETED)
        world.passes(5)
        before = world.scheduler.round_age()
        monkeypatch.setattr(scheduler.heartbeat, "beat", lambda connection: 1 / 0)
        with pytest.raises(ExceptionGroup):
            world.tick()
        assert world.state(job_id) is State.SUCCEEDED
        assert world.scheduler.round_age() == before

    def test_a_simultaneous_request_of_a_user_takes_precedence(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        job_id = world.submit()
        attempt = world.runs(job_id)
        world.executor.silent(attempt)
        world.tick()
        world.passes(TTL + 0.1)
        observe = world.executor.observe

        def observe_slowly(handle: Any) -> Any:
            world.does(queue.cancel, job_id)
            return observe(handle)

        with monkeypatch.context() as patch:
            patch.setattr(world.executor, "observe", observe_slowly)
            world.tick()
        assert world.state(job_id) is State.CANCELLING

    def test_housekeeping_runs_every_minute(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        done: list[str] = []
        monkeypatch.setattr(scheduler.retention, "apply", lambda store, settings: done.append("retention"))
        monkeypatch.setattr(world.store, "tidy", lambda: done.append("tidy"))
        for _ in range(61):
            world.tick()
            world.passes(1)
        assert done == ["retention", "tidy"] * 2

    def test_a_full_disk_costs_the_trash_before_it_pauses_a_job(self, world: World) -> None:
        world.limited(disk_reserve_bytes=1000)
        world.restart()
        job_id, deleted = world.submit(), new_id("job")
        world.runs(job_id)
        (world.settings.job_dir(deleted) / "run").mkdir(parents=True)
        trash.put(world.settings, deleted)
        world.free_bytes = 999
        world.tick()
        assert (trash.contents(world.settings), world.state(job_id)) == ([], State.RUNNING)
        world.tick()
        assert world.state(job_id) is State.PAUSING

    def test_an_idle_round_writes_nothing(self, world: World) -> None:
        job_id = world.submit()
        world.runs(job_id)
        world.submit(device="cuda")
        world.tick()
        written: list[Any] = []
        write = world.store.write
        world.store.write = lambda *arguments, **options: written.append(options) or write(*arguments, **options)
        for _ in range(5):
            world.passes(0.9)
            world.tick()
        assert written == []


def test_no_message_of_an_attempt_shows_a_path(world: World, tmp_path: Any) -> None:
    job = world.submit()
    world.runs(job)
    message = f"{world.settings.job_dir(job)}/run cannot be written; {tmp_path}/x"
    world.ends(job, exit_code=1, outcome={"outcome": "failed", "code": "data_invalid", "message": message})
    assert world.job(job)["message"] == f"{job}/run cannot be written; x"
    assert [attempt["message"] for attempt in world.attempts(job)] == [f"{job}/run cannot be written; x"]
