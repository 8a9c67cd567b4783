"""Jobs as rows: made, asked to stop, changed, removed, and claimed in the right order."""

from typing import Any

import pytest
from sqlalchemy import Connection, event, select

from server.errors import InvalidTransition, NotFound, RevisionMismatch
from server.executors.base import Slot
from server.ids import new_id
from server.queue import claims, queue, removal
from server.queue.queue import PRIORITY_STEP_MS
from server.queue.states import Reason, State
from server.store import journal, tables
from tests.support.world import World

CPU, GPU, TASK = Slot("cpu0", "cpu", "train"), Slot("cuda1/0", "cuda:1", "train"), Slot("task0", "cpu", "task")


def claim(world: World, *slots: Slot) -> list[str]:
    claimed = world.store.write(lambda connection: claims.claim(connection, slots, "fake"))
    return [job["id"] for job, _, _ in claimed]


def history(world: World, job_id: str) -> list[Any]:
    return list(world.store.read(lambda connection: journal.of_job(connection, job_id, after=0, limit=1000)))


def states(world: World, job_id: str) -> list[str]:
    return [row["data"]["state"] for row in history(world, job_id) if row["type"] == "job.state"]


class TestMaking:
    def test_a_new_job_is_queued_and_says_so(self, world: World) -> None:
        job_id = world.submit(name="first", labels={"paper": "mhe"})
        job = world.job(job_id)
        assert (job["state"], job["name"], job["labels"], job["revision"]) == ("queued", "first", {"paper": "mhe"}, 1)
        assert job["created_at"] == job["queued_at"] == round(world.now * 1000)
        assert (job["attempts"], job["lease_epoch"], job["finished_at"]) == (0, 0, None)
        assert states(world, job_id) == ["queued"]

    def test_a_task_is_known_by_its_id(self, world: World) -> None:
        assert world.submit().startswith("job_")
        assert world.submit("sample").startswith("task_")

    def test_work_done_elsewhere_comes_in_as_ended(self, world: World) -> None:
        job = world.job(world.submit(state=State.SUCCEEDED))
        assert job["finished_at"] == round(world.now * 1000)

    def test_a_job_of_another_project_does_not_exist(self, world: World) -> None:
        job_id = world.submit(project="theirs")
        with pytest.raises(NotFound, match=f"there is no '{job_id}'"):
            world.store.read(lambda connection: queue.get(connection, job_id, "ours"))
        assert world.store.read(lambda connection: queue.get(connection, job_id, "theirs"))["id"] == job_id

    def test_the_waiting_of_a_project_are_counted(self, world: World) -> None:
        world.submit()
        world.submit()
        world.submit(project="theirs")
        world.submit(state=State.PAUSED)
        assert world.store.read(lambda connection: queue.waiting(connection, "p")) == 2


class TestOrder:
    def test_first_come_first_served(self, world: World) -> None:
        made = []
        for _ in range(3):
            made.append(world.submit())
            world.passes(0.001)
        assert [claim(world, CPU)[0] for _ in made] == made

    def test_jobs_of_one_moment_go_in_the_order_they_were_made(self, world: World) -> None:
        made = [world.submit() for _ in range(5)]
        assert [claim(world, CPU)[0] for _ in made] == made

    def test_a_higher_priority_goes_first(self, world: World) -> None:
        later = [world.submit(), world.submit(priority=1)]
        assert [claim(world, CPU)[0] for _ in later] == later[::-1]

    def test_waiting_makes_up_for_priority(self, world: World) -> None:
        old = world.submit()
        world.passes(PRIORITY_STEP_MS / 1000 - 1)
        urgent = world.submit(priority=1)
        world.passes(2)
        too_late = world.submit(priority=1)
        assert [claim(world, CPU)[0] for _ in range(3)] == [urgent, old, too_late]

    def test_a_changed_priority_counts_from_when_the_job_was_queued(self, world: World) -> None:
        first, second, third = (world.submit() for _ in range(3))
        world.does(queue.change, third, {"priority": 1})
        world.does(queue.change, first, {"priority": -1})
        assert [claim(world, CPU)[0] for _ in range(3)] == [third, second, first]

    def test_an_experiment_finishes_one_seed_of_everything_first(self, world: World) -> None:
        cells = [(seed, variant) for seed in (0, 1) for variant in ("none", "mhe", "mhe_sn")]
        for seed, variant in cells:
            world.submit(seed=seed, variant=variant)
        order = [world.job(claim(world, CPU)[0]) for _ in cells]
        assert [(job["seed"], job["variant"]) for job in order] == cells

    def test_a_resumed_job_goes_to_the_end(self, world: World) -> None:
        paused = world.submit()
        world.does(queue.pause, paused)
        world.passes(1)
        waiting = world.submit()
        world.passes(1)
        world.does(queue.resume, paused)
        assert [claim(world, CPU)[0] for _ in range(2)] == [waiting, paused]

    def test_a_job_that_lost_its_attempt_keeps_its_place(self, world: World) -> None:
        first = world.submit()
        world.passes(1)
        second = world.submit()
        world.moves(first, State.STARTING, State.RECOVERING)
        world.passes(1)
        world.does(queue.requeue, first, delay_seconds=0)
        assert [claim(world, CPU)[0] for _ in range(2)] == [first, second]

    def test_a_job_that_has_to_wait_lets_others_go_first(self, world: World) -> None:
        first, second = world.submit(), world.submit()
        world.moves(first, State.STARTING, State.RECOVERING)
        world.does(queue.requeue, first, delay_seconds=10)
        assert (claim(world, CPU), claim(world, CPU)) == ([second], [])
        world.passes(10)
        assert claim(world, CPU) == [first]


