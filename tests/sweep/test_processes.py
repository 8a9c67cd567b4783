"""Several runs at once: in order, each with its share, and none of their processes outlives the one that began them."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from gan_mhe.config.run_config import RunConfig
from gan_mhe.errors import GanMheError
from gan_mhe.records.events import Event, EventSink, Finished, Started
from gan_mhe.sweep import parent_death, processes
from gan_mhe.sweep.processes import Run, execute_all

Configure = Callable[..., RunConfig]

# Stands in for `gan_mhe.worker`: acts by the file `part` beside the run, and keeps a diary of all runs.
FAKE_WORKER = """
import json, os, pathlib, signal, sys, time
request = json.loads(pathlib.Path(sys.argv[1]).read_bytes())
run_dir = pathlib.Path(request["run_dir"])
part = (run_dir / "part").read_text()

def note(what):
    with open(run_dir.parent / "diary", "a") as diary:
        diary.write(f"{what} {run_dir.name} {os.getpid()} {os.environ['OMP_NUM_THREADS']}\\n")

def say(**event):
    with open(run_dir / "events.jsonl", "a") as journal:
        journal.write(json.dumps(event) + "\\n")

def leave(outcome, code=None, message=""):
    note("end")
    document = {"outcome": outcome, "code": code, "message": message, "step": 4, "result": None}
    pathlib.Path(request["outcome"]).write_text(json.dumps(document))
    sys.exit({"completed": 0, "stopped": 75, "failed": 1}[outcome])

asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
note("begin")
say(type="started", step=0, total_steps=9, resumed=False)
if part == "wait":
    while not asked: time.sleep(0.01)
    time.sleep(0.1)
    note(f"asked-{len(asked)}-times")
    leave("stopped")
if part.startswith("meet"):
    late = time.monotonic() + 20
    while (run_dir.parent / "diary").read_text().count("begin") < int(part.split()[1]) and time.monotonic() < late:
        time.sleep(0.01)
if part == "hang":
    time.sleep(60)
if part == "crash":
    os.kill(os.getpid(), signal.SIGKILL)
if part == "stopped from elsewhere":
    leave("stopped")
if part == "diverge":
    leave("failed", "diverged", "a loss is not finite")
if part == "unexpected":
    sys.stderr.write("Traceback: in line 7\\n")
    leave("failed", "error", "KeyError: 'x'")
say(type="finished", step=9, reason="completed", message=run_dir.name)
leave("completed")
"""
# A process that executes the runs below a folder, two at once.
PARENT = """
import sys
from contextlib import contextmanager
from pathlib import Path
from gan_mhe.sweep import processes
from gan_mhe.config import RunConfig
processes._WORKER = (sys.executable, "-S", sys.argv[1])
class Nobody:
    def emit(self, event): pass
    def should_stop(self): return False
