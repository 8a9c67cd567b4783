"""The store: whole transactions, listeners in order, migrations that refuse or finish, and one server at a time."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, inspect, select, text
from sqlalchemy.exc import OperationalError

from server import data_directory, startup
from server.errors import StartRefused
from server.queue import queue
from server.settings import Settings
from server.store import heartbeat, journal, tables
from server.store import store as store_module
from server.store.store import Store

NEW = queue.NewJob(project="p", request={}, request_sha256="0")
_SECOND = '''"""A column more."""
import os
import signal
import sqlalchemy as sa
from alembic import op
revision, down_revision = "0004", "0003"
def upgrade():
    op.create_table("extra", sa.Column("id", sa.Integer, primary_key=True))
    if os.environ.get("KILL_IN_MIGRATION"):
        os.kill(os.getpid(), signal.SIGKILL)
    op.add_column("jobs", sa.Column("colour", sa.String(10)))
'''


def submit(store: Store) -> str:
    return str(store.write(lambda connection: queue.create(connection, NEW))["id"])


def count(store: Store, table: Any = tables.jobs) -> int:
    return len(store.read(lambda connection: connection.execute(select(table)).all()))


@pytest.fixture
def second_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The service as it will be after one more migration."""
    migrations = tmp_path / "migrations"
    shutil.copytree(store_module._MIGRATIONS, migrations)
    (migrations / "versions" / "0004_colour.py").write_text(_SECOND)
    monkeypatch.setattr(store_module, "_MIGRATIONS", migrations)
    return migrations


class TestSchema:
    def test_the_migrated_schema_is_that_of_the_tables(self, tmp_path: Path) -> None:
        store = Store(tmp_path / "new.sqlite3")
        store.migrate()
        with store._writer.connect() as connection:
            context = MigrationContext.configure(connection, opts={"compare_type": True})
            assert compare_metadata(context, tables.metadata) == []
        store.close()

    def test_migrating_twice_changes_nothing(self, store: Store, settings: Settings) -> None:
        submit(store)
        store.migrate()
        assert count(store) == 1
        assert [path.name for path in settings.data_dir.glob("*before*")] == []

    def test_a_newer_schema_is_refused_and_left_alone(self, store: Store) -> None:
        store.write(lambda connection: connection.execute(text("UPDATE alembic_version SET version_num = '9999'")))
        with pytest.raises(StartRefused, match="has schema 9999, which this version does not know"):
            store.migrate()
        version = store.read(lambda connection: connection.execute(text("SELECT * FROM alembic_version")).scalar())
        assert version == "9999"

    def test_a_migration_leaves_a_copy_of_what_was_there(
        self, store: Store, settings: Settings, second_version: Path
    ) -> None:
        job_id = submit(store)
        store.migrate()
        copy = sqlite3.connect(settings.data_dir / "service.sqlite3.before-0003")
        assert copy.execute("SELECT id FROM jobs").fetchall() == [(job_id,)]
        assert copy.execute("SELECT version_num FROM alembic_version").fetchall() == [("0003",)]
        copy.close()
        names = store.read(lambda connection: [c["name"] for c in inspect(connection).get_columns("jobs")])
        assert "colour" in names and count(store) == 1

    def test_a_server_killed_in_a_migration_leaves_the_old_schema_whole(
        self, store: Store, settings: Settings, second_version: Path
    ) -> None:
        job_id = submit(store)
        store.close()
        program = (
            "import sys, pathlib\nfrom server.store import store\n"
            "store._MIGRATIONS = pathlib.Path(sys.argv[2])\nstore.Store(pathlib.Path(sys.argv[1])).migrate()"
        )
        killed = subprocess.run(
            [sys.executable, "-c", program, str(settings.database), str(second_version)],
            env={**os.environ, "KILL_IN_MIGRATION": "1"},
        )
        assert killed.returncode == -signal.SIGKILL
        again = Store(settings.database)
        tables_left = again.read(lambda connection: inspect(connection).get_table_names())
        assert "extra" not in tables_left
        again.migrate()
        assert "extra" in again.read(lambda connection: inspect(connection).get_table_names())
        assert again.read(lambda connection: queue.get(connection, job_id))["id"] == job_id
        again.close()


