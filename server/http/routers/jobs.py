"""Training jobs: submit, list, change, stop, resume, retry and delete."""

import re
from collections.abc import Callable, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, BackgroundTasks, Depends, Header, Query, Response
from fastapi.requests import Request
from fastapi.responses import JSONResponse
from pydantic import BeforeValidator
from sqlalchemy import Connection

from gan_mhe.config.run_config import RunConfig
from server.clock import from_wall
from server.errors import FieldError, InvalidRequest, InvalidTransition, NotFound, RevisionMismatch, ServiceError
from server.http import errors
from server.http.bodies import BatchJobs, ChangeJob, Moment, RetryJob, StopJob, SubmitJob
from server.http.dependencies import Answer, OnceDep, Principal, ReadJobs, ServiceDep, WriteJobs
from server.http.pagination import DEFAULT_LIMIT, CursorParameter, Limit, Page, next_link
from server.http.schemas.jobs import BatchResult, DryRun, Job, digest
from server.ingest import deletion
from server.queue import admission, estimates, job_list, queue, removal
from server.queue.admission import Operator
from server.queue.job_list import JobFilter, Order
from server.queue.queue import StopMode
from server.queue.states import State
from server.service import Service
from server.store import artifacts, job_record
from server.store.rows import JobRow

router = APIRouter(prefix="/v1", tags=["jobs"])

_ETAG = re.compile(r'"(\d{1,18})"')

_LOST_PLUS = re.compile(r"T.* \d\d:?\d\d$")


def _with_plus(value: Any) -> Any:
    """Refuses a time zone whose "+" was decoded to a space, with the reason."""
    if isinstance(value, str) and _LOST_PLUS.search(value):
        raise ValueError(f"in a URL the '+' of a time zone is written %2B; got {value!r}")
    return value


QueryMoment = Annotated[Moment, BeforeValidator(_with_plus)]
Change = Callable[[Connection, JobRow], JobRow]


def show(connection: Connection, service: Service, rows: Sequence[JobRow]) -> list[dict[str, Any]]:
    """Jobs as JSON documents."""
    attempts = job_list.newest_attempts(connection, rows)
    metrics = job_list.primary_metrics(connection, rows)
    samples = job_list.newest_samples(connection, rows)
    found = [
        Job.of(row, service.settings, attempts.get(row["id"]), metrics.get(row["seq"]), samples.get(row["id"]))
        for row in rows
    ]
    return [job.model_dump(mode="json") for job in found]


def training_job(connection: Connection, job_id: str, project: str) -> JobRow:
    """A training job. Raises NotFound if it does not exist, belongs to another project, or is a task."""
    row = queue.get(connection, job_id, project)
    if row["kind"] != queue.TRAIN:
        raise NotFound(f"there is no {job_id!r}")
    return row


def _etag(row: JobRow) -> str:
    return f'"{row["revision"]}"'


def created(connection: Connection, service: Service, row: JobRow) -> Answer:
    """The answer to a request that created a job."""
    [document] = show(connection, service, [row])
    return Answer(201, document, {"Location": f"/v1/jobs/{row['id']}", "ETag": _etag(row)})


@router.post("/jobs", status_code=201, response_model=Job, responses={200: {"model": DryRun}}, summary="Submit a job")
def submit_job(
    body: SubmitJob,
    principal: WriteJobs,
    service: ServiceDep,
    once: OnceDep,
    dry_run: Annotated[
        bool, Query(description="Only validate; return 200 with the job that would be created.")
    ] = False,
) -> JSONResponse:
    """Submit a job.

    Give a `preset`, a `variant`, a `seed` and `overrides`, or a complete `config`.
    """
    operator = Operator(service.settings, service.executor)
    deadline = body.deadline_ms()

    def admit(connection: Connection) -> RunConfig:
        admission.check_priority(principal.settings, body.priority)
        config = admission.resolve(operator, body.source())
        admission.check_deadline(deadline)
        admission.check_room(connection, principal.settings, principal.project)
        return config

    if dry_run:
        return JSONResponse(_dry_run(service.store.read(admit)))

    def work(connection: Connection) -> Answer:
        new = admission.new_job(
            admit(connection),
            principal.project,
            name=body.name,
            labels=body.labels,
            priority=body.priority,
            wall_seconds_limit=body.wall_seconds_limit,
            start_deadline=None if deadline is None else from_wall(deadline),
        )
        return created(connection, service, queue.create(connection, new))

    return once(principal, body, work)


def _dry_run(config: RunConfig) -> dict[str, Any]:
    document = {
        "config": config.document(),
        "config_digest": digest(config.digest()),
        "estimate": estimates.of_job(config),
    }
    return DryRun.model_validate(document).model_dump(mode="json")


