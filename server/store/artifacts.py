"""What a run leaves behind, as rows: sample grids, checkpoints, evaluations, and files by the hash of their content.

A row's `path` is relative to its job's own directory and was computed by us from a step, never taken from a run.
Where rows and files change together the rows come first, so that none names a file that is gone.
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, and_, delete, or_, select, update

from gan_mhe.records.run_dir import RunDir
from server.clock import now_ms
from server.errors import NotFound, NotReady
from server.ids import new_id
from server.settings import Settings
from server.store import tables
from server.store.rows import Row
from server.store.sqlite import upsert

AVAILABLE, REJECTED, PRUNED = "available", "rejected", "pruned"
CHECKPOINT_FILES = ("tensors.safetensors", "manifest.json")
PNG = "image/png"

_samples, _checkpoints, _evaluations, _blobs, _jobs = (
    tables.samples,
    tables.checkpoints,
    tables.evaluations,
    tables.blobs,
    tables.jobs,
)


def run_dir(settings: Settings, job_id: str) -> RunDir:
    """The run directory of a training job."""
    return RunDir(settings.job_dir(job_id) / "run")


# What is asked for.


def samples(connection: Connection, job_id: str, *, after: int, limit: int) -> list[Row]:
    """A job's grids of later steps than `after`, by rising step; those with `pruned_at` have no picture any more."""
    query = select(_samples).where(_samples.c.job_id == job_id, _samples.c.step > after)
    return _rows(connection, query.order_by(_samples.c.step).limit(limit))


def sample(connection: Connection, job_id: str, step: int) -> Row:
    """The grid of one step. NotFound when there is none."""
    query = select(_samples).where(_samples.c.job_id == job_id, _samples.c.step == step)
    return _only(connection, query, f"{job_id} has no sample grid of step {step}")


def latest_sample(connection: Connection, job_id: str) -> Row:
    """The newest grid that is kept. NotReady when there is none yet."""
    query = select(_samples).where(_samples.c.job_id == job_id, _samples.c.pruned_at.is_(None))
    found = _rows(connection, query.order_by(_samples.c.step.desc()).limit(1))
    if not found:
        raise NotReady(f"{job_id} has no sample grid yet")
    return found[0]


def checkpoints(connection: Connection, job_id: str) -> list[Row]:
    """A job's checkpoints by rising step, those rejected or no longer kept among them."""
    return _rows(connection, select(_checkpoints).where(_checkpoints.c.job_id == job_id).order_by(_checkpoints.c.step))


def checkpoint(connection: Connection, checkpoint_id: str, project: str) -> Row:
    """One checkpoint. NotFound when there is none, or it is another project's."""
    query = select(_checkpoints).join(_jobs, _jobs.c.id == _checkpoints.c.job_id)
    mine = query.where(_checkpoints.c.id == checkpoint_id, _jobs.c.project == project)
    return _only(connection, mine, f"there is no {checkpoint_id!r}")


def blob(connection: Connection, sha256: str, project: str) -> Row:
    """A file by its hash, from the newest job that has it. NotFound when no job of the project does."""
    query = select(_blobs).join(_jobs, _jobs.c.id == _blobs.c.job_id)
    mine = query.where(_blobs.c.sha256 == sha256, _jobs.c.project == project)
    return _only(connection, mine.order_by(_jobs.c.seq.desc()).limit(1), f"there is no blob {sha256!r}")


def blob_path(settings: Settings, row: Row) -> Path:
    """Where the file of a blob's or a sample's row lies. NotFound when it is not there, or not inside its job."""
    path = _inside(settings, row, row["path"])
    if not path.is_file():
        raise NotFound("the file is no longer kept")
    return path


def checkpoint_files(settings: Settings, row: Row) -> dict[str, Path]:
    """The files of an available checkpoint by name. NotReady when it is not, NotFound when one is not there."""
    if row["status"] != AVAILABLE:
        raise NotReady(f"the checkpoint {row['id']} is {row['status']}")
    files = {name: _inside(settings, row, f"{row['path']}/{name}") for name in CHECKPOINT_FILES}
    for name, path in files.items():
        if not path.is_file():
            raise NotFound(f"the checkpoint {row['id']} has lost its {name}")
    return files


def _inside(settings: Settings, row: Row, relative: str) -> Path:
    """A path below the job's directory; a link that leads out of it counts as absent."""
    root = settings.job_dir(row["job_id"]).resolve()
    try:
        path = (root / relative).resolve()
    except RuntimeError:  # links in a circle
        path = root.parent
    if not path.is_relative_to(root):
        raise NotFound("the file is no longer kept")
    return path


def _rows(connection: Connection, query: Select[Any]) -> list[Row]:
    return [dict(row) for row in connection.execute(query).mappings()]


def _only(connection: Connection, query: Select[Any], otherwise: str) -> Row:
    found = _rows(connection, query)
    if not found:
        raise NotFound(otherwise)
    return found[0]


# What is taken in.


def add_blob(connection: Connection, job_id: str, sha256: str, path: str, media_type: str, size_bytes: int) -> None:
    """Make a file of a job known by its hash. path: relative to the job's directory."""
    row = {"sha256": sha256, "job_id": job_id, "path": path, "media_type": media_type, "size_bytes": size_bytes}
    upsert(connection, _blobs, [row])