class TestTransactions:
    def test_a_failing_one_leaves_nothing_and_announces_nothing(self, store: Store) -> None:
        heard: list[Any] = []
        store.subscribe(heard.extend)

        def work(connection: Connection) -> None:
            queue.create(connection, NEW)
            raise RuntimeError("too late")

        with pytest.raises(RuntimeError, match="too late"):
            store.write(work)
        assert (count(store), count(store, tables.journal), heard) == (0, 0, [])
        submit(store)
        assert len(heard) == 1

    def test_the_result_is_handed_back(self, store: Store) -> None:
        assert store.write(lambda connection: 3) == 3
        assert store.read(lambda connection: 4) == 4

    def test_reading_cannot_write(self, store: Store) -> None:
        with pytest.raises(Exception, match="attempt to write a readonly database"):
            store.read(lambda connection: queue.create(connection, NEW))

    def test_a_reader_sees_one_moment(self, store: Store) -> None:
        def twice(connection: Connection) -> tuple[int, int]:
            before = len(connection.execute(select(tables.jobs)).all())
            submit(store)
            return before, len(connection.execute(select(tables.jobs)).all())

        assert store.read(twice) == (0, 0)
        assert count(store) == 1

    def test_writers_of_many_threads_do_not_disturb_each_other(self, store: Store) -> None:
        def increment() -> None:
            for _ in range(20):
                submit(store)

        threads = [threading.Thread(target=increment) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert count(store) == 100

    def test_one_has_the_lock_from_its_beginning(self, store: Store, settings: Settings) -> None:
        other = sqlite3.connect(settings.database, isolation_level=None, timeout=0)

        def work(connection: Connection) -> None:
            connection.execute(select(tables.jobs)).all()
            with pytest.raises(sqlite3.OperationalError, match="database is locked"):
                other.execute("BEGIN IMMEDIATE")

        store.write(work)
        other.close()

    def test_a_write_waits_for_another_process_that_has_the_lock(self, store: Store, settings: Settings) -> None:
        program = (
            "import sqlite3, sys, time\n"
            "connection = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
            "connection.execute('BEGIN IMMEDIATE')\nprint('locked', flush=True)\ntime.sleep(0.5)\n"
            "connection.execute('COMMIT')"
        )
        holder = subprocess.Popen([sys.executable, "-c", program, str(settings.database)], stdout=subprocess.PIPE)
        with holder:
            assert holder.stdout is not None and holder.stdout.readline() == b"locked\n"
            began = time.monotonic()
            submit(store)
            waited = time.monotonic() - began
        assert waited > 0.3 and count(store) == 1

    def test_foreign_keys_are_kept(self, store: Store) -> None:
        orphan = {"job_id": "job_none", "job_seq": 1, "type": "job.state", "time": 0, "data": {}}
        with pytest.raises(Exception, match="FOREIGN KEY constraint failed"):
            store.write(lambda connection: connection.execute(tables.journal.insert().values(orphan)))

    @pytest.mark.parametrize(("durable", "level"), [(True, 2), (False, 1)])
    def test_only_what_can_be_read_again_is_left_to_the_system_to_write(
        self, store: Store, durable: bool, level: int
    ) -> None:
        def synchronous(connection: Connection) -> Any:
            return connection.execute(text("PRAGMA synchronous")).scalar()

        store.write(lambda connection: None, durable=not durable)
        assert store.write(synchronous, durable=durable) == level

    def test_the_log_is_given_back(self, store: Store, settings: Settings) -> None:
        submit(store)
        log = settings.database.with_name("service.sqlite3-wal")
        assert log.stat().st_size > 0
        store.tidy()
        assert log.stat().st_size == 0


class TestListeners:
    def test_they_hear_what_is_committed_and_can_be_read(self, store: Store) -> None:
        seen: list[int] = []
        store.subscribe(lambda rows: seen.append(count(store, tables.journal)))
        submit(store)
        assert seen == [1]

    def test_a_write_without_news_tells_nobody(self, store: Store) -> None:
        heard: list[Any] = []
        store.subscribe(heard.append)
        store.write(lambda connection: None)
        assert heard == []

    def test_they_get_rows_of_many_threads_in_the_order_of_the_commits(self, store: Store) -> None:
        heard: list[Any] = []
        store.subscribe(heard.extend)
        job_ids = [submit(store) for _ in range(4)]

        def report(job_id: str) -> None:
            for _ in range(25):
                store.write(lambda connection: journal.append(connection, job_id, "metric.batch", {}), durable=False)

        threads = [threading.Thread(target=report, args=(job_id,)) for job_id in job_ids]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [row["seq"] for row in heard] == list(range(1, 105))
        for job_id in job_ids:
            assert [row["job_seq"] for row in heard if row["job_id"] == job_id] == list(range(1, 27))

    def test_a_slow_listener_does_not_let_a_later_commit_be_heard_first(self, store: Store) -> None:
        heard: list[int] = []
        entered = threading.Event()

        def listen(rows: Any) -> None:
            if not entered.is_set():
                entered.set()
                time.sleep(0.3)
            heard.extend(row["seq"] for row in rows)

        store.subscribe(listen)
        first = threading.Thread(target=submit, args=(store,))
        first.start()
        assert entered.wait(10)
        submit(store)
        first.join()
        assert heard == [1, 2]


class TestJournal:
    def test_rows_of_a_job_are_numbered_without_gaps(self, store: Store) -> None:
        job_id = submit(store)
        for _ in range(3):
            store.write(lambda connection: journal.append(connection, job_id, "metric.batch", {}))
        rows = store.read(lambda connection: journal.of_job(connection, job_id, after=1, limit=2))
        assert [row["job_seq"] for row in rows] == [2, 3]

    def test_rows_of_several_jobs_come_in_one_order(self, store: Store) -> None:
        first, second, other = (submit(store) for _ in range(3))
        store.write(lambda connection: journal.append(connection, first, "metric.batch", {}))
        rows = store.read(lambda connection: journal.of_jobs(connection, [first, second], after=0, limit=10))
        assert [row["job_id"] for row in rows] == [first, second, first]
        newest = store.read(lambda connection: journal.tail(connection, [first, second, other], limit=2))
        assert [row["job_id"] for row in newest] == [other, first]


class TestOneServer:
    def test_a_second_one_on_the_same_data_is_refused_and_told_who_is_there(self, tmp_path: Path) -> None:
        held = data_directory.lock(tmp_path / "data")
        with pytest.raises(StartRefused, match=rf"in use by another server \(process {os.getpid()} on "):
            data_directory.lock(tmp_path / "data")
        os.close(held)
        os.close(data_directory.lock(tmp_path / "data"))

    def test_the_lock_goes_with_a_killed_process(self, tmp_path: Path) -> None:
        program = (
            "import pathlib, sys, time\nfrom server.data_directory import lock\n"
            "lock(pathlib.Path(sys.argv[1]))\nprint('taken', flush=True)\ntime.sleep(60)"
        )
        process = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE)
        with process:
            assert process.stdout is not None and process.stdout.readline() == b"taken\n"
            with pytest.raises(StartRefused, match=f"process {process.pid} on"):
                data_directory.lock(tmp_path)
            process.kill()
        os.close(data_directory.lock(tmp_path))

    def test_a_second_service_is_refused_while_the_first_is_open(self, settings: Settings) -> None:
        first = startup.open_service(settings)
        with pytest.raises(StartRefused, match="in use by another server"):
            startup.open_service(settings)
        first.stop()
        startup.open_service(settings).stop()

    def test_a_service_refuses_a_database_that_another_machine_serves(
        self, settings: Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        startup.open_service(settings).stop()
        with monkeypatch.context() as elsewhere:
            elsewhere.setattr(heartbeat.socket, "gethostname", lambda: "elsewhere")
            elsewhere.setattr(heartbeat, "_boot_id", lambda: "another boot")
            store = Store(settings.database)
            store.write(heartbeat.beat)
            store.close()
        with pytest.raises(StartRefused, match="in use by a server on elsewhere"):
            startup.open_service(settings)
        os.close(data_directory.lock(settings.data_dir))

    def test_a_service_that_cannot_bring_its_database_up_to_date_leaves_the_directory_free(
        self, store: Store, settings: Settings
    ) -> None:
        store.write(lambda connection: connection.execute(text("UPDATE alembic_version SET version_num = '9999'")))
        with pytest.raises(StartRefused, match="schema 9999"):
            startup.open_service(settings)
        os.close(data_directory.lock(settings.data_dir))

    def test_a_data_directory_that_cannot_be_made_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(StartRefused, match="cannot write to the data directory"):
            data_directory.lock(tmp_path / "file" / "data")

    def test_two_stores_on_one_file_still_write_one_at_a_time(self, store: Store, settings: Settings) -> None:
        other = Store(settings.database)
        threads = [threading.Thread(target=lambda s=s: [submit(s) for _ in range(20)]) for s in (store, other)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert count(store) == count(other) == 40
        other.close()


def test_readers_do_not_make_a_database_where_it_was_moved_away(store: Store, settings: Settings) -> None:
    path = settings.database
    submit(store)
    for part in ("", "-wal", "-shm"):
        path.with_name(path.name + part).rename(path.with_name(f"moved{part}"))
    with pytest.raises(OperationalError, match="unable to open"):
        count(store)
    assert not path.exists()


def test_a_path_with_characters_that_mean_something_in_an_address_is_the_same_for_readers_and_writer(
    tmp_path: Path,
) -> None:
    store = Store(tmp_path / "a b?c#d%41.sqlite3")
    store.migrate()
    submit(store)
    assert count(store) == 1 and [path.name for path in tmp_path.glob("*.sqlite3")] == ["a b?c#d%41.sqlite3"]
    store.close()
