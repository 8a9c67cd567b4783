"""Sampling and scoring tasks."""

from fastapi import APIRouter
from fastapi.responses import JSONResponse
from sqlalchemy import Connection

from server.http.bodies import StopJob
from server.http.dependencies import Answer, OnceDep, ReadSamples, ServiceDep, WriteJobs
from server.http.schemas.tasks import Task
from server.queue import queue, tasks

router = APIRouter(prefix="/v1/tasks/{task_id}", tags=["checkpoints"])


@router.get("", response_model=Task, summary="Show a task")
def get_task(task_id: str, principal: ReadSamples, service: ServiceDep) -> Task:
    """Show the state of a task, and its result."""
    return Task.of(service.store.read(lambda connection: tasks.get(connection, task_id, principal.project)))


@router.post("/cancel", response_model=Task, summary="Cancel a task")
def cancel_task(task_id: str, principal: WriteJobs, once: OnceDep, body: StopJob | None = None) -> JSONResponse:
    """Cancel a task, immediately or, if it runs, once its process has ended."""

    def work(connection: Connection) -> Answer:
        task = tasks.get(connection, task_id, principal.project)
        cancelled = queue.cancel(connection, task, body.mode if body else "graceful")
        return Answer(200, Task.of(cancelled).model_dump(mode="json"))

    return once(principal, body, work)
