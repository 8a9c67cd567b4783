"""Faults of the machine: they stop the start of attempts, cost no job anything, and pass by themselves."""

from typing import Any

import pytest
from structlog.testing import capture_logs

from server.executors.base import Handle, LaunchSpec, Slot
from server.queue.states import State
from server.supervision import endings
from server.supervision.breaker import LONGEST_WAIT_SECONDS, MOST_FAILURES, Breaker
from tests.support.world import World

COMPLETED = {"outcome": "completed", "result": {"status": "completed", "step": 12}}
NO_DISK = {"exit_code": 1, "outcome": {"outcome": "failed", "code": "storage_failed", "message": "cannot write"}}
TTL = 1.0


class Bench:
    """A breaker, its clock and its machine."""

    def __init__(self) -> None:
        self.now = 0.0
        self.broken: str | None = "read-only"
        self.tried: list[float] = []
        self.breaker = Breaker(self._check, lambda: self.now)

    def _check(self) -> str | None:
        self.tried.append(self.now)
        return self.broken

    def opened(self) -> Breaker:
        for number in range(MOST_FAILURES):
            self.breaker.failed(f"att_{number}", f"job_{number}", "no more processes")
        return self.breaker

    def waits(self, seconds: float) -> int | None:
        self.now += seconds
        return self.breaker.allowance()

    def trial(self) -> None:
        """Let the machine pass and start one attempt."""
        self.broken = None
        assert self.waits(LONGEST_WAIT_SECONDS) == 1
        self.breaker.started("att_trial")


@pytest.fixture
def bench() -> Bench:
    return Bench()


class TestBreaker:
    def test_fewer_faults_in_a_row_stop_nothing(self, bench: Bench) -> None:
        for _ in range(5):
            for number in range(MOST_FAILURES - 1):
                bench.breaker.failed(f"att_{number}", f"job_{number}", "no more processes")
            bench.breaker.worked("att_9", "job_9")
        assert (bench.breaker.allowance(), bench.breaker.problem) == (None, None)

    def test_three_faults_in_a_row_stop_everything_and_say_why(self, bench: Bench) -> None:
        breaker = bench.opened()
        assert (breaker.allowance(), breaker.problem) == (0, "no more processes")

    def test_the_machine_is_tried_at_growing_intervals(self, bench: Bench) -> None:
        bench.opened()
        for _ in range(1400):
            bench.waits(0.1)
        gaps = [round(later - earlier) for earlier, later in zip([0.0, *bench.tried], bench.tried, strict=False)]
        assert gaps == [1, 2, 4, 8, 16, 30, 30, 30]
        assert bench.breaker.problem == "read-only"

    def test_when_the_machine_passes_one_attempt_is_tried(self, bench: Bench) -> None:
        bench.opened()
        bench.trial()
        assert bench.waits(1000) == 0

    def test_the_trial_that_works_closes(self, bench: Bench) -> None:
        bench.opened()
        bench.trial()
        bench.breaker.worked("att_trial", "job_1")
        assert (bench.breaker.allowance(), bench.breaker.problem) == (None, None)

    def test_an_attempt_of_before_does_not_close(self, bench: Bench) -> None:
        bench.opened()
        bench.trial()
        bench.breaker.worked("att_earlier", "job_earlier")
        assert bench.breaker.problem is not None

    def test_the_trial_that_fails_waits_longer_before_the_next(self, bench: Bench) -> None:
        bench.opened()
        bench.broken = None
        assert bench.waits(1) == 1
        bench.breaker.started("att_trial")
        bench.breaker.failed("att_trial", "job_1", "still no more processes")
        assert (bench.waits(1.9), bench.breaker.problem) == (0, "still no more processes")
        assert bench.waits(0.1) == 1

    def test_a_job_that_failed_in_the_trial_leaves_the_next_trial_to_another(self, bench: Bench) -> None:
        bench.opened()
        bench.trial()
        bench.breaker.failed("att_trial", "job_1", "no")
        assert bench.breaker.retry_seconds == 2 * 2

    def test_a_trial_that_says_nothing_is_followed_by_another(self, bench: Bench) -> None:
        bench.opened()
        bench.trial()
        bench.breaker.ended("att_trial", "job_1")
        assert bench.breaker.allowance() == 1

    def test_without_waiting_jobs_a_machine_that_passes_closes(self, bench: Bench) -> None:
        breaker = bench.opened()
        breaker.nothing_waits()
        assert breaker.problem is not None
        bench.broken = None
        bench.waits(1)
        breaker.nothing_waits()
        assert breaker.problem is None
        breaker.failed("att_5", "job_5", "again")
        assert breaker.problem == "again"

    def test_a_job_pays_once_others_have_worked_since_its_fault(self, bench: Bench) -> None:
        fault = ("att_1", "job_1", "its folder is not writable")
        assert not bench.breaker.failed(*fault)
        bench.breaker.worked("att_2", "job_2")
        assert bench.breaker.failed(*fault)

    def test_a_job_does_not_pay_for_a_machine_that_was_found_broken(self, bench: Bench) -> None:
        bench.breaker.failed("att_7", "job_7", "no")
        bench.breaker.worked("att_8", "job_8")
        bench.opened()
        bench.waits(1)
        assert not bench.breaker.failed("att_9", "job_7", "no")

    def test_a_job_that_runs_and_fails_alone_again_and_again_opens(self, bench: Bench) -> None:
        for number in range(MOST_FAILURES):
            bench.breaker.worked(f"att_{number}", "job_1")
            bench.breaker.failed(f"att_{number}", "job_1", "cannot write")
        assert bench.breaker.problem == "cannot write"


