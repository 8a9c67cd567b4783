"""The event history of a job."""

from typing import Annotated

from fastapi import APIRouter, Query
from sqlalchemy import Connection

from server.http.dependencies import ReadJobs, ServiceDep
from server.http.schemas.events import Event
from server.http.schemas.pages import Slice
from server.queue import queue
from server.store import journal
from server.store.rows import JournalRow
from server.streams.channels import event_document

router = APIRouter(prefix="/v1", tags=["events"])


@router.get("/jobs/{job_id}/events", response_model=Slice[Event], summary="List a job's events")
def list_events(
    job_id: str,
    principal: ReadJobs,
    service: ServiceDep,
    after: Annotated[int, Query(ge=0, le=2**53, description="Start after this `seq`.")] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Slice[Event]:
    """List a job's or task's events, oldest first: state changes, and the run's own events in batches."""

    def find(connection: Connection) -> list[JournalRow]:
        job = queue.get(connection, job_id, principal.project)
        return list(journal.of_job(connection, job["id"], after=after, limit=limit + 1))

    events = [Event(**event_document(row)) for row in service.store.read(find)]
    return Slice[Event].of(events, limit, lambda event: event.seq)
