"""Comparisons of variants."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from fastapi.requests import Request
from fastapi.responses import Response

from gan_mhe.comparison.latex import as_latex
from gan_mhe.comparison.results import View
from gan_mhe.comparison.table import as_csv, as_markdown
from server.http.dependencies import ReadJobs, ServiceDep
from server.http.schemas.compare import ComparisonTable
from server.http.selection import Selection
from server.queue import job_comparison

router = APIRouter(prefix="/v1", tags=["compare"])

Format = Literal["json", "csv", "markdown", "latex"]

# No type of LaTeX is registered; this is what systems give files whose name ends with .tex.
_MEDIA_TYPES: dict[str, Format] = {"text/csv": "csv", "text/markdown": "markdown", "text/x-tex": "latex"}
_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"description": "The table.", "content": {media_type: {} for media_type in _MEDIA_TYPES}},
}


@router.get(
    "/compare",
    response_model=ComparisonTable,
    response_model_exclude_unset=True,
    responses=_RESPONSES,
    summary="Compare jobs",
)
def compare_jobs(
    request: Request,
    principal: ReadJobs,
    selection: Selection,
    service: ServiceDep,
    metric: Annotated[str | None, Query(max_length=100, description="By default the one that ranks the jobs.")] = None,
    reference: Annotated[
        str | None, Query(max_length=500, description="Variant to which paired differences are computed.")
    ] = None,
    view: Annotated[
        View, Query(description="Compare after equal steps, or approximately after equal training time.")
    ] = "steps",
    format: Annotated[Format | None, Query(description="Has precedence over the Accept header.")] = None,
) -> dict[str, Any] | Response:
    """Compare final scores of variants over training seeds, with intervals. Incomparable jobs are an error.

    The unit is the training seed. All jobs must have been scored under one protocol; jobs without a score are listed.
    `view=wall_time` shows each variant at the step that it reaches in the training time of the fastest one, with scores
    interpolated between evaluations.
    """
    jobs = service.store.read(lambda connection: selection.rows(connection, principal.project))
    compared = job_comparison.compare_jobs(jobs, metric=metric, reference=reference, view=view)
    match format or _accepted(request):
        case "csv":
            return Response(as_csv(compared) + "\n", media_type="text/csv")
        case "markdown":
            return Response(as_markdown(compared) + "\n", media_type="text/markdown")
        case "latex":
            return Response(as_latex(compared) + "\n", media_type="text/x-tex")
    return job_comparison.document(compared, jobs)


def _accepted(request: Request) -> Format:
    """The format of the first supported media type of the Accept header."""
    for entry in request.headers.get("accept", "").split(","):
        found = _MEDIA_TYPES.get(entry.split(";")[0].strip().lower())
        if found is not None:
            return found
    return "json"
