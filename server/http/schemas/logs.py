"""Schema of logs."""

from pydantic import BaseModel, Field


class LogChunk(BaseModel):
    """Part of the output of a job's processes."""

    offset: int = Field(description="Start of this part in bytes.")
    next_offset: int = Field(description="The `after` of the next part.")
    text: str
    complete: bool = Field(description="Whether the job has ended and no output follows.")
