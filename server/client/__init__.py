"""A client of the service: submit jobs, follow them live, download their images, compare them.

    from server.client import Client

    with Client("http://127.0.0.1:8000") as client:
        job = client.submit(preset="digits_cnn", variant="mhe_sn", seed=0)
        for event in client.stream(job.id):
            print(event.type, event.data)
        client.latest_image(job.id).save("grid.png")

The client imports neither torch nor the web framework.
"""

from server.client.client import Client, Mode
from server.client.errors import (
    Conflict,
    FieldError,
    NotAuthorized,
    NotFound,
    Rejected,
    ServerError,
    TaskFailed,
    TimedOut,
    Unavailable,
    Unreachable,
)
from server.client.events import Event
from server.client.records import (
    Bucket,
    Cell,
    Checkpoint,
    DryRun,
    Experiment,
    ExperimentDryRun,
    Job,
    LogChunk,
    Metric,
    Progress,
    Sample,
    Score,
    Scores,
    Task,
    TaskResult,
)

__all__ = [
    "Bucket",
    "Cell",
    "Checkpoint",
    "Client",
    "Conflict",
    "DryRun",
    "Event",
    "Experiment",
    "ExperimentDryRun",
    "FieldError",
    "Job",
    "LogChunk",
    "Metric",
    "Mode",
    "NotAuthorized",
    "NotFound",
    "Progress",
    "Rejected",
    "Sample",
    "Score",
    "Scores",
    "ServerError",
    "Task",
    "TaskFailed",
    "TaskResult",
    "TimedOut",
    "Unavailable",
    "Unreachable",
]
