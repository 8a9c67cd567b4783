"""Import of runs from other machines as jobs."""

from fastapi import APIRouter
from fastapi.responses import JSONResponse
from sqlalchemy import Connection

from server.http.dependencies import Admin, Answer, OnceDep, ServiceDep
from server.http.routers.jobs import show
from server.http.schemas.imports import Importable, ImportRun
from server.http.schemas.jobs import Job
from server.http.schemas.pages import Slice
from server.ingest import importer
from server.ingest.indexer import Indexer

router = APIRouter(prefix="/v1/imports", tags=["jobs"])


@router.get("", response_model=Slice[Importable], summary="List runs to import")
def list_imports(_principal: Admin, service: ServiceDep) -> Slice[Importable]:
    """List the run directories that the operator has put into the service's inbox."""
    data = [Importable(**entry) for entry in importer.importable(service.settings)]
    return Slice[Importable](data=data, has_more=False, next_after=None)


@router.post("", status_code=201, response_model=Job, summary="Import a run")
def import_run(body: ImportRun, principal: Admin, service: ServiceDep, once: OnceDep) -> JSONResponse:
    """Import a run directory from the inbox as a job, with its events, grids, checkpoints and scores.

    A completed run becomes a succeeded job; an unfinished one becomes a paused job, which can be resumed.
    """
    # Moving files is not part of a transaction: the response is stored after they have been moved.
    before = once.kept(principal, body)
    if before is not None:
        return before
    store, settings = service.store, service.settings
    job = importer.import_run(
        store, settings, Indexer(store, settings), name=body.name, project=principal.project, labels=body.labels
    )

    def work(connection: Connection) -> Answer:
        return Answer(201, show(connection, service, [job])[0], {"Location": f"/v1/jobs/{job['id']}"})

    return once(principal, body, work)
