"""The trash: the files of deleted jobs, kept for some days in case that the deletion was a mistake.

`trash/JOB/` is the directory that was `jobs/JOB/`, and `trash/JOB.json` says when it came there. The trash is emptied
after `trash_days`, and earlier only if the disk is short of space or the operator says so. A job that a backup brought
back and that is deleted once more takes the place of its older files.
"""

import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import structlog

from gan_mhe import json_text
from gan_mhe.errors import StorageError
from gan_mhe.files import write_json
from server.clock import now_ms
from server.errors import NotFound, NotReady
from server.ids import is_id
from server.settings import Settings

_DAY_MS = 86_400_000
_log = structlog.get_logger("server.ingest")


@dataclass(frozen=True)
class Discarded:
    """The files of one deleted job. deleted_at: milliseconds since 1970."""

    job_id: str
    deleted_at: int


def put(settings: Settings, job_id: str) -> bool:
    """Move the directory of a job into the trash; with `trash_days` 0 delete it. Returns whether it left `jobs/`.

    The move is one rename, so that whoever lists `jobs/` sees the directory whole or not at all.
    """
    directory, target = settings.job_dir(job_id), settings.trash / job_id
    if directory.exists():
        try:
            write_json(_time_file(settings, job_id), {"deleted_at": now_ms()})
            if target.exists():
                shutil.rmtree(target)
            os.replace(directory, target)
        except (OSError, StorageError) as error:
            _log.warning("job_not_moved_to_trash", directory=f"jobs/{job_id}", error=str(error))
            return False
    if settings.trash_days == 0:
        _delete(settings, job_id)
    return True


def contents(settings: Settings) -> list[Discarded]:
    """What is in the trash, oldest first."""
    if not settings.trash.is_dir():
        return []
    names = [path.name for path in settings.trash.iterdir() if is_id(path.name, "job") or is_id(path.name, "task")]
    found = [Discarded(name, _time(settings, name)) for name in names]
    return sorted(found, key=lambda each: (each.deleted_at, each.job_id))


def empty_old(settings: Settings, discarded: Sequence[Discarded], now: int) -> None:
    """Delete for good those of the trash's contents that have been there for `trash_days`. now: in milliseconds."""
    limit = now - settings.trash_days * _DAY_MS
    empty(settings, [each.job_id for each in discarded if each.deleted_at <= limit], why="old")


def empty_oldest(settings: Settings) -> bool:
    """Delete for good what has been in the trash for the longest time, of what can be deleted.

    Returns whether there was anything: nothing else is given up for disk space before the trash is empty.
    """
    return any(empty(settings, [each.job_id], why="the disk is short of space") for each in contents(settings))


def empty(settings: Settings, job_ids: Sequence[str], *, why: str) -> int:
    """Delete these for good; returns how many could be deleted. why: for the log.

    Raises NotFound, and deletes nothing, if one is not in the trash.
    """
    for job_id in job_ids:
        _require(settings, job_id)
    deleted = [job_id for job_id in job_ids if _delete(settings, job_id)]
    for job_id in deleted:
        _log.info("trash_emptied", job=job_id, why=why)
    return len(deleted)


def take_back(settings: Settings, job_id: str) -> None:
    """Move a directory from the trash back to `jobs/`.

    Raises NotFound if it is not in the trash, NotReady if the job has files in `jobs/` too, as after `restore`.
    """
    _require(settings, job_id)
    if settings.job_dir(job_id).exists():
        raise NotReady(
            f"{job_id} has files in jobs/ already; move that directory away if those in the trash are to come back"
        )
    os.replace(settings.trash / job_id, settings.job_dir(job_id))
    _time_file(settings, job_id).unlink(missing_ok=True)


def _require(settings: Settings, job_id: str) -> None:
    if not ((is_id(job_id, "job") or is_id(job_id, "task")) and (settings.trash / job_id).is_dir()):
        raise NotFound(f"there is no {job_id!r} in the trash")


def _delete(settings: Settings, job_id: str) -> bool:
    """Delete a directory in the trash as far as possible; returns whether nothing is left of it."""
    directory = settings.trash / job_id
    shutil.rmtree(directory, ignore_errors=True)
    if directory.exists():
        return False
    with suppress(OSError):
        _time_file(settings, job_id).unlink(missing_ok=True)
    return True


def _time_file(settings: Settings, job_id: str) -> Path:
    return settings.trash / f"{job_id}.json"


def _time(settings: Settings, job_id: str) -> int:
    """When a directory came into the trash: as noted, or else when it was last moved or changed."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        return int(json_text.read_object(_time_file(settings, job_id))["deleted_at"])
    try:
        return (settings.trash / job_id).stat().st_ctime_ns // 1_000_000
    except FileNotFoundError:  # deleted meanwhile
        return now_ms()