def _filter(
    state: Annotated[list[State], Query(description="Any of these.")] = [],  # noqa: B006  FastAPI copies defaults
    variant: Annotated[list[str], Query(description="Any of these.")] = [],  # noqa: B006
    label: Annotated[list[str], Query(description="`key:value`; all of these.", max_length=20)] = [],  # noqa: B006
    experiment_id: str | None = None,
    name: Annotated[str | None, Query(description="Part of the name.", max_length=200)] = None,
    created_after: QueryMoment | None = None,
    created_before: QueryMoment | None = None,
) -> JobFilter:
    labels = [tuple(pair.split(":", 1)) for pair in label]
    if any(len(pair) != 2 for pair in labels):
        raise InvalidRequest(FieldError("/query/label", "label", f"label: expected key:value, got {label}"))
    return JobFilter(
        states=state,
        variants=variant,
        labels=[(pair[0], pair[1].strip()) for pair in labels],
        experiment_id=experiment_id,
        name=name,
        created_after=None if created_after is None else int(created_after.timestamp() * 1000),
        created_before=None if created_before is None else int(created_before.timestamp() * 1000),
    )


@router.get("/jobs", response_model=Page[Job], summary="List jobs")
def list_jobs(
    request: Request,
    response: Response,
    principal: ReadJobs,
    service: ServiceDep,
    which: Annotated[JobFilter, Depends(_filter)],
    order: Annotated[Order, Query(description="By creation.")] = "desc",
    limit: Limit = DEFAULT_LIMIT,
    cursor: CursorParameter = None,
) -> dict[str, Any]:
    """List jobs, by default newest first."""
    cursors = request.app.state.cursors
    context = ["jobs", principal.project, order, repr(which)]
    after = None if cursor is None else cursors.decode(cursor, context)

    def work(connection: Connection) -> tuple[list[dict[str, Any]], JobRow | None]:
        rows, more = job_list.page(connection, principal.project, which, order=order, after=after, limit=limit)
        return show(connection, service, rows), rows[-1] if more else None

    jobs, last = service.store.read(work)
    following = None if last is None else cursors.encode(last["seq"], context)
    if following is not None:
        response.headers["Link"] = next_link(request, following)
    return {"data": jobs, "has_more": last is not None, "next_cursor": following}


@router.get("/jobs/{job_id}", response_model=Job, summary="Show a job")
def get_job(job_id: str, response: Response, principal: ReadJobs, service: ServiceDep) -> dict[str, Any]:
    """Show a job. Its ETag is the revision, for `If-Match` in a change."""

    def work(connection: Connection) -> tuple[JobRow, dict[str, Any]]:
        row = training_job(connection, job_id, principal.project)
        return row, show(connection, service, [row])[0]

    row, document = service.store.read(work)
    response.headers["ETag"] = _etag(row)
    return document


@router.patch("/jobs/{job_id}", response_model=Job, summary="Change a job's name, labels or priority")
def change_job(
    job_id: str,
    body: ChangeJob,
    response: Response,
    principal: WriteJobs,
    service: ServiceDep,
    if_match: Annotated[
        str | None, Header(description="The job's ETag; the response is 412 if it has changed.")
    ] = None,
) -> dict[str, Any]:
    """Change a job's name, labels or priority."""
    changes = body.model_dump(exclude_unset=True)
    if "priority" in changes:
        admission.check_priority(principal.settings, body.priority)

    def work(connection: Connection) -> tuple[JobRow, dict[str, Any]]:
        row = training_job(connection, job_id, principal.project)
        row = queue.change(connection, row, changes, revision=_revision(if_match))
        return row, show(connection, service, [row])[0]

    row, document = service.store.write(work)
    job_record.refresh(service.settings, row)
    service.engine.wake()
    response.headers["ETag"] = _etag(row)
    return document


def _revision(if_match: str | None) -> int | None:
    if if_match is None or if_match.strip() == "*":
        return None
    tag = _ETAG.fullmatch(if_match.strip())
    if tag is None:
        raise RevisionMismatch(f'If-Match: expected the ETag of the job, such as "3"; got {if_match!r}')
    return int(tag[1])


@router.delete("/jobs/{job_id}", status_code=204, response_class=Response, summary="Delete a job that has ended")
def delete_job(job_id: str, principal: WriteJobs, service: ServiceDep, background: BackgroundTasks) -> None:
    """Delete a job that has ended, and all its data."""
    service.store.write(
        lambda connection: removal.remove(connection, training_job(connection, job_id, principal.project))
    )
    _delete_files(service, [job_id], background)


def _delete_files(service: Service, job_ids: Sequence[str], background: BackgroundTasks) -> None:
    for job_id in job_ids:
        background.add_task(deletion.delete_files, service.store, service.settings, job_id)