def add_sample(connection: Connection, row: Mapping[str, Any]) -> None:
    """Take in a grid; one of the same step is replaced. row: all columns but `pruned_at`."""
    _drop_samples(connection, row["job_id"], _samples.c.step == row["step"])
    connection.execute(_samples.insert(), dict(row))
    add_blob(connection, row["job_id"], row["sha256"], row["path"], PNG, row["size_bytes"])


def add_checkpoint(connection: Connection, row: Mapping[str, Any]) -> str:
    """Take in a checkpoint and return its id; one of the same step is replaced. row: all columns but `id`.

    An id stands for one content: the same content keeps it, another gets a new one.
    """
    same_step = and_(_checkpoints.c.job_id == row["job_id"], _checkpoints.c.step == row["step"])
    before = _rows(connection, select(_checkpoints).where(same_step))
    same_content = bool(before) and before[0]["sha256"] == row["sha256"]
    checkpoint_id: str = before[0]["id"] if same_content else new_id("ckpt")
    connection.execute(delete(_checkpoints).where(same_step))
    connection.execute(_checkpoints.insert(), {**row, "id": checkpoint_id})
    return checkpoint_id


def reject_checkpoint(connection: Connection, job_id: str, step: int) -> None:
    """Say that a checkpoint turned out to be damaged or foreign."""
    found = (_checkpoints.c.job_id == job_id, _checkpoints.c.step == step)
    connection.execute(update(_checkpoints).where(*found).values(status=REJECTED))


def add_evaluation(connection: Connection, row: Mapping[str, Any]) -> None:
    """Take in scores; those of the same step and purpose are replaced."""
    upsert(connection, _evaluations, [row])


def void(connection: Connection, job_id: str, after_step: int) -> None:
    """Take back what a run said of later steps, because it went back to this one. -1 takes back everything.

    Grids and scores go, and with them a best score measured again, which concludes a run. Checkpoints stay as rows,
    since tasks may name them, but are not to be had.
    """
    _drop_samples(connection, job_id, _samples.c.step > after_step)
    void_scores = or_(_evaluations.c.step > after_step, _evaluations.c.purpose == "best_rescored")
    connection.execute(delete(_evaluations).where(_evaluations.c.job_id == job_id, void_scores))
    later = (_checkpoints.c.job_id == job_id, _checkpoints.c.step > after_step, _checkpoints.c.status == AVAILABLE)
    connection.execute(update(_checkpoints).where(*later).values(status=PRUNED))


def _drop_samples(connection: Connection, job_id: str, which: ColumnElement[bool]) -> None:
    dropped = _rows(connection, select(_samples).where(_samples.c.job_id == job_id, which))
    if dropped:
        connection.execute(delete(_samples).where(_samples.c.job_id == job_id, which))
        _release_blobs(connection, job_id, dropped)


def _release_blobs(connection: Connection, job_id: str, released: Collection[Row]) -> None:
    """Forget the files of grids that are not kept. A hash that another grid has too goes on with that one's file."""
    paths = [row["path"] for row in released]
    connection.execute(delete(_blobs).where(_blobs.c.job_id == job_id, _blobs.c.path.in_(paths)))
    hashes = {row["sha256"] for row in released}
    kept = (_samples.c.job_id == job_id, _samples.c.pruned_at.is_(None), _samples.c.sha256.in_(hashes))
    for row in _rows(connection, select(_samples).where(*kept)):
        add_blob(connection, job_id, row["sha256"], row["path"], PNG, row["size_bytes"])


# What is no longer kept.


def prune_samples(connection: Connection, job_id: str, steps: Sequence[int]) -> list[str]:
    """Say that the pictures of these steps are not kept; their paths, to be deleted after the commit."""
    which = (_samples.c.job_id == job_id, _samples.c.step.in_(steps), _samples.c.pruned_at.is_(None))
    pruned = _rows(connection, select(_samples).where(*which))
    connection.execute(update(_samples).where(*which).values(pruned_at=now_ms()))
    _release_blobs(connection, job_id, pruned)
    return [row["path"] for row in pruned]


def prune_checkpoints(connection: Connection, job_id: str, steps: Sequence[int]) -> list[str]:
    """Say that the checkpoints of these steps are not kept; their paths, to be deleted after the commit."""
    which = (_checkpoints.c.job_id == job_id, _checkpoints.c.step.in_(steps), _checkpoints.c.status == AVAILABLE)
    change = update(_checkpoints).where(*which).values(status=PRUNED).returning(_checkpoints.c.path)
    return list(connection.execute(change).scalars())


def note_pruned_checkpoints(connection: Connection, settings: Settings, job_id: str) -> None:
    """Mark the checkpoints that the trainer has deleted, which it does without a word."""
    run = run_dir(settings, job_id)
    if not run.checkpoints.is_dir():
        return  # then none was deleted: the whole place is out of reach
    query = select(_checkpoints.c.step).where(_checkpoints.c.job_id == job_id, _checkpoints.c.status == AVAILABLE)
    gone = [step for step in connection.execute(query).scalars() if not run.checkpoint(step).is_dir()]
    if gone:
        prune_checkpoints(connection, job_id, gone)
