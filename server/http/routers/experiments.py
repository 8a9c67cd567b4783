"""Experiments: one job for each combination of variants, seeds and other keys."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from fastapi.requests import Request
from fastapi.responses import JSONResponse
from sqlalchemy import Connection

from server.http.bodies import StopJob, SubmitExperiment
from server.http.dependencies import Answer, OnceDep, ReadJobs, ServiceDep, WriteJobs
from server.http.pagination import DEFAULT_LIMIT, CursorParameter, Limit, Page, next_link
from server.http.schemas.experiments import Experiment, ExperimentDryRun, ExperimentSummary
from server.queue import admission, experiments
from server.queue.admission import Operator
from server.queue.job_list import Order

router = APIRouter(prefix="/v1", tags=["experiments"])


def _show(connection: Connection, experiment_id: str, project: str) -> dict[str, Any]:
    row = experiments.get(connection, experiment_id, project)
    return Experiment.with_cells(row, experiments.cells(connection, experiment_id)).model_dump(mode="json")


@router.post(
    "/experiments",
    status_code=201,
    response_model=Experiment,
    responses={200: {"model": ExperimentDryRun}},
    summary="Submit an experiment",
)
def create_experiment(
    body: SubmitExperiment,
    principal: WriteJobs,
    service: ServiceDep,
    once: OnceDep,
    dry_run: Annotated[
        bool, Query(description="Only validate; return 200 with the number of jobs and their summed cost.")
    ] = False,
) -> JSONResponse:
    """Submit one job for each cell of a matrix. Either all jobs are queued, or none."""
    before = None if dry_run else once.kept(principal, body)
    if before is not None:
        return before
    admission.check_priority(principal.settings, body.priority)
    plan = experiments.plan(Operator(service.settings, service.executor), body.source(), body.matrix)

    def check_room(connection: Connection) -> None:
        admission.check_room(connection, principal.settings, principal.project, len(plan.cells))

    if dry_run:
        service.store.read(check_room)
        return JSONResponse(ExperimentDryRun.of(plan).model_dump(mode="json"))

    new = experiments.prepare(
        plan,
        principal.project,
        name=body.name,
        labels=body.labels,
        priority=body.priority,
        wall_seconds_limit=body.wall_seconds_limit,
    )
    document = Experiment.with_cells(new.row, new.cells).model_dump(mode="json")

    def work(connection: Connection) -> Answer:
        check_room(connection)
        row = experiments.create(connection, new)
        return Answer(201, document, {"Location": f"/v1/experiments/{row['id']}"})

    return once(principal, body, work)


@router.get("/experiments", response_model=Page[ExperimentSummary], summary="List experiments")
def list_experiments(
    request: Request,
    response: Response,
    principal: ReadJobs,
    service: ServiceDep,
    order: Annotated[Order, Query(description="By creation.")] = "desc",
    limit: Limit = DEFAULT_LIMIT,
    cursor: CursorParameter = None,
) -> dict[str, Any]:
    """List experiments, by default newest first."""
    cursors = request.app.state.cursors
    context = ["experiments", principal.project, order]
    after = None if cursor is None else cursors.decode(cursor, context)

    def work(connection: Connection) -> tuple[list[ExperimentSummary], int | None]:
        rows, more = experiments.page(connection, principal.project, order=order, after=after, limit=limit)
        counts = experiments.counts(connection, [row["id"] for row in rows])
        shown = [ExperimentSummary.of(row, counts[row["id"]]) for row in rows]
        return shown, rows[-1]["seq"] if more else None

    shown, last = service.store.read(work)
    following = None if last is None else cursors.encode(last, context)
    if following is not None:
        response.headers["Link"] = next_link(request, following)
    return {"data": shown, "has_more": last is not None, "next_cursor": following}


@router.get("/experiments/{experiment_id}", response_model=Experiment, summary="Show an experiment and its cells")
def get_experiment(experiment_id: str, principal: ReadJobs, service: ServiceDep) -> dict[str, Any]:
    """Show an experiment with the state of every cell."""
    return service.store.read(lambda connection: _show(connection, experiment_id, principal.project))


@router.post("/experiments/{experiment_id}/cancel", response_model=Experiment, summary="Cancel an experiment")
def cancel_experiment(
    experiment_id: str, principal: WriteJobs, service: ServiceDep, once: OnceDep, body: StopJob | None = None
) -> JSONResponse:
    """Cancel all jobs of an experiment that have not ended."""
    mode = body.mode if body else "graceful"

    def work(connection: Connection) -> Answer:
        experiments.get(connection, experiment_id, principal.project)
        experiments.cancel(connection, experiment_id, mode)
        return Answer(200, _show(connection, experiment_id, principal.project))

    return once(principal, body, work)