@contextmanager
def sink(title): yield Nobody()
runs = [processes.Run(RunConfig.model_validate({}), path, path.name) for path in map(Path, sys.argv[2:])]
processes.execute_all(runs, sink, Nobody(), jobs=2, threads=1)
"""


class Stage:
    """Runs below a folder, the parts that their workers play, and what was heard of them."""

    def __init__(self, root: Path, config: RunConfig) -> None:
        self.root, self.config = root, config
        self.heard: list[tuple[str, Event]] = []
        self.open: list[str] = []
        self.runs: list[Run] = []

    def plays(self, *parts: str) -> "Stage":
        for part in parts:
            run = Run(self.config, self.root / f"run{len(self.runs)}", f"title {len(self.runs)}")
            run.directory.mkdir()
            (run.directory / "part").write_text(part)
            self.runs.append(run)
        return self

    @contextmanager
    def sink(self, title: str) -> Iterator[EventSink]:
        heard = self.heard

        class Sink:
            def emit(self, event: Event) -> None:
                heard.append((title, event))

        self.open.append(title)
        yield Sink()
        self.open.remove(title)

    def should_stop(self) -> bool:
        """Whether all that is to be waited for has begun."""
        waiting = [run for run in self.runs if (run.directory / "part").read_text() == "wait"]
        return bool(waiting) and self.begun() >= len(waiting)

    def begun(self) -> int:
        return sum(isinstance(event, Started) for _, event in self.heard)

    def execute(self, jobs: int = 2) -> list[tuple[Run, GanMheError]]:
        failures = execute_all(self.runs, self.sink, self, jobs=jobs, threads=3)
        assert self.open == []
        return failures

    def diary(self) -> list[list[str]]:
        """What happened: `begin`, `asked-N-times` or `end`, run, process number, threads."""
        return [line.split() for line in (self.root / "diary").read_text().splitlines()]

    def processes(self) -> list[int]:
        return [int(pid) for what, _, pid, _ in self.diary() if what == "begin"]


@pytest.fixture
def fake_worker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("worker") / "fake_worker.py"
    path.write_text(FAKE_WORKER)
    return path


@pytest.fixture
def stage(tmp_path: Path, fake_worker: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    monkeypatch.setattr(processes, "_WORKER", (sys.executable, "-S", str(fake_worker)))
    monkeypatch.setattr(processes, "_POLL_SECONDS", 0.01)
    made = Stage(tmp_path, RunConfig.model_validate({}))
    yield made
    if (tmp_path / "diary").exists():
        for pid in made.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def eventually(condition: Callable[[], object], seconds: float = 20) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "did not come about"
        time.sleep(0.01)


def most_at_once(diary: Sequence[Sequence[str]]) -> int:
    running, most = 0, 0
    for what, *_ in diary:
        running += {"begin": 1, "end": -1}.get(what, 0)
        most = max(most, running)
    return most


# --- the order, the share, the events


@pytest.mark.parametrize("jobs", [2, 3])
def test_runs_begin_in_order_and_so_many_at_once(stage: Stage, jobs: int) -> None:
    parts = [f"meet {jobs}"] * jobs + ["complete"] * (5 - jobs)
    assert stage.plays(*parts).execute(jobs) == []
    diary = stage.diary()
    assert [what for what, *_ in diary].count("end") == 5
    assert most_at_once(diary) == jobs
    assert {run for _, run, *_ in diary[:jobs]} == {f"run{i}" for i in range(jobs)}


def test_every_run_has_a_process_and_the_threads_it_is_given(stage: Stage) -> None:
    stage.plays("complete", "complete").execute()
    assert len({os.getpid(), *stage.processes()}) == 3
    assert {threads for *_, threads in stage.diary()} == {"3"}


def test_what_a_run_says_reaches_its_own_sink(stage: Stage) -> None:
    stage.plays("complete", "complete").execute()
    for i in range(2):
        events = [event for title, event in stage.heard if title == f"title {i}"]
        assert events == [Started(0, 9, resumed=False), Finished(9, "completed", f"run{i}")]


@pytest.mark.parametrize("error", [BrokenPipeError(32, "Broken pipe"), SystemExit(1)])
def test_a_sink_that_fails_ends_neither_its_run_nor_the_others(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    class Broken:
        def emit(self, event: Event) -> None:
            raise error

    @contextmanager
    def sink(title: str) -> Iterator[EventSink]:
        yield Broken()

    monkeypatch.setattr(stage, "sink", sink)
    assert stage.plays("complete", "complete").execute() == []
    assert [what for what, *_ in stage.diary()].count("end") == 2


def test_earlier_events_of_a_run_are_not_emitted_again(stage: Stage) -> None:
    stage.plays("complete")
    old = json.dumps({"type": "finished", "step": 1, "reason": "stopped", "message": ""})
    (stage.runs[0].directory / "events.jsonl").write_text(f"{old}\n")
    stage.execute()
    assert [type(event) for _, event in stage.heard] == [Started, Finished]


def test_a_first_run_that_may_download_is_alone_until_it_has_what_all_need(stage: Stage) -> None:
    data = stage.config.data.model_copy(update={"download": True})
    stage.config = stage.config.model_copy(update={"data": data})
    stage.plays("meet 2", "complete")
    order: list[str] = []

    @contextmanager
    def sink(title: str) -> Iterator[EventSink]:
        order.append(title)
        with stage.sink(title) as inner:

            class Sink:
                def emit(self, event: Event) -> None:
                    order.append(f"{title}: {event.type}")
                    inner.emit(event)

            yield Sink()

    execute_all(stage.runs, sink, stage, jobs=2, threads=1)
    assert order[:3] == ["title 0", "title 0: started", "title 1"]


# --- failures


@pytest.mark.parametrize(
    ("part", "code", "message"),
    [
        ("diverge", "diverged", "a loss is not finite"),
        ("crash", "error", "the worker ended by signal 9 (Killed)"),
        ("unexpected", "error", "KeyError: 'x'\nTraceback: in line 7"),
        (
            "stopped from elsewhere",
            "error",
            "the worker was stopped from outside at step 4; run the same command to continue",
        ),
    ],
)
def test_a_failing_run_is_returned_and_the_others_are_finished(
    stage: Stage, part: str, code: str, message: str
) -> None:
    [(run, error)] = stage.plays("complete", part, "complete", "complete").execute()
    assert run is stage.runs[1]
    assert (error.code, str(error)) == (code, message)
    assert {title for title, event in stage.heard if isinstance(event, Finished)} == {"title 0", "title 2", "title 3"}


def test_failures_are_returned_in_the_order_of_the_runs(stage: Stage) -> None:
    failures = stage.plays("complete", "unexpected", "meet 5", "crash", "diverge").execute(3)
    assert [run.title for run, _ in failures] == ["title 1", "title 3", "title 4"]


def test_a_worker_that_cannot_be_started_is_a_failure_of_its_run(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise BlockingIOError(11, "no more processes")

    stage.plays("complete", "complete")
    monkeypatch.setattr(subprocess, "Popen", refuse)
    failures = stage.execute()
    assert [str(error) for _, error in failures] == ["cannot start the worker: [Errno 11] no more processes"] * 2


# --- the end


def test_a_stop_asks_every_run_once_begins_no_other_and_is_no_failure(stage: Stage) -> None:
    assert stage.plays("wait", "wait", "complete").execute() == []
    assert [what for what, *_ in stage.diary()].count("asked-1-times") == 2
    assert {run for _, run, *_ in stage.diary()} == {"run0", "run1"}
    assert all(map(gone, stage.processes()))


def test_an_exception_kills_every_run(stage: Stage) -> None:
    def interrupt() -> bool:
        if stage.begun() == 2:
            raise KeyboardInterrupt
        return False

    stage.plays("hang", "hang")
    stage.should_stop = interrupt  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        stage.execute()
    assert stage.open == []
    assert len(stage.processes()) == 2 and all(map(gone, stage.processes()))


def test_runs_die_with_the_process_that_began_them(stage: Stage, fake_worker: Path) -> None:
    folders = [str(run.directory) for run in stage.plays("hang", "hang").runs]
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(fake_worker), *folders])
    try:
        eventually(lambda: (stage.root / "diary").exists() and len(stage.processes()) == 2)
        assert [os.getpgid(pid) for pid in stage.processes()] == stage.processes()  # a Ctrl-C is the parent's alone
    finally:
        parent.kill()
        parent.wait()
    eventually(lambda: all(map(gone, stage.processes())), 5)


def test_a_command_whose_parent_is_gone_already_is_not_run(tmp_path: Path) -> None:
    command = [sys.executable, "-I", "-S", parent_death.__file__, "1", "/bin/touch", str(tmp_path / "file")]
    assert subprocess.run(command, timeout=20).returncode == 1
    assert not (tmp_path / "file").exists()


def test_a_command_takes_the_place_of_what_ties_it(tmp_path: Path) -> None:
    command = [sys.executable, "-I", "-S", parent_death.__file__, str(os.getpid()), "/bin/sh", "-c", "exit 7"]
    assert subprocess.run(command, timeout=20).returncode == 7
