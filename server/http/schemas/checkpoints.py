"""Schemas of checkpoints and of requests for sampling and scoring."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from server.clock import rfc3339
from server.http.bodies import Body
from server.queue.drawing import GRID_FIELDS
from server.store.rows import CheckpointRow


class Checkpoint(BaseModel):
    """A saved state of a run, for sampling, scoring, and forking."""

    object: Literal["checkpoint"] = "checkpoint"
    id: str
    job_id: str
    step: int
    attempt: int
    sha256: str = Field(description="SHA-256 of the manifest, which contains the hash of the tensors.")
    size_bytes: int
    status: Literal["available", "rejected", "pruned"]
    created_at: str
    links: dict[str, str]

    @classmethod
    def of(cls, row: CheckpointRow) -> Self:
        """The checkpoint of a database row."""
        own = f"/v1/checkpoints/{row['id']}"
        names = ("content", "manifest", "samples", "scores") if row["status"] == "available" else ()
        return cls(
            id=row["id"],
            job_id=row["job_id"],
            step=row["step"],
            attempt=row["attempt"],
            sha256=row["sha256"],
            size_bytes=row["size_bytes"],
            status=row["status"],
            created_at=rfc3339(row["created_at"]),
            links={"self": own, **{name: f"{own}/{name}" for name in names}},
        )


class DrawSamples(Body):
    """Parameters of images to generate from a checkpoint; the same request gives the same images."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"n": 64, "seed": 7, "format": "png"}]})

    n: Annotated[int, Field(ge=1, le=50_000)] = 64
    """Number of images; with `interpolation`, number of rows. At most 1024 in a grid."""
    seed: Annotated[int, Field(ge=0, lt=2**53)] = 0
    """Seed of the latents."""
    truncation: Annotated[float, Field(gt=0, le=100, strict=False)] | None = None
    """Truncate the normal latents to this absolute value; lower gives more typical, less varied images."""
    interpolation: Annotated[int, Field(ge=0, le=64)] = 0
    """Images per row, each row interpolating between two latents; 0 generates independent images."""
    ema: bool = False
    """Use the moving average of the generator, if the run has one."""
    format: Literal["png", "webp", "zip", "npz"] = "png"
    """`png`, `webp`: one grid, lossless; `zip`: one PNG per image; `npz`: the array `images`, uint8 (n, H, W, 3)."""
    columns: Annotated[int, Field(ge=1, le=1024)] | None = None
    """Columns of a grid; null: as square as possible."""
    scale: Annotated[int, Field(ge=1, le=16)] | None = None
    """Factor by which a grid enlarges images, by repeating pixels; null: until images have at least 64 pixels."""
    padding: Annotated[int, Field(ge=0, le=64)] | None = None
    """Black pixels around each image of a grid; null: 2."""

    def parameters(self) -> dict[str, Any]:
        """The parameters of the task. What is not said of a grid is left out, as before there were such fields."""
        unsaid = {name for name in GRID_FIELDS if getattr(self, name) is None}
        return self.model_dump(mode="json", exclude=unsaid)


class ScoreCheckpoint(Body):
    """Parameters for scoring a checkpoint with new latents. Omitted fields are those of the job's configuration."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"protocol": "digits-v1"}]})

    protocol: Annotated[str, Field(max_length=100)] | None = None
    """Evaluation protocol."""
    num_samples: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Number of generated images; a number other than the protocol's own makes it a different protocol."""
    ema: bool | None = None
    """Score the moving average of the generator, if the run has one."""
    weights: Annotated[str, Field(max_length=200)] | None = None
    """Name of one of the extractor weight files that the operator offers."""
