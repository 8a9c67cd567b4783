"""Display of a service's jobs: a live line per job in a terminal, one line per event elsewhere."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

from rich.console import Console

from gan_mhe.cli.console import PlainSink, RunLine, padding, progress_bars
from gan_mhe.evaluation.metrics import METRICS
from gan_mhe.records import events
from gan_mhe.streams import Dispensable
from server.client import Client, Event, Job

# Events of the run that the service renames.
_RENAMED = {
    "job.started": "started",
    "job.progress": "progress",
    "evaluation.completed": "evaluated",
    "job.notice": "notice",
}


def follow(
    client: Client, jobs: Sequence[Job], console: Console, *, patience: float = 300.0, only_show: bool = False
) -> list[Job]:
    """Show the progress of jobs until all have ended; return them. patience: as in `Client.stream`.

    only_show: whether the caller has nothing else to do, so that the error of a lost output is raised.
    """
    with Board(console, {job.id: job.title for job in jobs}) as board:
        show = board.show if only_show else Dispensable(board.show)
        for event in client.stream([job.id for job in jobs], patience=patience):
            show(event)
    return [client.job(job.id) for job in jobs]


class Board:
    """The display of several jobs. titles: the jobs' titles by id."""

    def __init__(self, console: Console, titles: dict[str, str]) -> None:
        self._held = ExitStack()
        width = padding(titles.values())
        self._bars = progress_bars(console) if console.is_terminal else None
        self._lines: dict[str, RunLine | PlainSink] = {
            id_: PlainSink(console, f"{title:{width}}") if self._bars is None else RunLine(self._bars, title)
            for id_, title in titles.items()
        }

    def show(self, event: Event) -> None:
        """Show an event. Raises the error by which the console's output was lost, if it was."""
        line = self._lines[event.job_id]
        if event.type == "job.state":
            moving = event.data["state"] == "running" and isinstance(line, RunLine)
            line.show("state", "" if moving else _state(event.data))
        for run_event in run_events(event):
            line.emit(run_event)

    def __enter__(self) -> Self:
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()


def run_events(event: Event) -> Iterator[events.Event]:
    """The run's own events in an event of the service; none for events that are only the service's."""
    data = event.data
    match event.type:
        case "metric.batch":
            # An evaluation has an event of its own in addition to its points.
            for point in data["points"]:
                if METRICS.keys().isdisjoint(point["values"]):
                    yield events.decode({"type": "scalars", **point})
        case "sample.created":
            yield events.SampleGrid(data["step"], data["url"], data["sha256"])
        case "checkpoint.created":
            yield events.CheckpointSaved(data["step"], data["id"], data["sha256"])
        case "checkpoint.rejected":
            yield events.CheckpointRejected(data["step"], data["step"], data["message"])
        case kind if kind in _RENAMED:
            yield events.decode({"type": _RENAMED[kind], **data})


def _state(data: Mapping[str, Any]) -> str:
    """A description such as "queued" or "failed: it ran out of memory"."""
    return f"{data['state']}: {data['message']}" if data["message"] else str(data["state"])
