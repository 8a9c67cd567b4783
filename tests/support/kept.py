"""Jobs with the files of a real run, and what a data directory contains."""

import hashlib
import shutil
import sqlite3
from pathlib import Path
from typing import Any

from gan_mhe.records.run_dir import RunDir
from server.ingest import importer
from server.ingest.indexer import Indexer
from server.queue import admission, queue
from server.settings import Settings
from server.store import job_record
from server.store.store import Store
from tests.support.paths import ROOT

RUN = ROOT / "tests" / "fixtures" / "version_0001" / "run"


def add_run(store: Store, settings: Settings, **attributes: Any) -> str:
    """A succeeded job with the run of the fixtures and its rows, as training would have left it."""
    config, result = RunDir(RUN).read_config(), RunDir(RUN).read_result()
    new = admission.new_job(importer.without_paths(config, settings), "default", **attributes)
    job = store.write(lambda connection: importer.create_ended(connection, new, result))
    job_id = str(job["id"])
    job_record.write(settings, job)
    shutil.copytree(RUN, settings.job_dir(job_id) / "run")
    attempt = settings.job_dir(job_id) / "attempts" / "1"
    attempt.mkdir(parents=True)
    (attempt / "spec.json").write_text('{"epoch": 1}')
    importer.read_in(store, settings, Indexer(store, settings), job_id)
    return job_id


def forget(store: Store, job_id: str) -> None:
    """Delete the row of a job, and nothing else."""
    store.write(lambda connection: connection.exec_driver_sql("DELETE FROM jobs WHERE id = ?", (job_id,)))


def job(store: Store, job_id: str) -> dict[str, Any]:
    return dict(store.read(lambda connection: queue.get(connection, job_id)))


def hashes(directory: Path) -> dict[str, str]:
    """Content of every file below a directory, by relative path; the lock of a run has none."""
    files = sorted(path for path in directory.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def change_ids_in_index(database: Path) -> None:
    """Change a bit of each id in the index of `jobs`, so that it disagrees with the table. The database is closed."""
    start, size = _root_page(database, "sqlite_autoindex_jobs_1")
    content = bytearray(database.read_bytes())
    content[start : start + size] = content[start : start + size].replace(b"job_0", b"job_1")
    database.write_bytes(content)


def overwrite_page(database: Path, name: str) -> None:
    """Overwrite the first page of a table or an index. The database is closed."""
    start, size = _root_page(database, name)
    with open(database, "r+b") as file:
        file.seek(start)
        file.write(b"\xff" * size)


def _root_page(database: Path, name: str) -> tuple[int, int]:
    """Offset and size in bytes."""
    with sqlite3.connect(database) as connection:
        [page] = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (name,)).fetchone()
        [size] = connection.execute("PRAGMA page_size").fetchone()
    connection.close()
    return (page - 1) * size, size
