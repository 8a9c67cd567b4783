"""Schemas of experiments."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from server.clock import rfc3339
from server.http.schemas.jobs import Estimate
from server.queue import estimates
from server.queue.experiments import Plan
from server.queue.states import TERMINAL, State
from server.store.rows import CellRow, NewExperimentRow


class Cell(BaseModel):
    """One combination of the matrix and its job; has the keys and values of the combination as further fields."""

    model_config = ConfigDict(extra="allow")

    job_id: str
    state: State
    terminal: bool


class ExperimentSummary(BaseModel):
    """An experiment without its cells."""

    id: str
    object: Literal["experiment"] = "experiment"
    project: str
    name: str | None
    labels: dict[str, str]
    base: dict[str, Any] = Field(description="The preset or config, and the overrides, as submitted.")
    matrix: dict[str, list[Any]]
    total: int = Field(description="Number of jobs that still exist.")
    counts: dict[str, int] = Field(description="Number of jobs by state.")
    terminal: bool = Field(description="Whether all jobs have ended.")
    created_at: str
    links: dict[str, str]

    @classmethod
    def of(cls, row: NewExperimentRow, counts: Mapping[str, int], **more: Any) -> Self:
        """The experiment of a database row, with its number of jobs by state."""
        values = {
            **row,
            "total": sum(counts.values()),
            "counts": counts,
            "terminal": all(State(state) in TERMINAL for state in counts),
            "created_at": rfc3339(row["created_at"]),
            "links": {
                "self": f"/v1/experiments/{row['id']}",
                "jobs": f"/v1/jobs?experiment_id={row['id']}",
                "compare": f"/v1/compare?experiment={row['id']}",
            },
        }
        return cls.model_validate(values | more)


class Experiment(ExperimentSummary):
    """An experiment with its cells, seed by seed."""

    cells: list[Cell]

    @classmethod
    def with_cells(cls, row: NewExperimentRow, cells: Sequence[CellRow]) -> Self:
        """The experiment of a database row, with its cells."""
        counts = Counter(str(cell["state"]) for cell in cells)
        return cls.of(row, counts, cells=[_cell(cell) for cell in cells])


class ExperimentDryRun(BaseModel):
    """The experiment that a request would create."""

    object: Literal["dry_run"] = "dry_run"
    total: int = Field(description="Number of jobs.")
    estimate: Estimate = Field(description="Cost of all jobs together.")

    @classmethod
    def of(cls, plan: Plan) -> Self:
        """The answer for a checked experiment."""
        configs = [config for _, config in plan.cells]
        return cls.model_validate({"total": len(configs), "estimate": estimates.of_experiment(configs)})


def _cell(job: CellRow) -> dict[str, Any]:
    own = {"job_id": job["id"], "state": job["state"], "terminal": State(job["state"]) in TERMINAL}
    return {**(job["cell"] or {}), **own}
