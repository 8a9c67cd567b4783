"""The rows of a run's files: sample grids, checkpoints and evaluations, and files by the hash of their content.

A row's `path` is relative to its job's directory. The service computes it from a step and never takes it from a run.
When rows and files change together, the rows change first, so that no row names a missing file.
"""

from collections.abc import Collection, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Final

from sqlalchemy import ColumnElement, Connection, and_, delete, or_, select, update

from gan_mhe.files import sha256_file
from gan_mhe.records.manifest import MANIFEST_FILE, TENSORS_FILE
from gan_mhe.records.run_dir import RunDir
from server.clock import now_ms
from server.errors import NotFound, NotReady
from server.ids import new_id
from server.settings import Settings
from server.store import tables
from server.store.rows import (
    BlobRow,
    CheckpointRow,
    EvaluationRow,
    FileRow,
    NewCheckpointRow,
    SampleRow,
    fetch_all,
    fetch_one,
)
from server.store.sqlite import pieces, upsert

AVAILABLE: Final = "available"
REJECTED: Final = "rejected"
PRUNED: Final = "pruned"
MAX_CHECKPOINTS = 10_000
"""Most checkpoints of one job that are listed. Beyond, the oldest of those that are no longer kept are left out."""
CHECKPOINT_FILES = (TENSORS_FILE, MANIFEST_FILE)
PNG = "image/png"

_samples, _checkpoints, _evaluations, _blobs, _jobs = (
    tables.samples,
    tables.checkpoints,
    tables.evaluations,
    tables.blobs,
    tables.jobs,
)


def run_dir(settings: Settings, job_id: str) -> RunDir:
    """Return the run directory of a training job."""
    return RunDir(settings.job_dir(job_id) / "run")


# Reading.


def samples(connection: Connection, job_id: str, *, after: int, limit: int) -> list[SampleRow]:
    """Return a job's grids of steps above `after`, by rising step. The file of a row with `pruned_at` was deleted."""
    query = select(_samples).where(_samples.c.job_id == job_id, _samples.c.step > after)
    return fetch_all(connection, query.order_by(_samples.c.step).limit(limit), SampleRow)


def sample(connection: Connection, job_id: str, step: int) -> SampleRow:
    """Return the grid of one step. Raises NotFound if there is none."""
    query = select(_samples).where(_samples.c.job_id == job_id, _samples.c.step == step)
    row = fetch_one(connection, query, SampleRow)
    if row is None:
        raise NotFound(f"{job_id} has no sample grid of step {step}")
    return row


def latest_sample(connection: Connection, job_id: str) -> SampleRow:
    """Return the newest grid whose file is kept. Raises NotReady if there is none."""
    query = select(_samples).where(_samples.c.job_id == job_id, _samples.c.pruned_at.is_(None))
    row = fetch_one(connection, query.order_by(_samples.c.step.desc()).limit(1), SampleRow)
    if row is None:
        raise NotReady(f"{job_id} has no sample grid yet")
    return row


def checkpoints(connection: Connection, job_id: str) -> list[CheckpointRow]:
    """Return a job's checkpoints by rising step, including rejected and pruned ones."""
    query = select(_checkpoints).where(_checkpoints.c.job_id == job_id).order_by(_checkpoints.c.step)
    return fetch_all(connection, query, CheckpointRow)


def checkpoint(connection: Connection, checkpoint_id: str, project: str) -> CheckpointRow:
    """Return one checkpoint. Raises NotFound if it does not exist or belongs to another project."""
    query = select(_checkpoints).join(_jobs, _jobs.c.id == _checkpoints.c.job_id)
    mine = query.where(_checkpoints.c.id == checkpoint_id, _jobs.c.project == project)
    row = fetch_one(connection, mine, CheckpointRow)
    if row is None:
        raise NotFound(f"there is no {checkpoint_id!r}")
    return row


def blob(connection: Connection, sha256: str, project: str) -> BlobRow:
    """Return a file by its hash, from the newest job that has it. Raises NotFound if no job of the project has it."""
    query = select(_blobs).join(_jobs, _jobs.c.id == _blobs.c.job_id)
    mine = query.where(_blobs.c.sha256 == sha256, _jobs.c.project == project)
    row = fetch_one(connection, mine.order_by(_jobs.c.seq.desc()).limit(1), BlobRow)
    if row is None:
        raise NotFound(f"there is no blob {sha256!r}")
    return row