def _act(
    job_id: str, change: Change, body: StopJob | RetryJob | None, principal: WriteJobs, service: Service, once: OnceDep
) -> JSONResponse:
    def work(connection: Connection) -> Answer:
        row = change(connection, training_job(connection, job_id, principal.project))
        return Answer(200, show(connection, service, [row])[0], {"ETag": _etag(row)})

    return once(principal, body, work)


def _with_room(principal: Principal, change: Change) -> Change:
    """The change of a job to a waiting one, refused if the caller may have no more of them."""

    def work(connection: Connection, row: JobRow) -> JobRow:
        admission.check_queue(connection, principal.settings, principal.project)
        return change(connection, row)

    return work


@router.post("/jobs/{job_id}/cancel", response_model=Job, summary="Cancel a job")
def cancel_job(
    job_id: str, principal: WriteJobs, service: ServiceDep, once: OnceDep, body: StopJob | None = None
) -> JSONResponse:
    """Cancel a job, immediately or, if it runs, once its process has ended. A cancelled job is final."""
    mode = body.mode if body else "graceful"
    return _act(job_id, lambda c, row: queue.cancel(c, row, mode), body, principal, service, once)


@router.post("/jobs/{job_id}/pause", response_model=Job, summary="Pause a job")
def pause_job(
    job_id: str, principal: WriteJobs, service: ServiceDep, once: OnceDep, body: StopJob | None = None
) -> JSONResponse:
    """Pause a job: it saves its state and releases its slot."""
    mode = body.mode if body else "graceful"
    return _act(job_id, lambda c, row: queue.pause(c, row, mode), body, principal, service, once)


@router.post("/jobs/{job_id}/resume", response_model=Job, summary="Resume a paused job")
def resume_job(job_id: str, principal: WriteJobs, service: ServiceDep, once: OnceDep) -> JSONResponse:
    """Queue a paused job again."""
    return _act(job_id, _with_room(principal, queue.resume), None, principal, service, once)


@router.post("/jobs/{job_id}/retry", response_model=Job, summary="Retry a failed job")
def retry_job(
    job_id: str, principal: WriteJobs, service: ServiceDep, once: OnceDep, body: RetryJob | None = None
) -> JSONResponse:
    """Retry a failed job from its last checkpoint or from the start, with all retries available again."""
    change = _start_over if body is not None and body.begin == "start" else queue.retry
    return _act(job_id, _with_room(principal, change), body, principal, service, once)


def _start_over(connection: Connection, row: JobRow) -> JobRow:
    """Retry a job without its checkpoints; the worker sets rejected ones aside.

    Raises InvalidTransition while forks or tasks still read them.
    """
    waiting = removal.waiting_for(connection, row["id"])
    if waiting:
        raise InvalidTransition(
            f"{row['id']} has checkpoints that are still needed by {', '.join(waiting)}; it can start over afterwards"
        )
    queued = queue.retry(connection, row)
    artifacts.reject_checkpoints(connection, row["id"])
    return queued


@router.post("/jobs:batch", response_model=BatchResult, summary="Apply one action to many jobs")
def change_jobs(
    body: BatchJobs,
    request: Request,
    principal: WriteJobs,
    service: ServiceDep,
    once: OnceDep,
    background: BackgroundTasks,
) -> Response:
    """Cancel, pause, resume, retry or delete many jobs in one transaction; errors are reported per job."""
    removed: list[str] = []

    def one(connection: Connection, job_id: str) -> dict[str, Any]:
        try:
            row = training_job(connection, job_id, principal.project)
            if body.action in ("resume", "retry"):
                admission.check_queue(connection, principal.settings, principal.project)
            state = _ACTIONS[body.action](connection, row, body.mode)
        except ServiceError as error:
            return {"id": job_id, "ok": False, "state": None, "problem": errors.as_problem(request.scope, error)}
        if body.action == "delete":
            removed.append(job_id)
        return {"id": job_id, "ok": True, "state": state, "problem": None}

    def work(connection: Connection) -> Answer:
        results = [one(connection, job_id) for job_id in dict.fromkeys(body.ids)]
        return Answer(200, BatchResult.model_validate({"data": results}).model_dump(mode="json"))

    response = once(principal, body, work)
    _delete_files(service, removed, background)
    return response


def _state(row: JobRow) -> str:
    return str(row["state"])


def _delete(connection: Connection, row: JobRow, _mode: StopMode) -> None:
    removal.remove(connection, row)


_ACTIONS: dict[str, Callable[[Connection, JobRow, StopMode], str | None]] = {
    "cancel": lambda connection, row, mode: _state(queue.cancel(connection, row, mode)),
    "pause": lambda connection, row, mode: _state(queue.pause(connection, row, mode)),
    "resume": lambda connection, row, _mode: _state(queue.resume(connection, row)),
    "retry": lambda connection, row, _mode: _state(queue.retry(connection, row)),
    "delete": _delete,
}
