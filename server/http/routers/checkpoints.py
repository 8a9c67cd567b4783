"""Checkpoints: listing, download, sampling and scoring."""

import re
from typing import Annotated, Any

from fastapi import APIRouter, Header
from fastapi.concurrency import run_in_threadpool
from fastapi.requests import Request
from fastapi.responses import JSONResponse, Response
from sqlalchemy import Connection

from gan_mhe.errors import CheckpointError
from gan_mhe.records import manifest
from server.errors import NotReady
from server.http.auth import holds
from server.http.dependencies import Answer, OnceDep, Principal, ReadArtifacts, ReadJobs, ServiceDep, WriteJobs
from server.http.downloads import REVALIDATE, content_etag, send_file
from server.http.errors import Unauthenticated
from server.http.schemas.checkpoints import Checkpoint, DrawSamples, ScoreCheckpoint
from server.http.schemas.pages import Slice
from server.http.schemas.tasks import Task
from server.queue import queue, tasks
from server.queue.admission import Operator
from server.queue.states import TERMINAL
from server.service import Service
from server.store import artifacts
from server.store.rows import CheckpointRow, JobRow

router = APIRouter(prefix="/v1", tags=["checkpoints"])

_MAX_WAIT_SECONDS = 60.0
_WAIT = re.compile(r"(?:^|[,;\s])wait=(\d{1,9})(?:$|[,;\s])", re.IGNORECASE)
_BYTES = {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}
_DOWNLOAD: dict[int | str, dict[str, Any]] = {
    200: {"description": "The content.", **_BYTES},
    206: {"description": "The requested range.", **_BYTES},
    304: {"description": "Unchanged."},
}
_TASK: dict[int | str, dict[str, Any]] = {
    200: {"model": Task, "description": "The task has ended, possibly within the time of `Prefer: wait`."},
    202: {"description": "The task is queued or running; Location is its URL."},
}

Prefer = Annotated[
    str | None, Header(max_length=200, description="`wait=10`: respond when the task has ended, after at most 10 s.")
]


@router.get("/jobs/{job_id}/checkpoints", response_model=Slice[Checkpoint], summary="List checkpoints")
def list_checkpoints(job_id: str, principal: ReadJobs, service: ServiceDep) -> Slice[Checkpoint]:
    """List a job's checkpoints by increasing step, deleted ones included."""

    def find(connection: Connection) -> list[CheckpointRow]:
        job = queue.get(connection, job_id, principal.project)
        return list(artifacts.checkpoints(connection, job["id"]))

    rows = [Checkpoint.of(row) for row in service.store.read(find)]
    return Slice[Checkpoint](data=rows, has_more=False, next_after=None)


@router.get("/checkpoints/{checkpoint_id}", response_model=Checkpoint, summary="Show a checkpoint")
def get_checkpoint(checkpoint_id: str, principal: ReadJobs, service: ServiceDep) -> Checkpoint:
    """Show a checkpoint."""
    return Checkpoint.of(_find(service, principal, checkpoint_id))


@router.get(
    "/checkpoints/{checkpoint_id}/content", response_class=Response, responses=_DOWNLOAD, summary="Download tensors"
)
def get_checkpoint_content(
    checkpoint_id: str, request: Request, principal: ReadArtifacts, service: ServiceDep
) -> Response:
    """Download all tensors in safetensors format: networks, optimizers, and the moving average if there is one."""
    row = _find(service, principal, checkpoint_id)
    tensors = artifacts.checkpoint_files(service.settings, row)[manifest.TENSORS_FILE]
    stated, found = _manifest(service, row)["tensors_sha256"], artifacts.content_sha256(tensors)
    if stated != found:
        raise NotReady(f"the checkpoint {row['id']} is damaged: its tensors have SHA-256 {found}, expected {stated}")
    return send_file(
        request,
        tensors,
        etag=content_etag(found),
        media_type="application/octet-stream",
        filename=f"{row['job_id']}-step{row['step']}.safetensors",
        cache=REVALIDATE,
    )


