"""Event streams of jobs as they happen."""

from typing import Annotated, Any

from fastapi import APIRouter, Header, Query
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response
from sqlalchemy import Connection

from server.errors import FieldError, InvalidRequest
from server.http.dependencies import Principal, ReadJobs, ServiceDep
from server.http.selection import MAX_IDS, Selection
from server.queue import queue
from server.service import Service
from server.streams.broker import EventStream
from server.streams.channels import Numbering

router = APIRouter(prefix="/v1", tags=["events"])

_MAX_ID = 2**53

_MESSAGE = {
    "type": "object",
    "properties": {
        "id": {"type": "string", "description": "For `Last-Event-ID`."},
        "event": {"type": "string", "description": "The type of the event; or `stream.end`, `server.restarting`."},
        "data": {"type": "string", "description": "JSON; of an event what `GET /v1/jobs/{job_id}/events` shows."},
    },
}
_STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Server-sent events: rows of the jobs' history, `stream.end`, `server.restarting`.",
        "content": {"text/event-stream": {"itemSchema": _MESSAGE}},
    },
    204: {"description": "The jobs have ended and nothing follows the last id; do not come back."},
}

LastEventId = Annotated[
    int | None,
    Header(ge=0, le=_MAX_ID, description="Id of the last event that was seen; wins over `after`."),
]
After = Annotated[int | None, Query(ge=0, le=_MAX_ID, description="Begin after this id; unset begins at the first.")]


@router.get("/jobs/{job_id}/stream", response_class=Response, responses=_STREAM, summary="Follow a job")
async def stream_job(
    job_id: str, principal: ReadJobs, service: ServiceDep, last_event_id: LastEventId = None, after: After = None
) -> Response:
    """All events of one job or task: those that were, then those to come. Ids count the job's own events."""

    def find(connection: Connection) -> str:
        return str(queue.get(connection, job_id, principal.project)["id"])

    found = await run_in_threadpool(service.store.read, find)
    return await _stream(service, principal, [found], "job_seq", after if last_event_id is None else last_event_id)


@router.get("/stream", response_class=Response, responses=_STREAM, summary="Follow several jobs")
async def stream_jobs(
    principal: ReadJobs,
    selection: Selection,
    service: ServiceDep,
    last_event_id: LastEventId = None,
    after: After = None,
) -> Response:
    """All events of several jobs in one stream, in the order they happened. Ids count all events of the service."""

    def find(connection: Connection) -> list[str]:
        return [job["id"] for job in selection.rows(connection, principal.project)]

    found = await run_in_threadpool(service.store.read, find)
    if len(found) > MAX_IDS:
        message = f"the experiment has {len(found)} jobs; expected at most {MAX_IDS} in one stream"
        raise InvalidRequest(FieldError("/query/experiment", "too_many_jobs", message))
    return await _stream(service, principal, found, "seq", after if last_event_id is None else last_event_id)


async def _stream(
    service: Service, principal: Principal, job_ids: list[str], numbering: Numbering, after: int | None
) -> Response:
    subscription = await service.broker.open(
        job_ids, numbering, after=after, owner=principal.owner, limit=service.settings.max_streams_per_key
    )
    return Response(status_code=204) if subscription is None else EventStream(subscription)
