"""Whatever happens to the database, the files of jobs stay: a start refuses or keeps them, and deletes none."""

import hashlib
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import update

from gan_mhe.config.run_config import RunConfig
from server.app import create_app
from server.errors import StartRefused
from server.ids import new_id
from server.queue import queue
from server.queue.admission import new_job
from server.service import Service
from server.settings import Settings
from server.store import tables
from server.store.store import Store
from tests.support.fake_executor import FakeExecutor

Loss = Callable[[Path], None]


def hashes(settings: Settings) -> dict[str, str]:
    """Content of every file below `jobs/`, by path."""
    files = sorted(path for path in settings.job_dir("").rglob("*") if path.is_file())
    return {str(path.relative_to(settings.data_dir)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


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
    return hashes(settings)


def start(settings: Settings, executor: FakeExecutor) -> None:
    """Start a service as a server does, and stop it."""
    from fastapi.testclient import TestClient

    service = Service.open(settings, executor)
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
    assert hashes(settings) == before


def test_a_new_data_directory_needs_no_database(settings: Settings, executor: FakeExecutor) -> None:
    start(settings, executor)
    assert settings.database.exists()


def test_an_older_copy_of_the_database_deletes_none_of_the_files_that_are_newer(
    before: dict[str, str], migrated_database: Path, settings: Settings, executor: FakeExecutor
) -> None:
    shutil.copyfile(migrated_database, settings.database)
    start(settings, executor)
    assert hashes(settings) == before


def test_a_database_that_lost_its_rows_deletes_no_files(
    before: dict[str, str], settings: Settings, executor: FakeExecutor
) -> None:
    with sqlite3.connect(settings.database) as damaged:
        damaged.execute("delete from jobs")
    damaged.close()
    start(settings, executor)
    assert hashes(settings) == before


def test_an_imported_run_whose_row_is_gone_is_kept(
    before: dict[str, str], settings: Settings, executor: FakeExecutor
) -> None:
    [unknown] = {path.split("/")[1] for path in before} - ids(settings)
    (settings.job_dir(unknown) / "import.json").write_text('{"name": "old"}')
    expected = hashes(settings)
    start(settings, executor)
    assert hashes(settings) == expected


def ids(settings: Settings) -> set[str]:
    with sqlite3.connect(settings.database) as database:
        found = {row[0] for row in database.execute("select id from jobs")}
    database.close()
    return found