class TestQueue:
    def test_a_broken_machine_fails_no_job_and_stops_claiming(self, world: World) -> None:
        world.executor.refuses = "no more processes"
        world.machine.broken = "jobs cannot be written"
        made = [world.submit() for _ in range(60)]
        for _ in range(600):
            world.tick()
            world.passes(1)
        assert {world.state(job_id) for job_id in made} == {State.QUEUED}
        assert sum(len(world.attempts(job_id)) for job_id in made) <= MOST_FAILURES + 1  # two slots start together
        assert {world.job(job_id)["infrastructure_used"] for job_id in made} == {0}

    def test_the_queue_goes_on_by_itself_when_the_machine_is_repaired(self, world: World) -> None:
        world.executor.refuses = "no more processes"
        world.machine.broken = "jobs cannot be written"
        made = [world.submit() for _ in range(4)]
        for _ in range(100):
            world.tick()
            world.passes(1)
        world.executor.refuses = world.machine.broken = None
        world.passes(LONGEST_WAIT_SECONDS)
        world.tick(2)
        assert [world.state(job_id) for job_id in made].count(State.STARTING) == 1
        first = next(job_id for job_id in made if world.state(job_id) is State.STARTING)
        world.moves(first, State.RUNNING)
        world.tick(2)
        assert [world.state(job_id) for job_id in made].count(State.QUEUED) == 2
        assert world.scheduler.problem() is None

    def test_a_fault_whose_end_cannot_be_stored_for_some_rounds_is_one_fault(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        job_id = world.submit()
        world.executor.exits(world.runs(job_id), **NO_DISK)
        with monkeypatch.context() as patch:
            patch.setattr(endings, "end", lambda *_, **__: 1 / 0)
            for _ in range(MOST_FAILURES):
                with pytest.raises(ExceptionGroup):
                    world.tick()
        assert world.scheduler._breaker.problem is None
        world.tick()
        assert (world.state(job_id), world.job(job_id)["infrastructure_used"]) == (State.QUEUED, 0)

    def test_the_failed_jobs_keep_their_place(self, world: World) -> None:
        world.executor.slots = [Slot("cpu0", "cpu", "train")]
        world.executor.refuses = "no more processes"
        first = world.submit()
        before = world.job(first)
        world.tick()
        after = world.job(first)
        assert (after["state"], after["reason"], after["message"]) == ("queued", "launch_failed", "no more processes")
        assert (after["rank"], after["queued_at"]) == (before["rank"], before["queued_at"])

    def test_a_single_job_outlasts_a_long_fault(self, world: World) -> None:
        world.executor.refuses = "no more processes"
        job_id = world.submit()
        for _ in range(3600):
            world.passes(1)
            world.tick()
        world.executor.refuses = None
        world.passes(60)
        world.tick()
        assert (world.state(job_id), world.job(job_id)["infrastructure_used"]) == (State.STARTING, 0)

    def test_a_job_that_alone_cannot_be_launched_fails_in_the_end(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        bad = world.submit()
        launch = world.executor.launch

        def launch_others(spec: LaunchSpec) -> Handle:
            if spec.job_id == bad:
                raise OSError(13, "Permission denied")
            return launch(spec)

        monkeypatch.setattr(world.executor, "launch", launch_others)
        for _ in range(20):
            good = world.submit()
            world.runs(good)
            world.tick()
            world.ends(good, outcome=COMPLETED)
            world.passes(60)
        job = world.job(bad)
        assert (job["state"], job["reason"], job["infrastructure_used"]) == ("failed", "retries_exhausted", 5)

    @pytest.mark.parametrize(
        "ended",
        [
            NO_DISK,
            {"exit_code": 75, "cause": "fenced", "outcome": {"outcome": "stopped"}},
            {"exit_code": None, "cause": "launch_failed"},
        ],
    )
    def test_an_end_that_says_nothing_of_the_job_costs_it_nothing(self, world: World, ended: dict[str, Any]) -> None:
        job_id = world.submit()
        for _ in range(7):
            world.runs(job_id)
            world.tick()
            assert world.ends(job_id, **ended) is State.QUEUED
            world.passes(120)
        job = world.job(job_id)
        assert (job["infrastructure_used"], job["program_used"]) == (0, 0) and job["reason"] is not None

    def test_a_worker_that_ends_before_it_begins_is_a_fault_of_its_installation(self, world: World) -> None:
        job_id = world.submit()
        world.tick()
        assert world.ends(job_id, exit_code=1) is State.QUEUED
        job = world.job(job_id)
        assert (job["reason"], job["program_used"], job["infrastructure_used"]) == ("launch_failed", 0, 0)

    def test_an_attempt_that_left_no_record_because_nothing_can_be_written_costs_nothing(self, world: World) -> None:
        job_id = world.submit()
        attempt = world.runs(job_id)
        world.machine.broken = "its directory cannot be written"
        world.executor.vanishes(attempt)
        world.tick()
        job = world.job(job_id)
        assert (job["state"], job["reason"], job["infrastructure_used"]) == ("queued", "worker_lost", 0)
        assert job["message"] == "no exit record: its directory cannot be written"

    def test_a_lease_that_nobody_can_write_loses_no_attempt(self, world: World) -> None:
        job_id = world.submit()
        attempt = world.runs(job_id)
        world.machine.broken = "its directory cannot be written"
        for seconds in range(20):
            world.executor.runs(attempt, lease_age_seconds=float(seconds))
            world.tick()
            world.passes(1)
        assert (world.state(job_id), world.signals(attempt)) == (State.RUNNING, [])

    def test_a_silent_supervisor_is_given_a_whole_lease_once_leases_can_be_written_again(self, world: World) -> None:
        job_id = world.submit()
        attempt = world.runs(job_id)
        world.executor.runs(attempt, lease_age_seconds=100.0)
        world.machine.broken = "its directory cannot be written"
        world.tick()
        world.passes(100)
        world.machine.broken = None
        world.tick()
        world.passes(TTL)
        world.tick()
        assert world.state(job_id) is State.RUNNING
        world.passes(0.1)
        world.tick()
        assert world.state(job_id) is State.RECOVERING

    def test_the_log_says_once_that_the_machine_failed_and_once_that_it_recovered(self, world: World) -> None:
        world.executor.refuses = "no more processes"
        job_id = world.submit()
        with capture_logs() as logs:
            for _ in range(30):
                world.tick()
                world.passes(1)
            world.executor.refuses = None
            world.passes(60)
            world.runs(job_id)
            world.tick()
        assert [entry["event"] for entry in logs] == ["machine_failed", "machine_recovered"]

    def test_the_reason_shows_no_path(self, world: World) -> None:
        world.executor.refuses = f"[Errno 1] Operation not permitted: '{world.settings.job_dir('job_1')}'"
        job_id = world.submit()
        for _ in range(4):
            world.tick()
            world.passes(1)
        assert world.scheduler.problem() == "[Errno 1] Operation not permitted: 'job_1'"
        assert world.job(job_id)["message"] == "[Errno 1] Operation not permitted: 'job_1'"