class TestSlots:
    @pytest.mark.parametrize(
        ("device", "slot", "fits"),
        [("auto", CPU, True), ("auto", GPU, True), ("cpu", CPU, True), ("cpu", GPU, False), ("cuda", CPU, False),
         ("cuda", GPU, True)],
    )  # fmt: skip
    def test_a_job_gets_a_slot_of_its_device(self, world: World, device: str, slot: Slot, fits: bool) -> None:
        world.submit(device=device)
        assert len(claim(world, slot)) == fits

    def test_tasks_and_training_have_slots_of_their_own(self, world: World) -> None:
        task, training = world.submit("sample"), world.submit()
        assert claim(world, CPU, CPU) == [training]
        assert claim(world, TASK, TASK) == [task]

    def test_one_claim_gives_every_slot_another_job(self, world: World) -> None:
        made = {world.submit(), world.submit(), world.submit("score")}
        assert set(claim(world, CPU, GPU, TASK)) == made

    def test_slots_for_which_nothing_waits_are_not_wanted(self, world: World) -> None:
        world.submit(device="cuda")
        wanted = world.store.read(lambda connection: claims.wanted(connection, [CPU, GPU, TASK]))
        assert wanted == [GPU]

    def test_a_claim_is_an_attempt_with_a_new_epoch(self, world: World) -> None:
        job_id = world.submit()
        claim(world, CPU)
        job, attempt = world.job(job_id), world.store.read(lambda connection: queue.live_attempt(connection, job_id))
        assert (job["state"], job["attempts"], job["lease_epoch"]) == ("starting", 1, 1)
        assert (attempt["number"], attempt["epoch"], attempt["slot"], attempt["live"]) == (1, 1, "cpu0", True)
        assert (attempt["executor"], attempt["handle"], attempt["started_at"]) == ("fake", None, None)

    @pytest.mark.parametrize("state", [state for state in State if state is not State.QUEUED])
    def test_only_queued_jobs_are_claimed(self, world: World, state: State) -> None:
        world.submit(state=state)
        assert claim(world, CPU) == []


class TestCancelling:
    @pytest.mark.parametrize("state", [State.QUEUED, State.PAUSED, State.RECOVERING])
    def test_a_job_without_a_process_is_cancelled_at_once(self, world: World, state: State) -> None:
        job_id = world.submit(state=state)
        world.does(queue.cancel, job_id)
        job = world.job(job_id)
        assert (job["state"], job["reason"]) == ("cancelled", "user")

    @pytest.mark.parametrize("before", [[], [State.RUNNING], [State.RUNNING, State.PAUSING], [State.RECOVERING]])
    def test_one_with_a_process_is_cancelled_when_that_is_gone(self, world: World, before: list[State]) -> None:
        job_id = world.submit()
        claim(world, CPU)
        world.moves(job_id, *before)
        job = world.does(queue.cancel, job_id)
        assert (job["state"], job["stop_mode"], job["stop_at"]) == ("cancelling", "graceful", round(world.now * 1000))

    def test_asking_again_may_be_harsher_and_never_milder(self, world: World) -> None:
        job_id = world.submit()
        claim(world, CPU)
        modes = [world.does(queue.cancel, job_id, mode)["stop_mode"] for mode in ("graceful", "now", "graceful")]
        assert modes == ["graceful", "now", "now"]
        assert states(world, job_id) == ["queued", "starting", "cancelling"]

    @pytest.mark.parametrize("state", [State.SUCCEEDED, State.FAILED, State.CANCELLED])
    def test_what_has_ended_cannot_be_cancelled(self, world: World, state: State) -> None:
        job_id = world.submit(state=state)
        with pytest.raises(InvalidTransition):
            world.does(queue.cancel, job_id)


