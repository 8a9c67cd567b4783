"""Sampling and scoring tasks."""

from typing import Any

from fastapi import APIRouter
from fastapi.requests import Request
from fastapi.responses import JSONResponse, Response
from sqlalchemy import Connection

from server.http.bodies import StopJob
from server.http.dependencies import Answer, OnceDep, ReadSamples, ServiceDep, WriteJobs
from server.http.downloads import SUFFIXES
from server.http.growing import Reader, content
from server.http.schemas.tasks import Task
from server.queue import queue, tasks

_BYTES = {"content": {media_type: {"schema": {"type": "string", "format": "binary"}} for media_type in SUFFIXES}}
_CONTENT: dict[int | str, dict[str, Any]] = {
    200: {"description": "The file. Without Content-Length it is still being written.", **_BYTES},
    206: {"description": "The requested range.", **_BYTES},
    304: {"description": "Unchanged."},
}

router = APIRouter(prefix="/v1/tasks/{task_id}", tags=["checkpoints"])


@router.get("", response_model=Task, summary="Show a task")
def get_task(task_id: str, principal: ReadSamples, service: ServiceDep) -> Task:
    """Show the state of a task, and its result."""
    return Task.of(service.store.read(lambda connection: tasks.get(connection, task_id, principal.project)))


@router.get("/content", response_class=Response, responses=_CONTENT, summary="Download a task's images")
async def get_task_content(task_id: str, request: Request, principal: ReadSamples, service: ServiceDep) -> Response:
    """Download the file of a sampling task, also while it is written: what is there, and then what comes.

    The connection is broken off if the task fails, is cancelled or starts again. A Range that goes beyond what is
    written is answered when the task has ended, so that a broken download can be resumed.
    """
    reader = Reader(service, principal)
    return await content(request, reader, task_id)


@router.post("/cancel", response_model=Task, summary="Cancel a task")
def cancel_task(task_id: str, principal: WriteJobs, once: OnceDep, body: StopJob | None = None) -> JSONResponse:
    """Cancel a task, immediately or, if it runs, once its process has ended."""

    def work(connection: Connection) -> Answer:
        task = tasks.get(connection, task_id, principal.project)
        cancelled = queue.cancel(connection, task, body.mode if body else "graceful")
        return Answer(200, Task.of(cancelled).model_dump(mode="json"))

    return once(principal, body, work)
