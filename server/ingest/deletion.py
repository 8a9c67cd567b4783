"""Deleting jobs: the rows in a transaction, the files after it, so that no row ever names a file that is gone."""

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
    """Rename the directory of a job whose rows are gone; give its new path to `shutil.rmtree` at leisure."""
    directory = settings.job_dir(job_id)
    aside = directory.with_name(f".{job_id}.tmp")
    with suppress(FileNotFoundError):
        os.replace(directory, aside)
    return aside


def sweep(store: Store, settings: Settings) -> None:
    """Delete what a deletion cut short has left: for the start of the service, before anything writes jobs."""
    jobs = settings.job_dir("")
    if not jobs.is_dir():
        return
    remove_temporaries(jobs)
    known = store.read(lambda connection: set(connection.execute(select(tables.jobs.c.id)).scalars()))
    for directory in jobs.iterdir():
        is_job = is_id(directory.name, "job") or is_id(directory.name, "task")
        if is_job and directory.name not in known:
            shutil.rmtree(directory, ignore_errors=True)
