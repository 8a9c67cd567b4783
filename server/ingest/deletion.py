"""Deletes the files of deleted jobs, after the rows are deleted, so that no row names a missing file."""

import os
import shutil
from contextlib import suppress
from pathlib import Path

from sqlalchemy import select

from gan_mhe.files import remove_temporaries
from server.ids import is_id
from server.settings import Settings
from server.store import tables
from server.store.store import Store


def put_aside(settings: Settings, job_id: str) -> Path:
    """Rename the directory of a deleted job, so that the caller can delete it later. Returns the new path."""
    directory = settings.job_dir(job_id)
    aside = directory.with_name(f".{job_id}.tmp")
    with suppress(FileNotFoundError):
        os.replace(directory, aside)
    return aside


def sweep(store: Store, settings: Settings) -> None:
    """Delete the files that an interrupted deletion has left. For the start of the service, before jobs are created."""
    jobs = settings.job_dir("")
    if not jobs.is_dir():
        return
    remove_temporaries(jobs)
    known = store.read(lambda connection: set(connection.execute(select(tables.jobs.c.id)).scalars()))
    for directory in jobs.iterdir():
        is_job = is_id(directory.name, "job") or is_id(directory.name, "task")
        if is_job and directory.name not in known:
            shutil.rmtree(directory, ignore_errors=True)