def blob_path(settings: Settings, row: FileRow) -> Path:
    """Return the path of a row's file. Raises NotFound if it is missing or outside the job's directory."""
    path = _inside(settings, row["job_id"], row["path"])
    if not path.is_file():
        raise NotFound("the file is no longer kept")
    return path


def content_path(settings: Settings, row: SampleRow | BlobRow) -> Path:
    """Return the path of a row's file. Raises NotFound as `blob_path`, and if the file has other content by now."""
    path = blob_path(settings, row)
    if content_sha256(path) != row["sha256"]:
        raise NotFound("the file is no longer kept: it has other content")
    return path


def content_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, which is read again only after it was changed. Raises OSError."""
    status = path.stat()
    return _sha256_of(path, status.st_ino, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=4096)
def _sha256_of(path: Path, _number: int, _size: int, _changed_at: int) -> str:
    return sha256_file(path)


def checkpoint_files(settings: Settings, row: CheckpointRow) -> dict[str, Path]:
    """Return the files of an available checkpoint by name.

    Raises NotReady if the checkpoint is not available, NotFound if one of its files is missing.
    """
    if row["status"] != AVAILABLE:
        raise NotReady(f"the checkpoint {row['id']} is {row['status']}")
    files = {name: _inside(settings, row["job_id"], f"{row['path']}/{name}") for name in CHECKPOINT_FILES}
    for name, path in files.items():
        if not path.is_file():
            raise NotFound(f"the checkpoint {row['id']} has lost its {name}")
    return files


def _inside(settings: Settings, job_id: str, relative: str) -> Path:
    """Resolve a path below the job's directory. Raises NotFound if a link leads out of it."""
    root = settings.job_dir(job_id).resolve()
    try:
        path = (root / relative).resolve()
    except RuntimeError:  # circular links
        path = root.parent
    if not path.is_relative_to(root):
        raise NotFound("the file is no longer kept")
    return path


# Adding.


def add_blob(connection: Connection, job_id: str, sha256: str, path: str, media_type: str, size_bytes: int) -> None:
    """Register a file of a job under its hash. path: relative to the job's directory."""
    row: BlobRow = {
        "sha256": sha256,
        "job_id": job_id,
        "path": path,
        "media_type": media_type,
        "size_bytes": size_bytes,
    }
    upsert(connection, _blobs, [row])


def add_sample(connection: Connection, row: SampleRow) -> None:
    """Add a grid; it replaces one of the same step."""
    _drop_samples(connection, row["job_id"], _samples.c.step == row["step"])
    connection.execute(_samples.insert(), dict(row))
    add_blob(connection, row["job_id"], row["sha256"], row["path"], PNG, row["size_bytes"])


def add_checkpoint(connection: Connection, row: NewCheckpointRow) -> str:
    """Add a checkpoint and return its id; it replaces one of the same step.

    An id identifies one content: the same content keeps its id, other content gets a new one.
    """
    same_step = and_(_checkpoints.c.job_id == row["job_id"], _checkpoints.c.step == row["step"])
    before = fetch_one(connection, select(_checkpoints).where(same_step), CheckpointRow)
    same_content = before is not None and before["sha256"] == row["sha256"]
    checkpoint_id = before["id"] if before is not None and same_content else new_id("ckpt")
    connection.execute(delete(_checkpoints).where(same_step))
    connection.execute(_checkpoints.insert(), {**row, "id": checkpoint_id})
    _drop_oldest_checkpoints(connection, row["job_id"])
    return checkpoint_id


def _drop_oldest_checkpoints(connection: Connection, job_id: str) -> None:
    """Delete the rows of pruned checkpoints below the newest MAX_CHECKPOINTS steps."""
    mine = _checkpoints.c.job_id == job_id
    newest = select(_checkpoints.c.step).where(mine).order_by(_checkpoints.c.step.desc())
    oldest_listed = connection.execute(newest.offset(MAX_CHECKPOINTS - 1).limit(1)).scalar()
    if oldest_listed is not None:
        old = (mine, _checkpoints.c.step < oldest_listed, _checkpoints.c.status == PRUNED)
        connection.execute(delete(_checkpoints).where(*old))


def reject_checkpoint(connection: Connection, job_id: str, step: int) -> None:
    """Mark a checkpoint that is damaged or belongs to another run."""
    found = (_checkpoints.c.job_id == job_id, _checkpoints.c.step == step)
    connection.execute(update(_checkpoints).where(*found).values(status=REJECTED))


