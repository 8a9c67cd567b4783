"""Tasks: short work on a checkpoint, sampling or scoring. A task is a job of its own kind and runs in its own slots."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, select

from gan_mhe.files import canonical_json, sha256_bytes
from server.errors import FieldError, InvalidRequest, NotFound, NotReady
from server.queue import admission, drawing, queue
from server.queue.admission import Operator, Source
from server.queue.states import State
from server.settings import Settings
from server.store import tables
from server.store.rows import CheckpointRow, JobRow, fetch_one

SAMPLE, SCORE = "sample", "score"
KINDS = (SAMPLE, SCORE)

_jobs = tables.jobs


def get(connection: Connection, task_id: str, project: str) -> JobRow:
    """Return a task. Raises NotFound if it does not exist, belongs to another project, or is a training job."""
    row = queue.get(connection, task_id, project)
    if row["kind"] == queue.TRAIN:
        raise NotFound(f"there is no {task_id!r}")
    return row


def sample(
    connection: Connection, settings: Settings, checkpoint: CheckpointRow, project: str, parameters: Mapping[str, Any]
) -> JobRow:
    """Create a task that samples images, or return the finished task that sampled the same ones.

    parameters: n, seed, truncation, interpolation, ema, format, and `drawing.GRID_FIELDS`. Raises InvalidRequest if the
    checkpoint cannot be sampled like that, NotReady if the checkpoint is not available, and the errors of
    `admission.check_room`.
    """
    job = _source_job(connection, checkpoint)
    _check_sampling(job, parameters)
    new = _new_task(SAMPLE, checkpoint, project, parameters)
    finished = _finished(connection, new)
    if finished is not None:
        return finished
    size = drawing.most_bytes(parameters, job["request"]["data"]["image_size"])
    admission.check_room(connection, settings, project, size_bytes=size)
    return queue.create(connection, new)


def score(
    connection: Connection, operator: Operator, checkpoint: CheckpointRow, project: str, changes: Mapping[str, Any]
) -> JobRow:
    """Create a task that scores a checkpoint under its job's `evaluation` section with `changes`.

    Another protocol uses its own number of samples and its own weights, unless they are given. Errors as for `sample`.
    """
    job = _source_job(connection, checkpoint)
    own = job["request"]["evaluation"]["protocol"]
    if own not in ("none", changes.get("protocol", own)):
        changes = {"num_samples": None, "weights": None, **changes}
    overrides = {f"evaluation.{key}": value for key, value in changes.items()}
    try:
        config = admission.resolve(operator, Source(ancestor=job["request"], overrides=overrides))
    except InvalidRequest as refusal:
        raise InvalidRequest(*map(_in_body, refusal.errors)) from refusal
    if config.evaluation.protocol == "none":
        message = "protocol: the job's configuration has none; expected the name of one"
        raise InvalidRequest(FieldError("/protocol", "missing", message))
    admission.check_room(connection, operator.settings, project)
    evaluation = config.document()["evaluation"]
    return queue.create(connection, _new_task(SCORE, checkpoint, project, {"evaluation": evaluation}))


def _in_body(error: FieldError) -> FieldError:
    return replace(error, pointer=error.pointer.replace("/overrides/evaluation.", "/", 1))


def _source_job(connection: Connection, checkpoint: CheckpointRow) -> JobRow:
    if checkpoint["status"] != "available":
        raise NotReady(f"the checkpoint {checkpoint['id']} is {checkpoint['status']}")
    return queue.get(connection, checkpoint["job_id"])


def _check_sampling(job: JobRow, parameters: Mapping[str, Any]) -> None:
    problems = []
    if parameters["ema"] and not job["request"]["generator"]["ema_halflife_steps"]:
        message = "ema: the job keeps no moving average, since its generator.ema_halflife_steps is 0; expected false"
        problems.append(FieldError("/ema", "no_moving_average", message))
    problems += drawing.refusals(parameters, job["request"]["data"]["image_size"])
    if problems:
        raise InvalidRequest(*problems)


def _new_task(kind: str, checkpoint: CheckpointRow, project: str, parameters: Mapping[str, Any]) -> queue.NewJob:
    request = {
        "job_id": checkpoint["job_id"],
        "checkpoint_id": checkpoint["id"],
        "checkpoint_sha256": checkpoint["sha256"],
        "step": checkpoint["step"],
        **parameters,
    }
    digest = sha256_bytes(canonical_json([kind, request]))
    return queue.NewJob(project=project, kind=kind, request=request, request_sha256=digest)


def _finished(connection: Connection, new: queue.NewJob) -> JobRow | None:
    # The digest covers the checkpoint's id, so the task belongs to the same project.
    same = (_jobs.c.request_sha256 == new.request_sha256, _jobs.c.state == State.SUCCEEDED)
    query = select(_jobs).where(*same).order_by(_jobs.c.seq.desc()).limit(1)
    return fetch_one(connection, query, JobRow)