class TestCancellingMany:
    def cancel(self, world: World, *job_ids: str, mode: str = "graceful") -> list[str]:
        def work(connection: Connection) -> list[str]:
            return queue.cancel_many(connection, [queue.get(connection, job_id) for job_id in job_ids], mode)

        return list(world.store.write(work))

    def test_each_goes_where_a_single_cancel_would_take_it(self, world: World) -> None:
        running = world.submit()
        claim(world, CPU)
        waiting, paused, recovering = (world.submit(state=State(s)) for s in ("queued", "paused", "recovering"))
        assert self.cancel(world, running, waiting, paused, recovering, mode="now") == [
            running, waiting, paused, recovering
        ]  # fmt: skip
        assert [world.state(job_id) for job_id in (running, waiting, paused, recovering)] == [
            "cancelling", "cancelled", "cancelled", "cancelled"
        ]  # fmt: skip
        assert world.job(running)["stop_mode"] == "now"

    def test_what_has_ended_is_left_alone(self, world: World) -> None:
        ended = world.submit(state=State.FAILED)
        waiting = world.submit()
        assert self.cancel(world, ended, waiting) == [waiting]
        assert world.state(ended) is State.FAILED

    def test_a_job_that_was_started_since_it_was_read_is_not_cancelled_over_its_process(self, world: World) -> None:
        job_id = world.submit()
        stale = world.job(job_id)
        claim(world, CPU)
        with pytest.raises(InvalidTransition, match="no longer queued"):
            world.store.write(lambda connection: queue.cancel_many(connection, [stale]))
        assert world.state(job_id) is State.STARTING

    def test_none_is_none(self, world: World) -> None:
        assert self.cancel(world) == []

    def test_a_row_and_a_journal_row_are_as_after_a_single_cancel(self, world: World) -> None:
        one, many = world.submit(), world.submit()
        world.does(queue.cancel, one)
        self.cancel(world, many)
        unlike = {"id", "seq", "rank"}
        one_row, many_row = ({k: v for k, v in world.job(job).items() if k not in unlike} for job in (one, many))
        assert one_row == many_row
        said = [[(row["job_seq"], row["type"], row["data"]) for row in history(world, job)] for job in (one, many)]
        assert said[0] == said[1]

    def test_listeners_hear_of_each_in_the_order_of_the_journal(self, world: World) -> None:
        job_ids = [world.submit() for _ in range(10)]
        heard: list[Any] = []
        world.store.subscribe(heard.extend)
        self.cancel(world, *job_ids)
        assert sorted(row["job_id"] for row in heard) == sorted(job_ids)
        assert [row["seq"] for row in heard] == sorted(row["seq"] for row in heard)
        last = [history(world, job_id)[-1] for job_id in job_ids]
        assert heard == sorted(last, key=lambda row: row["seq"])

    def test_five_thousand_that_wait_take_less_than_ten_statements(self, world: World) -> None:
        one = {key: value for key, value in world.job(world.submit()).items() if key != "seq"}
        more = [one | {"id": new_id("job")} for _ in range(4999)]
        world.store.write(lambda connection: connection.execute(tables.jobs.insert(), more))
        jobs = world.store.read(
            lambda connection: [dict(row) for row in connection.execute(select(tables.jobs)).mappings()]
        )
        statements: list[str] = []

        def work(connection: Connection) -> None:
            event.listen(
                connection, "before_cursor_execute", lambda _, __, statement, *___: statements.append(statement)
            )
            queue.cancel_many(connection, jobs)

        world.store.write(work)
        assert len(statements) < 10
        assert world.store.read(lambda connection: queue.waiting(connection, "p")) == 0
        assert claim(world, CPU) == []


