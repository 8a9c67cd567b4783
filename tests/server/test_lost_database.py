"""Whatever happens to the database, the files of jobs stay: a start refuses or keeps them, and deletes none."""

import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import update

from gan_mhe.config.run_config import RunConfig
from server import startup
from server.app import create_app
from server.clock import wall_ms
from server.errors import StartRefused
from server.ids import new_id
from server.queue import queue
from server.queue.admission import new_job
from server.service import Service
from server.settings import Settings
from server.store import keys, tables
from server.store.store import Store
from tests.support.fake_executor import FakeExecutor
from tests.support.kept import change_ids_in_index, hashes, overwrite_page
from tests.support.paths import ROOT

Loss = Callable[[Path], None]


def files(settings: Settings) -> dict[str, str]:
    """Content of every file below `jobs/`, by path."""
    return hashes(settings.job_dir(""))


def add_job(store: Store, settings: Settings) -> str:
    """A succeeded job with files of a run."""
    job = store.write(lambda connection: queue.create(connection, new_job(RunConfig(), "default")))
    values = {"state": "succeeded"}
    store.write(lambda connection: connection.execute(update(tables.jobs).values(values)))
    write_files(settings, job["id"])
    return str(job["id"])


def write_files(settings: Settings, job_id: str) -> None:
    for name in ("run/config.json", "run/checkpoints/step_00000010/tensors.safetensors", "attempts/1/console.log"):
        path = settings.job_dir(job_id) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{job_id} {name}")


@pytest.fixture
def before(store: Store, settings: Settings) -> dict[str, str]:
    """Two jobs and the files of a third whose row is gone; the database is closed."""
    for _ in range(2):
        add_job(store, settings)
    write_files(settings, new_id("job"))
    store.tidy()
    store.close()
    return files(settings)


def start(settings: Settings, executor: FakeExecutor) -> None:
    """Start a service as a server does, and stop it."""
    service = startup.open_service(settings, executor)
    try:
        with TestClient(create_app(service)):
            pass
    finally:
        service.stop()


def remove(database: Path) -> None:
    database.unlink()


def empty(database: Path) -> None:
    database.write_bytes(b"")


def replace_by_a_file_of_another_program(database: Path) -> None:
    database.unlink()
    with sqlite3.connect(database) as other:
        other.execute("create table notes (text text)")
    other.close()


@pytest.mark.parametrize("lose", [remove, empty, replace_by_a_file_of_another_program])
def test_a_start_without_the_database_is_refused_and_says_how_to_go_on(
    before: dict[str, str], settings: Settings, executor: FakeExecutor, lose: Loss
) -> None:
    lose(settings.database)
    for _ in range(2):  # the first refusal must not prepare a second start
        with pytest.raises(StartRefused, match=r"the files of 3 jobs and tasks.*missing or empty.*copy of the data"):
            start(settings, executor)
    assert files(settings) == before


def test_a_file_of_another_program_is_refused_and_stays_byte_for_byte(
    settings: Settings, executor: FakeExecutor
) -> None:
    settings.database.touch()
    replace_by_a_file_of_another_program(settings.database)
    content = settings.database.read_bytes()
    with pytest.raises(StartRefused, match="It was not changed"):
        start(settings, executor)
    assert settings.database.read_bytes() == content


def test_a_database_that_another_machine_serves_is_not_migrated(settings: Settings, executor: FakeExecutor) -> None:
    beat = {"host": "elsewhere", "boot_id": "another", "time": wall_ms()}
    with sqlite3.connect(settings.database) as old:
        old.executescript((ROOT / "tests" / "fixtures" / "version_0001" / "service.sql").read_text())
        old.execute("insert or replace into service_state values ('heartbeat', ?)", (json.dumps(beat),))
    old.close()
    with pytest.raises(StartRefused, match="in use by a server on elsewhere"):
        start(settings, executor)
    with sqlite3.connect(settings.database) as old:
        assert old.execute("select version_num from alembic_version").fetchone() == ("0001",)
    old.close()
    assert not list(settings.data_dir.glob("*.before-*"))


def test_a_new_data_directory_needs_no_database(settings: Settings, executor: FakeExecutor) -> None:
    start(settings, executor)
    assert settings.database.exists()


def test_an_older_copy_of_the_database_deletes_none_of_the_files_that_are_newer(
    before: dict[str, str], migrated_database: Path, settings: Settings, executor: FakeExecutor
) -> None:
    shutil.copyfile(migrated_database, settings.database)
    start(settings, executor)
    assert files(settings) == before


