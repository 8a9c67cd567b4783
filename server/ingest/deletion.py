"""Puts the files of deleted jobs into the trash, after their rows, and finds directories that no row names.

A directory leaves `jobs/` only if a caller deleted its job (`server.store.removals`). A missing row is no reason: the
database may be damaged, older than the files, or lost.
"""

import shutil
from functools import partial
from pathlib import Path

from sqlalchemy import select

from server.ids import is_id
from server.ingest import trash
from server.settings import Settings
from server.store import removals, tables
from server.store.store import Store


def delete_files(store: Store, settings: Settings, job_id: str) -> None:
    """Put the directory of a deleted job into the trash, and take the job off the list of removals.

    A directory that cannot be moved leaves the job on the list, for the next start.
    """
    if trash.put(settings, job_id):
        store.write(partial(removals.done, job_id=job_id))


def complete(store: Store, settings: Settings) -> None:
    """Complete the deletions that an earlier service was asked for and did not finish."""
    for directory in (settings.job_dir(""), settings.trash):
        _remove_leftovers(directory)
    for job_id in store.read(removals.asked):
        delete_files(store, settings, job_id)


def _remove_leftovers(directory: Path) -> None:
    """Delete what a move or a restore cut short, or an older version, put aside; nothing that others named so."""
    for path in directory.glob(".*.tmp"):
        if _is_name(path.name[1:].split(".")[0]):
            shutil.rmtree(path, ignore_errors=True)


def unknown_directories(store: Store, settings: Settings) -> list[str]:
    """Names of the directories in `jobs/` that are a job's or a task's and have no row, in order."""
    names = job_directories(settings)
    if not names:
        return []
    known = store.read(lambda connection: set(connection.execute(select(tables.jobs.c.id)).scalars()))
    return [name for name in names if name not in known]


def job_directories(settings: Settings) -> list[str]:
    """Names of all directories of jobs and tasks, in order."""
    jobs = settings.job_dir("")
    if not jobs.is_dir():
        return []
    return sorted(path.name for path in jobs.iterdir() if _is_name(path.name) and path.is_dir())


def _is_name(text: str) -> bool:
    return is_id(text, "job") or is_id(text, "task")