class TestPausing:
    def test_a_waiting_job_is_paused_at_once_and_not_claimed(self, world: World) -> None:
        job_id = world.submit()
        assert world.does(queue.pause, job_id)["state"] == "paused"
        assert claim(world, CPU) == []

    def test_a_running_one_keeps_the_reason_until_it_has_stopped(self, world: World) -> None:
        job_id = world.submit()
        claim(world, CPU)
        job = world.does(queue.pause, job_id, reason=Reason.DISK_FULL, message="1 MiB free")
        assert (job["state"], job["reason"], job["message"]) == ("pausing", "disk_full", "1 MiB free")

    def test_asking_again_may_be_harsher(self, world: World) -> None:
        job_id = world.submit()
        claim(world, CPU)
        modes = [world.does(queue.pause, job_id, mode)["stop_mode"] for mode in ("graceful", "now", "graceful")]
        assert modes == ["graceful", "now", "now"]

    @pytest.mark.parametrize("state", [state for state in State if state is not State.PAUSED])
    def test_only_a_paused_job_is_resumed(self, world: World, state: State) -> None:
        job_id = world.submit(state=state)
        with pytest.raises(InvalidTransition, match="only a paused job can be resumed"):
            world.does(queue.resume, job_id)


class TestRetrying:
    def test_a_failed_job_has_its_budgets_and_its_time_again(self, world: World) -> None:
        job_id = world.submit()
        spent = {"infrastructure_used": 5, "program_used": 1, "wall_seconds_used": 99.0, "result": {"a": 1}}
        world.moves(job_id, State.STARTING, State.FAILED, **spent)
        job = world.does(queue.retry, job_id)
        assert (job["state"], job["infrastructure_used"], job["program_used"]) == ("queued", 0, 0)
        assert (job["wall_seconds_used"], job["result"], job["finished_at"]) == (0, None, None)

    @pytest.mark.parametrize("state", [state for state in State if state is not State.FAILED])
    def test_only_a_failed_job_is_retried(self, world: World, state: State) -> None:
        job_id = world.submit(state=state)
        with pytest.raises(InvalidTransition, match="only a failed job can be retried"):
            world.does(queue.retry, job_id)


class TestChanging:
    def test_a_change_counts_the_revision_up(self, world: World) -> None:
        job_id = world.submit()
        job = world.does(queue.change, job_id, {"name": "new", "labels": {"a": "b"}}, revision=1)
        assert (job["name"], job["labels"], job["revision"]) == ("new", {"a": "b"}, 2)

    def test_a_change_of_another_revision_is_refused(self, world: World) -> None:
        job_id = world.submit()
        world.does(queue.change, job_id, {"name": "new"})
        with pytest.raises(RevisionMismatch, match="at revision 2; expected 1"):
            world.does(queue.change, job_id, {"name": "other"}, revision=1)
        assert world.job(job_id)["name"] == "new"


class TestRemoving:
    @pytest.mark.parametrize("state", [state for state in State if state not in ("succeeded", "failed", "cancelled")])
    def test_only_what_has_ended_is_removed(self, world: World, state: State) -> None:
        job_id = world.submit(state=state)
        with pytest.raises(InvalidTransition, match="only a job that has ended can be deleted"):
            world.does(removal.remove, job_id)

    def test_all_rows_go_with_the_job(self, world: World) -> None:
        job_id = world.submit(labels={"a": "b"})
        world.does(queue.cancel, job_id)
        world.does(removal.remove, job_id)
        assert history(world, job_id) == []
        with pytest.raises(NotFound):
            world.job(job_id)

    def test_a_job_with_a_process_stays(self, world: World) -> None:
        job_id = world.submit()
        claim(world, CPU)
        world.moves(job_id, State.FAILED)
        with pytest.raises(InvalidTransition, match="still has a process"):
            world.does(removal.remove, job_id)


class TestDeadlines:
    def test_who_should_have_started_and_never_has_is_overdue(self, world: World) -> None:
        deadline = round(world.now * 1000) + 1000
        late, started, _undated = (
            world.submit(start_deadline=deadline),
            world.submit(start_deadline=deadline),
            world.submit(),
        )
        world.moves(started, State.STARTING, State.RUNNING, State.RECOVERING, State.QUEUED)
        assert world.store.read(queue.overdue) == []
        world.passes(1)
        assert [job["id"] for job in world.store.read(queue.overdue)] == [late]
