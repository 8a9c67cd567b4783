"""Jobs of a service as seen in a terminal: a live line each, or plain lines where there is no terminal."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

from rich.console import Console

from gan_mhe.cli.console import PlainSink, RunLine, progress_bars
from gan_mhe.evaluation.metrics import METRICS
from gan_mhe.records import events
from server.client import Client, Event, Job

# What the service passes on as the run said it, under names of its own.
_PASSED_ON = {
    "job.started": "started",
    "job.progress": "progress",
    "evaluation.completed": "evaluated",
    "job.notice": "notice",
}


def follow(client: Client, jobs: Sequence[Job], console: Console, *, patience: float = 300.0) -> list[Job]:
    """Show how jobs go, until all have ended; return them as they are then. patience: as of `Client.stream`."""
    with Board(console, {job.id: job.title for job in jobs}) as board:
        for event in client.stream([job.id for job in jobs], patience=patience):
            board.show(event)
    return [client.job(job.id) for job in jobs]


class Board:
    """Several jobs at once. titles: what to call them, by id."""

    def __init__(self, console: Console, titles: dict[str, str]) -> None:
        self._held = ExitStack()
        width = max(map(len, titles.values()), default=0)
        self._bars = progress_bars(console) if console.is_terminal else None
        self._lines: dict[str, RunLine | PlainSink] = {
            id_: PlainSink(console, f"{title:{width}}") if self._bars is None else RunLine(self._bars, title)
            for id_, title in titles.items()
        }

    def show(self, event: Event) -> None:
        """Show what an event changes."""
        line = self._lines[event.job_id]
        if event.type == "job.state":
            moving = event.data["state"] == "running" and isinstance(line, RunLine)
            line.tell("state", "" if moving else _state(event.data))
        for said in run_events(event):
            line.emit(said)

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
    """What the run itself said; nothing for what only the service says."""
    data = event.data
    match event.type:
        case "metric.batch":
            # The points of an evaluation are told again by an event of its own.
            for point in data["points"]:
                if METRICS.keys().isdisjoint(point["values"]):
                    yield events.decode({"type": "scalars", **point})
        case "sample.created":
            yield events.SampleGrid(data["step"], data["url"], data["sha256"])
        case "checkpoint.created":
            yield events.CheckpointSaved(data["step"], data["id"], data["sha256"])
        case "checkpoint.rejected":
            yield events.CheckpointRejected(data["step"], data["step"], data["message"])
        case kind if kind in _PASSED_ON:
            yield events.decode({"type": _PASSED_ON[kind], **data})


def _state(data: Mapping[str, Any]) -> str:
    """Such as "queued" or "failed: it ran out of memory"."""
    return f"{data['state']}: {data['message']}" if data["message"] else str(data["state"])