@router.get(
    "/checkpoints/{checkpoint_id}/manifest",
    response_model=dict[str, Any],
    summary="Show a checkpoint's manifest",
)
def get_checkpoint_manifest(checkpoint_id: str, principal: ReadArtifacts, service: ServiceDep) -> dict[str, Any]:
    """Show the manifest: step, digests, hash of the tensors, and the run's notes."""
    row = _find(service, principal, checkpoint_id)
    return _manifest(service, row)


def _find(service: Service, principal: Principal, checkpoint_id: str) -> CheckpointRow:
    return service.store.read(lambda connection: artifacts.checkpoint(connection, checkpoint_id, principal.project))


def _manifest(service: Service, row: CheckpointRow) -> dict[str, Any]:
    """The manifest of an available checkpoint, with its hash. Raises NotReady if it is damaged."""
    path = artifacts.checkpoint_files(service.settings, row)[manifest.MANIFEST_FILE]
    try:
        return manifest.read_document(path.parent)
    except CheckpointError as error:
        why = str(error).replace(f"{path.parent}/", "")
        raise NotReady(f"the checkpoint {row['id']} is damaged: {why}") from None


@router.post(
    "/checkpoints/{checkpoint_id}/samples",
    status_code=202,
    response_model=Task,
    responses=_TASK,
    summary="Draw images from a checkpoint",
)
async def draw_samples(
    checkpoint_id: str,
    body: DrawSamples,
    principal: WriteJobs,
    service: ServiceDep,
    once: OnceDep,
    prefer: Prefer = None,
) -> Response:
    """Generate images by seed, also during training. A repeated request returns its existing result.

    Image i of a seed is the same for every `n`. `GET /v1/tasks/{task_id}/content` sends images while they are drawn.
    """

    def work(connection: Connection) -> Answer:
        checkpoint = artifacts.checkpoint(connection, checkpoint_id, principal.project)
        return _answer(tasks.sample(connection, principal.settings, checkpoint, principal.project, body.parameters()))

    return await _in_time(service, principal, await run_in_threadpool(once, principal, body, work), prefer)


@router.post(
    "/checkpoints/{checkpoint_id}/scores",
    status_code=202,
    response_model=Task,
    responses=_TASK,
    summary="Score a checkpoint",
)
async def score_checkpoint(
    checkpoint_id: str,
    body: ScoreCheckpoint,
    principal: WriteJobs,
    service: ServiceDep,
    once: OnceDep,
    prefer: Prefer = None,
) -> Response:
    """Score a checkpoint with new latents, under its job's protocol or another."""
    operator = Operator(principal.settings, service.executor)

    def work(connection: Connection) -> Answer:
        checkpoint = artifacts.checkpoint(connection, checkpoint_id, principal.project)
        changes = body.model_dump(mode="json", exclude_none=True)
        return _answer(tasks.score(connection, operator, checkpoint, principal.project, changes))

    return await _in_time(service, principal, await run_in_threadpool(once, principal, body, work), prefer)


def _answer(task: JobRow) -> Answer:
    status = 200 if task["state"] in TERMINAL else 202
    return Answer(status, Task.of(task).model_dump(mode="json"), {"Location": f"/v1/tasks/{task['id']}"})


async def _in_time(service: Service, principal: Principal, response: JSONResponse, prefer: str | None) -> Response:
    """The response, or the task at its end if the client waits and the task ends in time.

    Raises Unauthenticated if the client's key was revoked while it waited.
    """
    wait = _WAIT.search(prefer or "")
    if wait is None or response.status_code != 202:
        return response
    task_id = response.headers["Location"].rsplit("/", 1)[1]
    await service.broker.wait_until_ended(task_id, min(float(wait[1]), _MAX_WAIT_SECONDS))
    if not await run_in_threadpool(holds, service.store, principal, "jobs:write"):
        raise Unauthenticated("the API key was revoked, or a key is required now")
    task = await run_in_threadpool(service.store.read, lambda connection: queue.get(connection, task_id))
    if task["state"] not in TERMINAL:
        return response
    headers = {**response.headers, "Preference-Applied": f"wait={wait[1]}"}
    headers.pop("content-length")
    return JSONResponse(Task.of(task).model_dump(mode="json"), 200, headers)
