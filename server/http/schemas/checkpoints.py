"""Checkpoints as they are shown, and what can be asked of one."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from server.clock import rfc3339
from server.http.bodies import Body
from server.store.rows import CheckpointRow


class Checkpoint(BaseModel):
    """A state of a run, to sample from, to score, and to go on from."""

    object: Literal["checkpoint"] = "checkpoint"
    id: str
    job_id: str
    step: int
    attempt: int
    sha256: str = Field(description="Of the manifest, which states the hash of the tensors.")
    size_bytes: int
    status: Literal["available", "rejected", "pruned"]
    created_at: str
    links: dict[str, str]

    @classmethod
    def of(cls, row: CheckpointRow) -> Self:
        """A checkpoint's row."""
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
    """Images to be drawn from a checkpoint: the same request gives the same images."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"n": 64, "seed": 7, "format": "png"}]})

    n: Annotated[int, Field(ge=1, le=1024)] = 64
    """Images; with `interpolation`, rows."""
    seed: Annotated[int, Field(ge=0, lt=2**53)] = 0
    """Of the latents."""
    truncation: Annotated[float, Field(gt=0, le=100, strict=False)] | None = None
    """Latents are normal, truncated to absolute values up to this: less gives more typical, less varied images."""
    interpolation: Annotated[int, Field(ge=0, le=64)] = 0
    """Images a row, each row a walk between two latents; 0 draws independent images."""
    ema: bool = False
    """Draw from the moving average of the generator, where the run keeps one."""
    format: Literal["png", "zip", "npz"] = "png"
    """`png`: one grid; `zip`: one PNG an image; `npz`: the array `images`, uint8 (n, H, W, 3)."""


class ScoreCheckpoint(Body):
    """A checkpoint to be scored with fresh latents. What is left out is as the job's configuration has it."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"protocol": "digits-v1"}]})

    protocol: Annotated[str, Field(max_length=100)] | None = None
    """Evaluation protocol."""
    num_samples: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Generated images; another number than the protocol's own makes it another protocol."""
    ema: bool | None = None
    """Score the moving average of the generator, where the run keeps one."""
    weights: Annotated[str, Field(max_length=200)] | None = None
    """Name of the extractor's weight file, of those that the operator offers."""
