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

from gan_mhe.errors import StorageError
from gan_mhe.files import move_directory, write_json
from gan_mhe.json_text import read_object
from server.clock import LATEST_MS, now_ms
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

    Whoever lists `jobs/` sees the directory whole or not at all. What the trash has of the same job already, from
    before it was restored, is deleted.
    """
    directory, target = settings.job_dir(job_id), settings.trash / job_id
    if os.path.lexists(directory):
        try:
            _note_time(settings, job_id)
            if os.path.lexists(target) and not _delete_files(target):
                raise StorageError(f"cannot delete trash/{job_id}, which is there from an earlier deletion")
            move_directory(directory, target)
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
    """Delete for good what has been in the trash for the longest time and can be deleted; returns whether there is any.

    What cannot be deleted frees no space, and must not keep others from being deleted, or jobs from being paused.
    """
    for each in contents(settings):
        if _delete(settings, each.job_id):
            _log.info("trash_emptied", job=each.job_id, why="the disk is short of space")
            return True
    return False


def empty(settings: Settings, job_ids: Sequence[str], *, why: str) -> list[str]:
    """Delete these for good; returns the ids of those that could not be deleted. why: for the log.

    Raises NotFound, and deletes nothing, if one is not in the trash.
    """
    for job_id in job_ids:
        _require(settings, job_id)
    left = []
    for job_id in job_ids:
        if _delete(settings, job_id):
            _log.info("trash_emptied", job=job_id, why=why)
        else:
            _log.warning("trash_not_emptied", directory=f"trash/{job_id}", why=why)
            left.append(job_id)
    return left


def take_back(settings: Settings, job_id: str) -> None:
    """Move a directory from the trash back to `jobs/`.

    Raises NotFound if it is not in the trash, NotReady if `jobs/` has such a directory, StorageError if it cannot be
    moved.
    """
    _require(settings, job_id)
    target = settings.job_dir(job_id)
    if os.path.lexists(target):
        raise NotReady(f"jobs/{job_id} is there already: move it to another place, or leave the files in the trash")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        move_directory(settings.trash / job_id, target)
    except OSError as error:
        raise StorageError(f"cannot move trash/{job_id} to jobs/: {error.strerror or error}") from error
    _time_file(settings, job_id).unlink(missing_ok=True)


def _require(settings: Settings, job_id: str) -> None:
    if not ((is_id(job_id, "job") or is_id(job_id, "task")) and (settings.trash / job_id).is_dir()):
        raise NotFound(f"there is no {job_id!r} in the trash")


def _delete(settings: Settings, job_id: str) -> bool:
    """Delete the files of a job in the trash, as far as possible. Returns whether they are gone."""
    gone = _delete_files(settings.trash / job_id)
    if gone:
        with suppress(OSError):
            _time_file(settings, job_id).unlink(missing_ok=True)
    return gone


def _delete_files(directory: Path) -> bool:
    """Delete a directory, or a link to one, whose content somebody keeps elsewhere. Returns whether it is gone."""
    if directory.is_symlink():
        with suppress(OSError):
            directory.unlink()
    else:
        shutil.rmtree(directory, ignore_errors=True)
    return not os.path.lexists(directory)


def _time_file(settings: Settings, job_id: str) -> Path:
    return settings.trash / f"{job_id}.json"


def _note_time(settings: Settings, job_id: str) -> None:
    write_json(_time_file(settings, job_id), {"deleted_at": now_ms()})


def _time(settings: Settings, job_id: str) -> int:
    """When a directory came into the trash. If nothing says so, it is when its entry in the trash was made."""
    with suppress(OSError, ValueError):
        noted = read_object(_time_file(settings, job_id)).get("deleted_at")
        if isinstance(noted, int) and 0 <= noted < LATEST_MS:
            return noted
    with suppress(OSError):
        return (settings.trash / job_id).lstat().st_ctime_ns // 1_000_000  # a move changes it, and nobody can set it
    return now_ms()
