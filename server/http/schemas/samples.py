"""Schema of sample grids."""

from typing import Literal, Self

from pydantic import BaseModel, Field

from server.clock import rfc3339
from server.store.rows import SampleRow


class Sample(BaseModel):
    """A grid of generated images; the latents are the same during a run."""

    object: Literal["sample"] = "sample"
    job_id: str
    step: int
    attempt: int
    sha256: str
    media_type: Literal["image/png"] = "image/png"
    size_bytes: int
    width: int = Field(description="Pixels.")
    height: int = Field(description="Pixels.")
    created_at: str
    pruned: bool = Field(description="Whether the image was deleted to save space.")
    links: dict[str, str]

    @classmethod
    def of(cls, row: SampleRow) -> Self:
        """The sample grid of a database row."""
        own = f"/v1/jobs/{row['job_id']}/samples/{row['step']}"
        links = {"self": own}
        if row["pruned_at"] is None:
            links["image"] = f"/v1/blobs/{row['sha256']}"
            links["thumbnail"] = f"{own}/thumbnail?width=256&sha256={row['sha256']}"
        return cls(
            job_id=row["job_id"],
            step=row["step"],
            attempt=row["attempt"],
            sha256=row["sha256"],
            size_bytes=row["size_bytes"],
            width=row["width"],
            height=row["height"],
            created_at=rfc3339(row["created_at"]),
            pruned=row["pruned_at"] is not None,
            links=links,
        )
