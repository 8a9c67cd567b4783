"""Sample grids of a run: list, description, thumbnail and animation."""

from enum import IntEnum
from pathlib import Path as FilePath
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query
from fastapi.concurrency import run_in_threadpool
from fastapi.requests import Request
from fastapi.responses import RedirectResponse, Response
from sqlalchemy import Connection

from server.errors import NotReady
from server.http.dependencies import Principal, ReadSamples, ServiceDep
from server.http.downloads import IMMUTABLE, REVALIDATE, not_modified, send_file
from server.http.schemas.pages import Slice
from server.http.schemas.samples import Sample
from server.images.image_cache import MAX_FRAMES, spread
from server.queue import queue
from server.service import Service
from server.store import artifacts
from server.store.rows import SampleRow

router = APIRouter(prefix="/v1/jobs/{job_id}/samples", tags=["samples"])

_EVERY_SAMPLE = 1_000_000
_SHORT_ETAG = 16  # characters
Step = Annotated[int, Path(ge=0, le=2**53)]


class Width(IntEnum):
    """Width of a thumbnail in pixels."""

    TINY = 64
    SMALL = 128
    MEDIUM = 256
    LARGE = 512


def _image(*media_types: str) -> dict[int | str, dict[str, Any]]:
    content = {media_type: {"schema": {"type": "string", "format": "binary"}} for media_type in media_types}
    return {200: {"description": "The image.", "content": content}, 304: {"description": "Unchanged."}}


@router.get("", response_model=Slice[Sample], summary="List a job's sample grids")
def list_samples(
    job_id: str,
    principal: ReadSamples,
    service: ServiceDep,
    after: Annotated[int, Query(ge=-1, le=2**53, description="Start after this step.")] = -1,
    limit: Annotated[int, Query(ge=1, le=1000)] = 200,
) -> Slice[Sample]:
    """List the grids by increasing step, step 0 included; grids deleted to save space are marked as pruned."""

    def find(connection: Connection) -> list[SampleRow]:
        job = queue.get(connection, job_id, principal.project)
        return list(artifacts.samples(connection, job["id"], after=after, limit=limit + 1))

    return Slice[Sample].of([Sample.of(row) for row in service.store.read(find)], limit, lambda sample: sample.step)


@router.get(
    "/latest",
    response_class=RedirectResponse,
    status_code=307,
    responses={304: {"description": "Unchanged."}},
    summary="Find the newest sample grid",
)
def latest_sample(job_id: str, request: Request, principal: ReadSamples, service: ServiceDep) -> Response:
    """Redirect to the image."""

    def find(connection: Connection) -> SampleRow:
        job = queue.get(connection, job_id, principal.project)
        return artifacts.latest_sample(connection, job["id"])

    row = service.store.read(find)
    etag = f'"{row["sha256"][:_SHORT_ETAG]}"'
    headers = {"ETag": etag, "Cache-Control": REVALIDATE}
    return not_modified(request, etag, headers) or RedirectResponse(f"/v1/blobs/{row['sha256']}", headers=headers)


@router.get(
    "/animation",
    response_class=Response,
    responses=_image("image/webp", "image/gif"),
    summary="Show a job's sample grids as an animation",
)
async def animate_samples(
    job_id: str,
    request: Request,
    principal: ReadSamples,
    service: ServiceDep,
    format: Annotated[Literal["webp", "gif"], Query()] = "webp",
    fps: Annotated[int, Query(ge=1, le=60, description="Frames per second.")] = 8,
) -> Response:
    """Show the grids in order of their steps; evenly spaced ones if there are too many for one animation."""

    def find(connection: Connection) -> list[SampleRow]:
        job = queue.get(connection, job_id, principal.project)
        rows = artifacts.samples(connection, job["id"], after=-1, limit=_EVERY_SAMPLE)
        return spread([row for row in rows if row["pruned_at"] is None], MAX_FRAMES)

    def sources() -> list[tuple[int, FilePath, str]]:
        rows = service.store.read(find)
        return [(row["step"], artifacts.content_path(service.settings, row), row["sha256"]) for row in rows]

    frames = await run_in_threadpool(sources)
    if not frames:
        raise NotReady(f"{job_id} has no sample grids yet")
    path = await service.image_cache.animation(frames, format=format, fps=fps)
    return send_file(
        request,
        path,
        etag=f'"{path.stem}"',  # named by the content it was made from
        media_type=f"image/{format}",
        filename=f"{job_id}.{format}",
        inline=True,
        cache=REVALIDATE,
    )


@router.get("/{step}", response_model=Sample, summary="Show a sample grid's description")
def get_sample(job_id: str, step: Step, principal: ReadSamples, service: ServiceDep) -> Sample:
    """Show the description of the grid at one step; its links lead to the image."""
    return Sample.of(_sample(service, principal, job_id, step))


@router.get(
    "/{step}/thumbnail",
    response_class=Response,
    responses=_image("image/png"),
    summary="Show a sample grid's thumbnail",
)
async def sample_thumbnail(
    job_id: str,
    step: Step,
    request: Request,
    principal: ReadSamples,
    service: ServiceDep,
    width: Width = Width.MEDIUM,
    sha256: Annotated[str | None, Query(pattern="^[0-9a-f]{64}$", description="The grid's hash, for caching.")] = None,
) -> Response:
    """Show the grid of one step as a PNG of the given width. With the grid's hash it may be cached forever."""
    row = await run_in_threadpool(_sample, service, principal, job_id, step)
    etag = f'"{row["sha256"]}-{int(width)}"'
    cache = IMMUTABLE if sha256 == row["sha256"] else REVALIDATE
    unchanged = not_modified(request, etag, {"Cache-Control": cache})
    if unchanged is not None:
        return unchanged
    if row["pruned_at"] is not None:
        raise NotReady(f"the grid of step {step} was deleted to save space")
    source = await run_in_threadpool(artifacts.content_path, service.settings, row)
    path = await service.image_cache.thumbnail(source, row["sha256"], int(width))
    filename = f"{job_id}-step{step}-{int(width)}.png"
    return send_file(request, path, etag=etag, media_type="image/png", filename=filename, inline=True, cache=cache)


def _sample(service: Service, principal: Principal, job_id: str, step: int) -> SampleRow:
    def find(connection: Connection) -> SampleRow:
        job = queue.get(connection, job_id, principal.project)
        return artifacts.sample(connection, job["id"], step)

    return service.store.read(find)
