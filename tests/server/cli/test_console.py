"""Jobs in a terminal: a live line per job; elsewhere, a line per event."""

import io
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TextIO, cast

import pytest
from rich.console import Console

from gan_mhe.streams import Output
from server.cli.console import Board, follow
from server.client import Client, Event, Job

TITLES = {"job_a": "mhe seed 0", "job_b": "a [bold]name[/bold]"}
STARTED = {"step": 0, "total_steps": 8, "resumed": False, "attempt": 1}
PROGRESS = {"step": 4, "total_steps": 8, "steps_per_second": 2.0, "images_per_second": 640.0, "eta_seconds": 2.0}
EVALUATED = {
    "step": 4,
    "purpose": "scheduled",
    "scores": {"inception_score": 7.125, "fid": "NaN"},
    "protocol": "digits-v1",
    "fingerprint": "f" * 64,
    "seconds": 0.5,
}
EVENTS: list[tuple[str, str, Mapping[str, Any]]] = [
    ("job_a", "job.state", {"state": "queued", "message": None}),
    ("job_b", "job.state", {"state": "queued", "message": None}),
    ("job_a", "job.state", {"state": "running", "message": None}),
    ("job_a", "job.started", STARTED),
    ("job_a", "log.lines", {"text": "log output"}),
    (
        "job_a",
        "metric.batch",
        {
            "points": [
                {"step": 4, "values": {"d_loss": 1.25, "g_loss": "NaN"}},
                {"step": 4, "values": {"inception_score": 7.125, "fid": "NaN"}},
            ]
        },
    ),
    ("job_a", "job.progress", PROGRESS),
    ("job_a", "evaluation.completed", EVALUATED),
    ("job_a", "sample.created", {"step": 4, "sha256": "0", "url": "/v1/blobs/0"}),
    ("job_a", "checkpoint.created", {"step": 4, "id": "ckpt_1", "sha256": "0"}),
    ("job_a", "checkpoint.rejected", {"step": 4, "message": "it is damaged"}),
    ("job_a", "job.notice", {"step": 4, "message": "look [here]"}),
    ("job_a", "job.something_new", {"of": "a newer service"}),
    ("job_b", "job.state", {"state": "failed", "message": "out of memory"}),
]


def show_events(console: Console) -> None:
    moment = datetime.now(UTC)
    with Board(console, TITLES) as board:
        for number, (job_id, kind, data) in enumerate(EVENTS, 1):
            board.show(Event(number, job_id, number, moment, kind, data))


def test_without_a_terminal_each_event_is_a_line_with_its_jobs_title() -> None:
    text = io.StringIO()
    show_events(Console(file=text, width=40))
    assert text.getvalue().splitlines() == [
        "mhe seed 0           queued",
        "a [bold]name[/bold]  queued",
        "mhe seed 0           running",
        "mhe seed 0           started, 8 steps",
        "mhe seed 0           step 4  d_loss 1.25  g_loss nan",
        "mhe seed 0           step 4/8  2.00 steps/s  640 images/s  2 s left",
        "mhe seed 0           step 4  scheduled  inception_score 7.125  fid nan  (digits-v1, 0.5 s)",
        "mhe seed 0           samples /v1/blobs/0",
        "mhe seed 0           checkpoint ckpt_1",
        "mhe seed 0           note: checkpoint of step 4 refused: it is damaged",
        "mhe seed 0           note: look [here]",
        "a [bold]name[/bold]  failed: out of memory",
    ]


@pytest.fixture
def screen() -> str:
    """The final output of a terminal."""
    text = io.StringIO()
    show_events(Console(file=text, width=160, force_terminal=True, color_system=None))
    return text.getvalue()


def test_a_terminal_has_one_live_line_per_job(screen: str) -> None:
    first, second = screen.splitlines()[-3:-1]
    assert "mhe seed 0" in first and "4/8" in first
    assert "running" not in first  # shown by the bar
    assert "640 images/s  D 1.25 G nan  Inception score 7.12" in first
    assert "a [bold]name[/bold]" in second and "failed: out of memory" in second


def test_notices_are_above_the_live_lines(screen: str) -> None:
    assert "note: look [here]" in screen and "note: checkpoint of step 4 refused: it is damaged" in screen
    assert "/v1/blobs/0" not in screen and "log output" not in screen


class Stream:
    """A client whose jobs have the events above."""

    def __init__(self) -> None:
        self.read = 0

    def stream(self, ids: Sequence[str], **options: Any) -> Iterator[Event]:
        for number, (job_id, kind, data) in enumerate(EVENTS, 1):
            self.read += 1
            yield Event(number, job_id, number, datetime.now(UTC), kind, data)

    def job(self, id_: str) -> str:
        return id_


@dataclass(frozen=True)
class Titled:
    id: str
    title: str


def follow_without_reader(*, only_show: bool) -> Stream:
    """Follow the jobs above on a console whose reader has gone away."""
    stream = Stream()
    jobs = [cast(Job, Titled(id_, title)) for id_, title in TITLES.items()]
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w", encoding="utf-8") as pipe:
        output = Output(pipe)
        try:
            follow(cast(Client, stream), jobs, Console(file=cast(TextIO, output)), only_show=only_show)
        except BrokenPipeError:
            assert only_show
        output.discard_rest()
    return stream


def test_jobs_that_are_waited_for_are_followed_to_their_end_without_a_reader() -> None:
    assert follow_without_reader(only_show=False).read == len(EVENTS)


def test_jobs_that_are_only_watched_are_followed_no_longer_than_somebody_reads() -> None:
    assert follow_without_reader(only_show=True).read == 2
