"""Metrics of runs: latest values and history."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from fastapi.requests import Request
from fastapi.responses import JSONResponse, Response
from sqlalchemy import Connection

from server.errors import FieldError, InvalidRequest
from server.http.dependencies import Principal, ReadJobs, ServiceDep
from server.http.downloads import REVALIDATE, not_modified
from server.http.schemas.metrics import LatestMetrics, MetricHistories
from server.queue import queue
from server.service import Service
from server.store.metric_history import MAX_POINTS, history, latest
from server.store.rows import JobRow

router = APIRouter(prefix="/v1/jobs/{job_id}/metrics", tags=["metrics"])

_RESPONSES: dict[int | str, dict[str, Any]] = {304: {"description": "There are no new values."}}
_MAX_NAMES = 50
Step = Annotated[int | None, Query(ge=0, le=2**53)]


@router.get("", response_model=LatestMetrics, responses=_RESPONSES, summary="Show a job's latest metrics")
def latest_metrics(job_id: str, request: Request, principal: ReadJobs, service: ServiceDep) -> Response:
    """Show the latest, smallest and largest value of each metric, and the best of each score."""
    job = _job(service, principal, job_id)
    unchanged = not_modified(request, _etag(job), _headers(job))
    if unchanged is not None:
        return unchanged
    data = service.store.read(lambda connection: latest(connection, job))
    return JSONResponse({"object": "list", "job_id": job["id"], "data": data}, headers=_headers(job))


@router.get("/history", response_model=MetricHistories, responses=_RESPONSES, summary="Show metrics over the steps")
def metric_history(
    job_id: str,
    request: Request,
    principal: ReadJobs,
    service: ServiceDep,
    name: Annotated[list[str], Query(min_length=1, max_length=_MAX_NAMES, description="Repeat for several metrics.")],
    from_step: Step = None,
    to_step: Step = None,
    max_points: Annotated[int, Query(ge=1, le=MAX_POINTS, description="Maximum points per metric.")] = 1000,
    mode: Annotated[
        Literal["minmax", "raw"],
        Query(description="`minmax` merges points into buckets and keeps extremes; `raw` pages."),
    ] = "minmax",
    attempt: Annotated[
        Literal["effective", "all"], Query(description="Whether to include values that a later attempt replaced.")
    ] = "effective",
    after: Annotated[Step, Query(description="In mode `raw`: the `next_after` of the previous page.")] = None,
) -> Response:
    """Show metrics over the generator steps, in a limited number of points. The ETag changes with new values."""
    if from_step is not None and to_step is not None and from_step > to_step:
        message = f"to_step: expected at least from_step ({from_step}), got {to_step}"
        raise InvalidRequest(FieldError("/query/to_step", "before_from_step", message))
    job = _job(service, principal, job_id)
    unchanged = not_modified(request, _etag(job), _headers(job))
    if unchanged is not None:
        return unchanged
    options: dict[str, Any] = {"from_step": from_step, "to_step": to_step, "max_points": max_points, "mode": mode}

    def find(connection: Connection) -> list[dict[str, Any]]:
        names = dict.fromkeys(name)
        return [vars(history(connection, job, each, attempt=attempt, after=after, **options)) for each in names]

    return JSONResponse(
        {"object": "list", "job_id": job["id"], "data": service.store.read(find)}, headers=_headers(job)
    )


def _job(service: Service, principal: Principal, job_id: str) -> JobRow:
    return service.store.read(lambda connection: queue.get(connection, job_id, principal.project))


# The job is read before its values, so that an ETag is never newer than the content.


def _etag(job: JobRow) -> str:
    return f'"{job["events_seq"]}"'


def _headers(job: JobRow) -> dict[str, str]:
    return {"ETag": _etag(job), "Cache-Control": REVALIDATE}
