"""The scheduling thread, and the heartbeat that other servers check."""

import itertools
import math
import threading
import time
from typing import Any

import pytest
from sqlalchemy import select
from structlog.testing import capture_logs

from server.errors import StartRefused
from server.queue.states import State
from server.settings import Settings
from server.store import heartbeat, tables
from server.store.store import Store
from server.supervision import engine as engines
from server.supervision import reports
from server.upkeep.integrity_watch import IntegrityWatch
from tests.support.kept import overwrite_page
from tests.support.world import World

COMPLETED = {"outcome": "completed", "result": {}}


class TestHeartbeat:
    def beat(self, world: World, monkeypatch: pytest.MonkeyPatch, host: str, boot: str) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(heartbeat.socket, "gethostname", lambda: host)
            patch.setattr(heartbeat, "_boot_id", lambda: boot)
            world.store.write(heartbeat.beat)

    def test_a_round_records_which_server_uses_the_database(self, world: World) -> None:
        world.tick()
        query = select(tables.service_state.c.value).where(tables.service_state.c.key == "heartbeat")
        times = []
        for _ in range(11):
            value = world.store.read(lambda connection: connection.execute(query).scalar_one())
            times.append(value["time"])
            world.passes(1)
            world.tick()
        assert set(value) == {"host", "boot_id", "time"}
        assert {later - earlier for earlier, later in itertools.pairwise(sorted(set(times)))} == {5000}

    def test_a_live_server_on_another_machine_prevents_a_start(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.beat(world, monkeypatch, "elsewhere", "another boot")
        world.passes(14)
        with pytest.raises(StartRefused, match="in use by a server on elsewhere, last seen 14 s ago"):
            world.store.read(heartbeat.check)

    def test_a_server_without_a_heartbeat_for_fifteen_seconds_has_ended(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.beat(world, monkeypatch, "elsewhere", "another boot")
        world.passes(15)
        world.store.read(heartbeat.check)

    @pytest.mark.parametrize(("host", "boot"), [("elsewhere", None), (None, "another boot"), (None, None)])
    def test_the_heartbeat_of_a_server_on_this_machine_is_ignored(
        self, world: World, monkeypatch: pytest.MonkeyPatch, host: str | None, boot: str | None
    ) -> None:
        here, now = heartbeat.socket.gethostname(), heartbeat._boot_id()
        self.beat(world, monkeypatch, host or here, boot or now)
        world.store.read(heartbeat.check)

    def test_an_unused_database_allows_a_start(self, world: World) -> None:
        world.store.read(heartbeat.check)


class Rounds:
    """Replaces the scheduler: counts the calls, and fails the given number of times."""

    def __init__(self, *, failures: int = 0) -> None:
        self.polls = self.ticks = 0
        self.failures = failures
        self.ticked = threading.Event()

    def poll(self) -> None:
        self.polls += 1

    def tick(self) -> None:
        self.ticks += 1
        self.ticked.set()
        if self.ticks <= self.failures:
            raise RuntimeError("disk on fire")

    def round_age(self) -> float:
        return 7.0


class TestEngine:
    def engine(self, rounds: Any, monkeypatch: pytest.MonkeyPatch, **seconds: float) -> Any:
        for name, value in seconds.items():
            monkeypatch.setattr(engines, name, value)
        return engines.Engine(rounds)

    def wait(self, condition: Any) -> None:
        limit = time.monotonic() + 10
        while not condition():
            assert time.monotonic() < limit
            time.sleep(0.005)

    def test_it_reads_and_schedules_until_it_is_stopped(self, monkeypatch: pytest.MonkeyPatch) -> None:
        rounds = Rounds()
        engine = self.engine(rounds, monkeypatch, _ROUND_SECONDS=0.001)
        engine.start()
        self.wait(lambda: rounds.ticks >= 5)
        engine.stop()
        assert rounds.polls == rounds.ticks
        ended_with = rounds.ticks
        time.sleep(0.02)
        assert rounds.ticks == ended_with

    def test_an_exception_is_logged_and_does_not_end_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        rounds = Rounds(failures=3)
        engine = self.engine(rounds, monkeypatch, _ROUND_SECONDS=0.001, _ERROR_ROUND_SECONDS=0.001)
        with capture_logs() as logs:
            engine.start()
            self.wait(lambda: rounds.ticks >= 5)
            engine.stop()
        assert [(entry["log_level"], entry["event"]) for entry in logs] == [("error", "scheduler round failed")] * 3

    def test_damage_of_the_database_ends_it_and_is_logged_once(
        self, settings: Settings, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store.tidy()
        overwrite_page(settings.database, "jobs")
        watch = IntegrityWatch(store, interval=0.001)
        rounds = Rounds()
        rounds.tick = lambda: store.write(heartbeat.beat)  # type: ignore[method-assign]
        engine = self.engine(rounds, monkeypatch, _ROUND_SECONDS=0.001, _ERROR_ROUND_SECONDS=0.001)
        with capture_logs() as logs:
            watch.start()
            engine.start()
            engine._thread.join(10)
        assert not engine._thread.is_alive()
        assert [(entry["log_level"], entry["event"]) for entry in logs] == [("error", "database_damaged")]
        assert "gan-mhe restore" in logs[0]["advice"]

    def test_a_disk_that_cannot_be_written_is_logged_when_it_begins_and_when_it_ends(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rounds = Rounds()
        raw = store._writer.raw_connection().dbapi_connection
        raw.execute("PRAGMA max_page_count=1")  # it then takes the present size: the disk is full to the last byte
        name = {"key": "", "value": "x" * 10**6}

        def tick() -> None:
            rounds.ticks += 1
            if rounds.ticks == 4:
                raw.execute("PRAGMA max_page_count=1000000")
            store.write(
                lambda connection: connection.execute(tables.service_state.insert(), {**name, "key": rounds.ticks})
            )

        rounds.tick = tick  # type: ignore[method-assign]
        engine = self.engine(rounds, monkeypatch, _ROUND_SECONDS=0.001, _ERROR_ROUND_SECONDS=0.001)
        with capture_logs() as logs:
            engine.start()
            self.wait(lambda: rounds.ticks >= 6)
            engine.stop()
        assert [(entry["event"], entry.get("error"), entry.get("failed_rounds")) for entry in logs] == [
            ("storage_trouble_began", "database or disk is full", None),
            ("storage_trouble_ended", None, 3),
        ]

    def test_an_error_of_the_program_beside_trouble_with_the_disk_is_logged_in_full(self) -> None:
        both = ExceptionGroup("jobs", [OSError(30, "Read-only file system"), KeyError("x")])
        with capture_logs() as logs:
            reports.Rounds().ended([both])
        assert [entry["event"] for entry in logs] == ["scheduler round failed", "storage_trouble_began"]
        assert [type(error) for error in logs[0]["exc_info"].exceptions] == [KeyError]

    def test_an_error_in_reading_does_not_prevent_scheduling(self, monkeypatch: pytest.MonkeyPatch) -> None:
        rounds = Rounds()
        rounds.poll = lambda: 1 / 0  # type: ignore[method-assign]
        engine = self.engine(rounds, monkeypatch, _ERROR_ROUND_SECONDS=0.001)
        with capture_logs():
            engine.start()
            self.wait(lambda: rounds.ticks >= 2)
            engine.stop()

    def test_it_waits_longer_after_an_error(self, monkeypatch: pytest.MonkeyPatch) -> None:
        rounds = Rounds(failures=1)
        engine = self.engine(rounds, monkeypatch, _ROUND_SECONDS=0.001, _ERROR_ROUND_SECONDS=60.0)
        with capture_logs():
            engine.start()
            self.wait(lambda: rounds.ticks == 1)
            time.sleep(0.05)
            assert rounds.ticks == 1
            engine.stop()

    def test_it_can_be_woken(self, monkeypatch: pytest.MonkeyPatch) -> None:
        rounds = Rounds()
        engine = self.engine(rounds, monkeypatch, _ROUND_SECONDS=60.0)
        engine.start()
        assert rounds.ticked.wait(10)
        rounds.ticked.clear()
        engine.wake()
        assert rounds.ticked.wait(10)
        time.sleep(0.05)
        assert rounds.ticks == 2
        engine.stop()

    def test_an_engine_that_was_never_started_can_be_stopped(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.engine(Rounds(), monkeypatch).stop()

    def test_its_heartbeat_is_the_schedulers(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        engine = self.engine(world.scheduler, monkeypatch)
        assert engine.heartbeat_age() == math.inf
        world.tick()
        world.passes(3)
        assert engine.heartbeat_age() == 3

    def test_errors_with_single_jobs_do_not_stop_the_heartbeat(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        attempt = world.runs(world.submit())
        world.executor._seen.pop(attempt)
        world.passes(3)
        with pytest.raises(ExceptionGroup):
            world.tick()
        assert world.scheduler.round_age() == 0

    def test_a_job_runs_from_start_to_end_in_its_thread(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        engine = self.engine(world.scheduler, monkeypatch, _ROUND_SECONDS=0.005)
        job_id = world.submit()
        engine.start()
        self.wait(lambda: world.executor.launched)
        attempt = next(iter(world.executor.launched))
        world.executor.exits(attempt, outcome=COMPLETED)
        engine.wake()
        self.wait(lambda: world.state(job_id) is State.SUCCEEDED)
        engine.stop()
        assert world.states(job_id)[-2:] == ["starting", "succeeded"]
