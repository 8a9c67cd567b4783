"""Live event streams of jobs."""

from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response
from pydantic import BeforeValidator, Field
from sqlalchemy import Connection

from server.errors import FieldError, InvalidRequest
from server.http.auth import holds
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
        "id": {"type": "string", "description": "The value for `Last-Event-ID`."},
        "event": {
            "type": "string",
            "description": "The event's type, or `stream.end`, `stream.closed` or `server.restarting`.",
        },
        "data": {"type": "string", "description": "JSON; for events as in `GET /v1/jobs/{job_id}/events`."},
    },
}
_STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Server-sent events: the jobs' events, then `stream.end`, `server.restarting`, or, within 15 s "
        "of a revocation of the key, `stream.closed`. Reconnect, except after `stream.end` and `stream.closed`.",
        "content": {"text/event-stream": {"itemSchema": _MESSAGE}},
    },
    204: {"description": "All jobs have ended and no event follows the last id; do not reconnect."},
}


def _none_if_empty(value: Any) -> Any:
    """An empty id: by the rules of event streams the client has none, and a refusal would end its attempts for good."""
    return None if value == "" else value


LastEventId = Annotated[
    Annotated[int, Field(ge=0, le=_MAX_ID)] | None,
    BeforeValidator(_none_if_empty),
    Header(description="Id of the last received event; has precedence over `after`."),
]
After = Annotated[int | None, Query(ge=0, le=_MAX_ID, description="Start after this id; by default at the first.")]


@router.get("/jobs/{job_id}/stream", response_class=Response, responses=_STREAM, summary="Follow a job")
async def stream_job(
    job_id: str, principal: ReadJobs, service: ServiceDep, last_event_id: LastEventId = None, after: After = None
) -> Response:
    """Stream all events of one job or task, past and future. Ids number the job's own events."""

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
    """Stream all events of several jobs in the order they happened. Ids number all events of the service."""

    def find(connection: Connection) -> list[str]:
        return [job["id"] for job in selection.rows(connection, principal.project)]

    found = await run_in_threadpool(service.store.read, find)
    if len(found) > MAX_IDS:
        message = f"experiment: expected at most {MAX_IDS} jobs in one stream, got {len(found)}"
        raise InvalidRequest(FieldError("/query/experiment", "too_many_jobs", message))
    return await _stream(service, principal, found, "seq", after if last_event_id is None else last_event_id)


async def _stream(
    service: Service, principal: Principal, job_ids: list[str], numbering: Numbering, after: int | None
) -> Response:
    subscription = await service.broker.open(
        job_ids,
        numbering,
        after=after,
        owner=principal.owner,
        limit=principal.settings.max_streams_per_key,
        holds=partial(holds, service.store, principal, "jobs:read"),
    )
    return Response(status_code=204) if subscription is None else EventStream(subscription)