def reject_checkpoints(connection: Connection, job_id: str) -> None:
    """Mark all checkpoints of a job that are available as rejected."""
    found = (_checkpoints.c.job_id == job_id, _checkpoints.c.status == AVAILABLE)
    connection.execute(update(_checkpoints).where(*found).values(status=REJECTED))


def add_evaluation(connection: Connection, row: EvaluationRow) -> None:
    """Add scores; they replace those of the same step and purpose."""
    upsert(connection, _evaluations, [row])


def discard_after(connection: Connection, job_id: str, step: int) -> None:
    """Discard the artifacts of steps above `step`, because the run resumed there. -1 discards everything.

    Grids and scores are deleted, and so is a rescored best score, which only a finished run has. Checkpoint rows stay,
    because tasks may refer to them, but are no longer available.
    """
    _drop_samples(connection, job_id, _samples.c.step > step)
    discarded = or_(_evaluations.c.step > step, _evaluations.c.purpose == "best_rescored")
    connection.execute(delete(_evaluations).where(_evaluations.c.job_id == job_id, discarded))
    later = (_checkpoints.c.job_id == job_id, _checkpoints.c.step > step, _checkpoints.c.status == AVAILABLE)
    connection.execute(update(_checkpoints).where(*later).values(status=PRUNED))


def _drop_samples(connection: Connection, job_id: str, which: ColumnElement[bool]) -> None:
    dropped = fetch_all(connection, select(_samples).where(_samples.c.job_id == job_id, which), SampleRow)
    if dropped:
        connection.execute(delete(_samples).where(_samples.c.job_id == job_id, which))
        _release_blobs(connection, job_id, dropped)


def _release_blobs(connection: Connection, job_id: str, released: Collection[SampleRow]) -> None:
    """Remove the blobs of dropped grids. If a kept grid has the same hash, the blob then points to that grid's file."""
    for rows in pieces(released):
        paths = [row["path"] for row in rows]
        connection.execute(delete(_blobs).where(_blobs.c.job_id == job_id, _blobs.c.path.in_(paths)))
    for hashes in pieces({row["sha256"] for row in released}):
        kept = (_samples.c.job_id == job_id, _samples.c.pruned_at.is_(None), _samples.c.sha256.in_(hashes))
        for row in fetch_all(connection, select(_samples).where(*kept), SampleRow):
            add_blob(connection, job_id, row["sha256"], row["path"], PNG, row["size_bytes"])


# Pruning.


def prune_samples(connection: Connection, job_id: str, steps: Sequence[int]) -> list[str]:
    """Mark the grids of these steps as pruned. Returns their paths, which the caller deletes after the commit."""
    pruned: list[SampleRow] = []
    for piece in pieces(steps):
        which = (_samples.c.job_id == job_id, _samples.c.step.in_(piece), _samples.c.pruned_at.is_(None))
        pruned += fetch_all(connection, select(_samples).where(*which), SampleRow)
        connection.execute(update(_samples).where(*which).values(pruned_at=now_ms()))
    _release_blobs(connection, job_id, pruned)
    return [row["path"] for row in pruned]


def prune_checkpoints(connection: Connection, job_id: str, steps: Sequence[int]) -> list[str]:
    """Mark the checkpoints of these steps as pruned. Returns their paths, which the caller deletes after the commit."""
    paths: list[str] = []
    for piece in pieces(steps):
        which = (_checkpoints.c.job_id == job_id, _checkpoints.c.step.in_(piece), _checkpoints.c.status == AVAILABLE)
        change = update(_checkpoints).where(*which).values(status=PRUNED).returning(_checkpoints.c.path)
        paths += connection.execute(change).scalars()
    return paths


def mark_pruned_checkpoints(connection: Connection, settings: Settings, job_id: str) -> None:
    """Mark the checkpoints that the trainer has deleted; it writes no event for that."""
    run = run_dir(settings, job_id)
    if not run.checkpoints.is_dir():
        return  # the run directory is unreachable, which does not mean that checkpoints were deleted
    query = select(_checkpoints.c.step).where(_checkpoints.c.job_id == job_id, _checkpoints.c.status == AVAILABLE)
    gone = [step for step in connection.execute(query).scalars() if not run.checkpoint(step).is_dir()]
    if gone:
        prune_checkpoints(connection, job_id, gone)
