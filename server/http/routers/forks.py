"""Forks: new jobs that start from a checkpoint of another."""

from fastapi import APIRouter
from fastapi.responses import JSONResponse
from sqlalchemy import Connection

from gan_mhe.config.run_config import RunConfig
from server.errors import FieldError, InvalidRequest, NotFound, NotReady
from server.http.bodies import ForkJob
from server.http.dependencies import Answer, OnceDep, ServiceDep, WriteJobs
from server.http.routers.jobs import created, training_job
from server.http.schemas.jobs import Job
from server.queue import admission, queue
from server.queue.admission import Operator, Source
from server.store import artifacts
from server.store.rows import CheckpointRow, ForkedFrom, JobRow

router = APIRouter(prefix="/v1", tags=["jobs"])


@router.post("/jobs/{job_id}/fork", status_code=201, response_model=Job, summary="Fork a job from a checkpoint")
def fork_job(job_id: str, body: ForkJob, principal: WriteJobs, service: ServiceDep, once: OnceDep) -> JSONResponse:
    """Start a new job from a checkpoint of this one, optionally with changes of the configuration.

    It has the priority of this job, or the caller's highest if that is lower.
    """
    operator = Operator(service.settings, service.executor)

    def work(connection: Connection) -> Answer:
        row = training_job(connection, job_id, principal.project)
        checkpoint = _checkpoint(connection, row, body)
        config = admission.resolve(operator, Source(ancestor=row["request"], overrides=body.overrides))
        admission.check_room(connection, principal.settings, principal.project)
        new = admission.new_job(
            config,
            principal.project,
            name=body.name,
            labels=body.labels,
            priority=min(row["priority"], principal.settings.max_priority),
            origin="forked",
            forked_from=_forked_from(row, checkpoint, config),
        )
        return created(connection, service, queue.create(connection, new))

    return once(principal, body, work)


def _checkpoint(connection: Connection, job: JobRow, body: ForkJob) -> CheckpointRow:
    """The requested or the newest checkpoint. Raises NotFound or NotReady if there is none."""
    rows = artifacts.checkpoints(connection, job["id"])
    if body.checkpoint_id is not None:
        rows = [row for row in rows if row["id"] == body.checkpoint_id]
    elif body.step is not None:
        rows = [row for row in rows if row["step"] == body.step]
    else:
        rows = [row for row in rows if row["status"] == "available"]
        if not rows:
            raise NotReady(f"{job['id']} has no checkpoints to fork from")
    if not rows:
        raise NotFound(f"{job['id']} has no such checkpoint")
    newest = max(rows, key=lambda row: row["step"])
    if newest["status"] != "available":
        raise NotReady(f"the checkpoint {newest['id']} is {newest['status']}")
    return newest


def _forked_from(job: JobRow, checkpoint: CheckpointRow, config: RunConfig) -> ForkedFrom:
    """The origin of a fork. Raises InvalidRequest if the fork would have no steps left."""
    source = RunConfig.stored(job["request"])
    same_config = not config.changes_on_resume(source) and config.named_files == source.named_files
    if same_config and config.training.steps <= checkpoint["step"]:
        message = f"training.steps: expected more than {checkpoint['step']}, the step of the checkpoint"
        raise InvalidRequest(FieldError("/overrides/training.steps", "nothing_to_do", message))
    return {
        "job_id": job["id"],
        "checkpoint_id": checkpoint["id"],
        "step": checkpoint["step"],
        "same_config": same_config,
        "one_config": same_config and (job["forked_from"] is None or job["forked_from"]["one_config"]),
    }
