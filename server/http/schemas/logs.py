"""Logs as they are shown."""

from pydantic import BaseModel, Field


class LogChunk(BaseModel):
    """Part of what a job's processes printed."""

    offset: int = Field(description="In bytes, of the part's beginning.")
    next_offset: int = Field(description="Ask with `after=` for what follows.")
    text: str
    complete: bool = Field(description="Whether the job has ended and nothing follows.")