def lose_all_rows(database: Path) -> None:
    with sqlite3.connect(database) as damaged:
        damaged.execute("delete from jobs")
    damaged.close()


def cut(database: Path) -> None:
    with open(database, "r+b") as file:
        file.truncate(database.stat().st_size // 2)


def fill_with_noise(database: Path) -> None:
    database.write_bytes(b"no database at all, but text " * 1000)


def write_with_a_newer_version(database: Path) -> None:
    with sqlite3.connect(database) as newer:
        newer.execute("update alembic_version set version_num = '9999'")
    newer.close()


def lose_the_revision(database: Path) -> None:
    with sqlite3.connect(database) as damaged:
        damaged.execute("drop table alembic_version")
    damaged.close()


def overwrite_the_jobs(database: Path) -> None:
    overwrite_page(database, "jobs")


def overwrite_the_header(database: Path) -> None:
    with open(database, "r+b") as file:
        file.write(b"\xff" * 100)


LOSSES = (
    remove,
    empty,
    replace_by_a_file_of_another_program,
    lose_all_rows,
    cut,
    fill_with_noise,
    write_with_a_newer_version,
    lose_the_revision,
    change_ids_in_index,
    overwrite_the_jobs,
    overwrite_the_header,
)


@pytest.mark.parametrize("lose", LOSSES)
def test_no_loss_of_the_database_costs_a_file(
    before: dict[str, str], settings: Settings, executor: FakeExecutor, lose: Loss
) -> None:
    lose(settings.database)
    for _ in range(2):
        with suppress(StartRefused):
            start(settings, executor)
        assert files(settings) == before


@pytest.mark.parametrize("damage", [change_ids_in_index, overwrite_the_jobs])
def test_a_damaged_database_is_served_read_only_and_says_what_to_do(
    before: dict[str, str], settings: Settings, executor: FakeExecutor, damage: Loss
) -> None:
    damage(settings.database)
    content = settings.database.read_bytes()
    service = startup.open_service(settings, executor)
    with TestClient(create_app(service), base_url="http://localhost") as client:
        for answer in (client.get("/readyz"), client.post("/v1/jobs", json={"preset": "digits_cnn"})):
            assert answer.status_code == 503 and "gan-mhe restore BACKUP" in answer.json()["detail"]
        assert client.get("/healthz").status_code == 200
    assert settings.database.read_bytes() == content


def test_damage_that_a_request_meets_is_said_and_stops_further_writes(
    before: dict[str, str], settings: Settings, executor: FakeExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    overwrite_the_jobs(settings.database)
    monkeypatch.setattr(Store, "examine", lambda self, seconds=None: True)  # too large to be examined at the start
    service = startup.open_service(settings, executor)
    monkeypatch.setattr(Service, "start", lambda self: None)
    with TestClient(create_app(service), base_url="http://localhost") as client:
        answer = client.get("/v1/jobs")
        assert (answer.status_code, answer.json()["code"]) == (503, "database_damaged")
        assert client.post("/v1/jobs", json={"preset": "digits_cnn"}).json()["code"] == "database_damaged"


def test_keys_lost_with_the_database_never_open_the_service(
    store: Store, settings: Settings, executor: FakeExecutor
) -> None:
    keys.create(store, "ann", "default", ["admin"])
    store.close()
    start(settings, executor)
    for part in ("", "-wal", "-shm"):
        settings.database.with_name(settings.database.name + part).unlink(missing_ok=True)
    service = startup.open_service(settings, executor)
    with TestClient(create_app(service), base_url="http://localhost") as client:
        assert client.get("/v1/jobs").status_code == 401


def test_a_step_that_fails_stops_neither_the_others_nor_the_start(
    before: dict[str, str],
    settings: Settings,
    executor: FakeExecutor,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("a reader has a fault")

    monkeypatch.setattr("server.ingest.importer.recover", fail)
    start(settings, executor)
    printed = capsys.readouterr().out
    assert "step=complete_imports" in printed and "unknown_directories" in printed


def test_an_imported_run_whose_row_is_gone_is_kept(
    before: dict[str, str], settings: Settings, executor: FakeExecutor
) -> None:
    [unknown] = {path.split("/")[0] for path in before} - ids(settings)
    (settings.job_dir(unknown) / "import.json").write_text('{"name": "old"}')
    expected = files(settings)
    start(settings, executor)
    assert files(settings) == expected


def ids(settings: Settings) -> set[str]:
    with sqlite3.connect(settings.database) as database:
        found = {row[0] for row in database.execute("select id from jobs")}
    database.close()
    return found
