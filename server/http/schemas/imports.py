"""Schemas of imports."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from server.http.bodies import Body, Labels


class Importable(BaseModel):
    """A run directory in the service's inbox."""

    name: str
    variant: str | None
    seed: int | None
    total_steps: int | None
    status: Literal["completed", "diverged", "unfinished"] | None
    problem: str | None = Field(description="Reason why it cannot be imported.")


class ImportRun(Body):
    """A run directory in the service's inbox to import as a job."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "digits-mhe-seed0", "labels": {}}]})

    name: Annotated[str, Field(min_length=1, max_length=100)]
    """Name of the run directory (`GET /v1/imports`)."""
    labels: Labels = Field(default_factory=dict)
    """Labels of the job."""
