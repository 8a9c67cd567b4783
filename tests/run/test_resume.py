"""However a run is cut short, resuming it gives what never stopping would have given, bit for bit."""

import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO, cast

import pytest
import torch
from rich.console import Console

from gan_mhe.cli.console import LiveSink, PlainSink
from gan_mhe.config.run_config import RunConfig
from gan_mhe.errors import CheckpointError, StorageError
from gan_mhe.files import JsonLines
from gan_mhe.records import checkpoint
from gan_mhe.records.events import CheckpointRejected, Evaluated, Event, Notice, SampleGrid, Scalars, Started, effective
from gan_mhe.records.recorder import Recorder
from gan_mhe.records.run_dir import RunDir
from gan_mhe.run.loop import execute
from gan_mhe.streams import Output
from tests.support.forked import Piped, Start

Configure = Callable[..., RunConfig]

# Long enough that a kill always comes before the end: several seconds even on a fast machine.
LONG = ("training.steps=200", "training.report_every_steps=7", "checkpoint.every_steps=8", "checkpoint.keep_last=3")
STATEFUL = (
    "generator.ema_halflife_steps=3",
    "evaluation.ema=true",
    "constraints.mhe.interval=3",
    "constraints.gradient_penalty.interval=2",
    "optimizer.schedule.warmup_steps=5",
    "training.n_dis=2",
    "data.flip=true",
)


@dataclass(frozen=True)
class Story:
    """All that must be equal between two runs of one configuration; times and memory are left out."""

    tensors: dict[str, torch.Tensor]
    notes: dict[str, Any]
    pictures: dict[str, bytes]
    scalars: list[Scalars]
    scores: dict[tuple[int, str], dict[str, float]]
    result: dict[str, Any]


def timeless(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in ("train_seconds", "peak_memory_bytes")}


def story(root: Path) -> Story:
    place = RunDir(root)
    last = checkpoint.load(place.checkpoint(place.checkpoint_steps()[-1]))
    events = list(effective(place.read_events()))
    result = place.read_result()
    assert result is not None
    return Story(
        tensors=dict(last.tensors),
        notes=timeless(dict(last.notes)),
        pictures={path.name: path.read_bytes() for path in place.samples.iterdir()},
        scalars=[event for event in events if isinstance(event, Scalars)],
        scores={(event.step, event.purpose): dict(event.scores) for event in events if isinstance(event, Evaluated)},
        result=timeless(result),
    )


def assert_same_story(root: Path, expected: Story) -> None:
    found = story(root)
    assert found.tensors.keys() == expected.tensors.keys()
    different = [name for name, tensor in expected.tensors.items() if not torch.equal(found.tensors[name], tensor)]
    assert different == []
    assert found.notes == expected.notes
    assert found.pictures == expected.pictures
    assert found.scalars == expected.scalars
    assert found.scores == expected.scores
    assert found.result == expected.result


class Listener:
    def __init__(self) -> None:
        self.events: list[Event] = []

    def emit(self, event: Event) -> None:
        self.events.append(event)


class Killed(BaseException):
    """Ends a run in this process the way a signal would: nothing catches it."""


class KillAt:
    """A sink that ends the run at its n-th event."""

    def __init__(self, index: int) -> None:
        self.left = index

    def emit(self, event: Event) -> None:
        self.left -= 1
        if self.left < 0:
            raise Killed


def resumed_steps(root: Path) -> list[int]:
    return [event.step for event in RunDir(root).read_events() if isinstance(event, Started) and event.resumed]


def notices(root: Path) -> list[str]:
    return [event.message for event in RunDir(root).read_events() if isinstance(event, Notice)]


def rejections(root: Path) -> list[CheckpointRejected]:
    return [event for event in RunDir(root).read_events() if isinstance(event, CheckpointRejected)]


@pytest.fixture(scope="module")
def unbroken(tiny: Configure, tmp_path_factory: pytest.TempPathFactory) -> Callable[[RunConfig], Story]:
    """The story of a configuration run without a break, made once."""
    stories: dict[str, Story] = {}

    def run(config: RunConfig) -> Story:
        if config.digest() not in stories:
            root = tmp_path_factory.mktemp("unbroken")
            execute(config, root)
            stories[config.digest()] = story(root)
        return stories[config.digest()]

    return run


# --- cut short in this process, at every event


@pytest.mark.parametrize("variant", ["none", "mhe_sn"])
def test_a_run_cut_at_any_event_resumes_to_the_same_end(
    tiny: Configure, unbroken: Callable[[RunConfig], Story], tmp_path: Path, variant: str
) -> None:
    keys = STATEFUL if variant == "mhe_sn" else ()
    config = tiny(*keys, "evaluation.every_steps=6", preset="digits_cnn", variant=variant)
    listener = Listener()
    execute(config, tmp_path / "heard", listener)
    for index in range(1, len(listener.events), 4):
        root = tmp_path / str(index)
        with pytest.raises(Killed):
            execute(config, root, KillAt(index))
        execute(config, root)
        assert_same_story(root, unbroken(config))


# --- shown by a display that fails, at every event


class FailAt:
    """A sink that raises at its n-th event."""

    def __init__(self, index: int, error: BaseException) -> None:
        self.left, self.error, self.later = index, error, 0

    def emit(self, event: Event) -> None:
        self.left -= 1
        self.later += self.left < -1
        if self.left < 0:
            raise self.error


class CloseAt:
    """A sink that prints into a pipe, whose reader goes away at the n-th event."""

    def __init__(self, index: int, *, live: bool) -> None:
        self.left = index
        self.reader, writer = os.pipe()
        self.stream = open(writer, "w", encoding="utf-8")
        self.output = Output(self.stream)
        console = Console(file=cast(TextIO, self.output), force_terminal=live, width=500)
        self.sink = LiveSink(console, "title") if live else PlainSink(console, "title")

    def emit(self, event: Event) -> None:
        self.left -= 1
        if self.left == -1:
            os.close(self.reader)
        self.sink.emit(event)

    def __enter__(self) -> "CloseAt":
        self.sink.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.sink.__exit__(None, None, None)
        self.output.discard_rest()
        self.stream.close()


SHORT = ("training.steps=4", "sampling.every_steps=2", "checkpoint.every_steps=2", "training.report_every_steps=2")
BREAKS = (BrokenPipeError(32, "Broken pipe"), SystemExit(1), ValueError("I/O operation on closed file."))


def count_events(config: RunConfig, root: Path) -> int:
    listener = Listener()
    execute(config, root, listener)
    return len(listener.events)


def test_a_display_that_fails_at_any_event_leaves_the_run_as_it_is(
    tiny: Configure, unbroken: Callable[[RunConfig], Story], tmp_path: Path
) -> None:
    config = tiny(*SHORT)
    for index in range(count_events(config, tmp_path / "heard")):
        sink = FailAt(index, BREAKS[index % len(BREAKS)])
        assert execute(config, tmp_path / str(index), sink).status == "completed"
        assert sink.later == 0, "it received events after its error"
        assert_same_story(tmp_path / str(index), unbroken(config))


@pytest.mark.parametrize("live", [False, True], ids=["lines", "live"])
def test_a_reader_that_goes_away_at_any_event_leaves_the_run_as_it_is(
    tiny: Configure, unbroken: Callable[[RunConfig], Story], tmp_path: Path, live: bool
) -> None:
    config = tiny(*SHORT)
    for index in range(0, count_events(config, tmp_path / "heard"), 2):
        with CloseAt(index, live=live) as sink:
            assert execute(config, tmp_path / str(index), sink).status == "completed"
        assert_same_story(tmp_path / str(index), unbroken(config))


def test_the_journal_notes_once_that_a_display_failed_and_why(tiny: Configure, tmp_path: Path) -> None:
    execute(tiny(*SHORT), tmp_path, FailAt(1, BREAKS[0]))
    told = [notice for notice in notices(tmp_path) if "display" in notice]
    assert told == [
        "a display of this run failed and is switched off; the run goes on: [Errno 32] Broken pipe",
    ]


def test_the_other_displays_go_on(tiny: Configure, tmp_path: Path) -> None:
    other = Listener()
    with Recorder(RunDir(tmp_path), [FailAt(0, BREAKS[0]), other]) as recorder:
        recorder.notice(1, "first")
        recorder.notice(2, "second")
    said = [event.message for event in other.events if isinstance(event, Notice)]
    assert len(said) == 3 and {"first", "second"} < set(said)


def test_a_journal_that_cannot_be_written_ends_the_run_which_resumes_to_the_same_end(
    tiny: Configure, unbroken: Callable[[RunConfig], Story], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, append = tiny(*SHORT), JsonLines.append
    for index in (1, 5, 8):

        def append_on_a_full_disk(journal: JsonLines, value: Any, index: int = index) -> None:
            if journal.lines >= index:
                raise StorageError(f"cannot write {journal.path}: No space left on device")
            append(journal, value)

        monkeypatch.setattr(JsonLines, "append", append_on_a_full_disk)
        with pytest.raises(StorageError, match=r"cannot write .*events\.jsonl: No space left on device"):
            execute(config, tmp_path / str(index))
        monkeypatch.setattr(JsonLines, "append", append)
        execute(config, tmp_path / str(index))
        assert_same_story(tmp_path / str(index), unbroken(config))


def test_a_run_stopped_after_every_single_step_resumes_to_the_same_end(
    tiny: Configure, unbroken: Callable[[RunConfig], Story], tmp_path: Path
) -> None:
    class Always:
        def should_stop(self) -> bool:
            return True

    config = tiny(*STATEFUL, "training.steps=8", variant="mhe_sn")
    results = [execute(config, tmp_path, control=Always()) for _ in range(8)]
    assert [result.step for result in results] == list(range(1, 9))
    assert [result.status for result in results] == ["stopped"] * 7 + ["completed"]
    assert_same_story(tmp_path, unbroken(config))


def test_a_run_cut_before_its_first_checkpoint_starts_over(
    tiny: Configure, unbroken: Callable[[RunConfig], Story], tmp_path: Path
) -> None:
    with pytest.raises(Killed):
        execute(tiny(), tmp_path, KillAt(5))
    assert [event.step for event in RunDir(tmp_path).read_events() if isinstance(event, Scalars)] == [3]
    assert RunDir(tmp_path).checkpoint_steps() == []
    execute(tiny(), tmp_path)
    assert resumed_steps(tmp_path) == []
    assert_same_story(tmp_path, unbroken(tiny()))


def test_a_resumed_run_remembers_its_best_generator(
    tiny: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([9.0, 8.0, 7.0, 8.5])
    monkeypatch.setattr(
        "gan_mhe.tasks.gan.GanTask.evaluate", lambda self, *, fresh, control: {"inception_score": next(scores)}
    )
    config = tiny("evaluation.every_steps=4", preset="digits_cnn")
    with pytest.raises(Killed):
        execute(config, tmp_path, KillAt(9))
    result = execute(config, tmp_path)
    assert resumed_steps(tmp_path) == [5]
    assert result.evaluations == 3
    assert result.best is not None and (result.best.step, result.best.scores["inception_score"]) == (4, 8.5)


def test_a_resumed_run_says_again_what_its_data_hold(tiny: Configure, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        execute(tiny(), tmp_path, KillAt(9))
    execute(tiny(), tmp_path)
    held = RunDir(tmp_path).read_data()
    assert held is not None
    assert notices(tmp_path).count(f"data: {held.line()}") == 2


# --- damaged checkpoints


@pytest.fixture
def cut_short(tiny: Configure, tmp_path: Path) -> RunDir:
    """A run with checkpoints at 4 and 8 of 12 steps, cut at step 9."""
    place = RunDir(tmp_path / "run")
    with pytest.raises(Killed):
        execute(damageable(tiny), place.root, KillAt(13))
    assert place.checkpoint_steps() == [4, 8]
    return place


def damageable(tiny: Configure) -> RunConfig:
    return tiny("checkpoint.every_steps=4")


def truncate(directory: Path) -> None:
    path = directory / "tensors.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def flip_tensor_bit(directory: Path) -> None:
    path = directory / "tensors.safetensors"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def flip_manifest_bit(directory: Path) -> None:
    path = directory / "manifest.json"
    content = bytearray(path.read_bytes())
    content[content.index(b'"notes"') + 1] ^= 1
    path.write_bytes(content)


def remove_manifest(directory: Path) -> None:
    (directory / "manifest.json").unlink()


def remove_all(directory: Path) -> None:
    for path in directory.iterdir():
        path.unlink()


DAMAGE = [truncate, flip_tensor_bit, flip_manifest_bit, remove_manifest, remove_all]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(
    tiny: Configure,
    unbroken: Callable[[RunConfig], Story],
    cut_short: RunDir,
    damage: Callable[[Path], None],
) -> None:
    damage(cut_short.checkpoint(8))
    execute(damageable(tiny), cut_short.root)
    assert resumed_steps(cut_short.root) == [4]
    [rejection] = rejections(cut_short.root)
    assert (rejection.step, rejection.checkpoint_step) == (4, 8) and "step_00000008" in rejection.message
    assert_same_story(cut_short.root, unbroken(damageable(tiny)))


def test_a_checkpoint_of_another_configuration_is_refused_by_its_hash(
    tiny: Configure, unbroken: Callable[[RunConfig], Story], cut_short: RunDir, tmp_path: Path
) -> None:
    foreign = RunDir(tmp_path / "foreign")
    execute(tiny("checkpoint.every_steps=4", seed=1), foreign.root)
    shutil.copytree(foreign.checkpoint(12), cut_short.checkpoint(12))
    execute(damageable(tiny), cut_short.root)
    assert resumed_steps(cut_short.root) == [8]
    [rejection] = rejections(cut_short.root)
    assert (rejection.step, rejection.checkpoint_step) == (8, 12) and "another configuration" in rejection.message
    assert_same_story(cut_short.root, unbroken(damageable(tiny)))


def test_with_no_good_checkpoint_the_run_starts_over_and_says_so(
    tiny: Configure, unbroken: Callable[[RunConfig], Story], cut_short: RunDir
) -> None:
    truncate(cut_short.checkpoint(4))
    flip_tensor_bit(cut_short.checkpoint(8))
    execute(damageable(tiny), cut_short.root)
    assert [rejection.checkpoint_step for rejection in rejections(cut_short.root)] == [8, 4]
    assert "no checkpoint can be used; the run starts from the beginning" in notices(cut_short.root)
    assert_same_story(cut_short.root, unbroken(damageable(tiny)))


def test_the_rejections_stand_among_the_events_that_still_hold(tiny: Configure, cut_short: RunDir) -> None:
    truncate(cut_short.checkpoint(8))
    execute(damageable(tiny), cut_short.root)
    kept = [event for event in effective(cut_short.read_events()) if isinstance(event, CheckpointRejected)]
    assert kept == rejections(cut_short.root) != []


def test_a_refused_later_checkpoint_does_not_push_out_the_new_ones(tiny: Configure, cut_short: RunDir) -> None:
    config = tiny("checkpoint.every_steps=2", "checkpoint.keep_last=1", "checkpoint.keep_best=false")
    truncate(cut_short.checkpoint(8))
    with pytest.raises(Killed):
        execute(config, cut_short.root, KillAt(6))
    good = [step for step in cut_short.checkpoint_steps() if step != 8]
    assert good == [6]
    execute(config, cut_short.root)
    assert resumed_steps(cut_short.root) == [4, 6]


def test_a_damaged_best_checkpoint_does_not_keep_a_run_from_its_end(
    tiny: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([3.0, 2.0, 1.0])
    monkeypatch.setattr(
        "gan_mhe.tasks.gan.GanTask.evaluate", lambda self, *, fresh, control: {"inception_score": next(scores)}
    )

    class Damage:
        def emit(self, event: Event) -> None:
            if isinstance(event, SampleGrid) and event.step == 12:
                flip_tensor_bit(RunDir(tmp_path).checkpoint(4))

    result = execute(tiny("evaluation.every_steps=4", preset="digits_cnn"), tmp_path, Damage())
    assert (result.status, result.best) == ("completed", None)
    assert result.final is not None and result.final.scores == {"inception_score": 1.0}
    assert "the best checkpoint, of step 4, is not scored again" in notices(tmp_path)[-1]


# --- cut short as processes


def wait_for(path: Path, process: Piped, timeout_seconds: float = 120) -> None:
    deadline = time.monotonic() + timeout_seconds
    while not path.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            pytest.fail(f"{path.name} never came: {process.communicate()}")
        time.sleep(0.001)


def train_arguments(keys: Sequence[str], *options: str) -> list[str]:
    return ["train", "debug_cpu", "--run-dir", "run", *options, *(part for key in keys for part in ("--set", key))]


@pytest.fixture
def keys(tiny_keys: tuple[str, ...]) -> tuple[str, ...]:
    return (*tiny_keys, *LONG)


@pytest.mark.parametrize(
    ("artefact", "at_least"),
    [("checkpoints/step_00000008", 8), ("samples/step_00000100.png", 96)],
    ids=["after the first checkpoint", "in the middle"],
)
def test_a_killed_process_resumes_to_the_same_end(
    tiny: Configure,
    unbroken: Callable[[RunConfig], Story],
    start_command: Start,
    keys: tuple[str, ...],
    tmp_path: Path,
    artefact: str,
    at_least: int,
) -> None:
    process = start_command(*train_arguments(keys))
    wait_for(tmp_path / "run" / artefact, process)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    execute(tiny(*LONG), tmp_path / "run")
    [step] = resumed_steps(tmp_path / "run")
    assert at_least <= step < 200
    assert_same_story(tmp_path / "run", unbroken(tiny(*LONG)))


KILL_ITSELF = """
import os, signal
replace, armed = os.replace, []
def replace_or_die(source, target):
    armed.extend(["yes"] if "step_00000016" in str(target) else [])
    if armed and {name!r} == os.path.basename(target):
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)
os.replace = replace_or_die
"""


@pytest.mark.parametrize("name", ["tensors.safetensors", "manifest.json", "step_00000016"])
def test_a_process_killed_while_it_writes_a_checkpoint_resumes_to_the_same_end(
    tiny: Configure,
    unbroken: Callable[[RunConfig], Story],
    start_command: Start,
    tiny_keys: tuple[str, ...],
    tmp_path: Path,
    name: str,
) -> None:
    stateful = (*STATEFUL[:1], *STATEFUL[2:], "training.steps=20", "checkpoint.every_steps=8")
    arguments = train_arguments((*tiny_keys, *stateful), "--variant", "mhe_sn")
    process = start_command(*arguments, before=KILL_ITSELF.format(name=name))
    assert process.wait(timeout=120) == -signal.SIGKILL
    place = RunDir(tmp_path / "run")
    assert place.checkpoint_steps() == [8]
    assert list(place.checkpoints.glob(".step_00000016.*.tmp")), "it was to die with the checkpoint half written"
    config = tiny(*stateful, variant="mhe_sn")
    execute(config, place.root)
    assert resumed_steps(place.root) == [8]
    assert not list(place.root.rglob(".*.tmp"))
    assert_same_story(place.root, unbroken(config))


def test_a_terminated_process_saves_and_resumes_to_the_same_end(
    tiny: Configure,
    unbroken: Callable[[RunConfig], Story],
    start_command: Start,
    keys: tuple[str, ...],
    tmp_path: Path,
) -> None:
    process = start_command(*train_arguments(keys))
    wait_for(tmp_path / "run" / "samples" / "step_00000020.png", process)
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=120)
    assert (process.returncode, errors) == (130, "")
    assert "stopping: finishing and saving this step first" in output
    result = RunDir(tmp_path / "run").read_result()
    assert result is not None and result["status"] == "stopped"
    assert f"stopped at step {result['step']}; run the same command with --resume to continue" in output
    execute(tiny(*LONG), tmp_path / "run")
    assert resumed_steps(tmp_path / "run") == [result["step"]]
    assert_same_story(tmp_path / "run", unbroken(tiny(*LONG)))


FILL_THE_DISK = """
import resource
from gan_mhe.records import checkpoint
save = checkpoint.save
def save_on_a_full_disk(directory, content):
    if content.step >= 16:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
    return save(directory, content)
checkpoint.save = save_on_a_full_disk
"""


def test_a_full_disk_fails_the_run_and_spares_the_older_checkpoint(
    tiny: Configure,
    unbroken: Callable[[RunConfig], Story],
    start_command: Start,
    tiny_keys: tuple[str, ...],
    tmp_path: Path,
) -> None:
    longer = ("training.steps=20", "checkpoint.every_steps=8")
    process = start_command(*train_arguments((*tiny_keys, *longer)), before=FILL_THE_DISK)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    assert errors.startswith("error: cannot write ") and errors.endswith("File too large\n")
    assert errors.count("\n") == 1
    place = RunDir(tmp_path / "run")
    assert place.checkpoint_steps() == [8]
    assert checkpoint.load(place.checkpoint(8)).step == 8
    assert not list(place.root.rglob(".*.tmp"))
    last = json.loads(place.events.read_text().splitlines()[-1])
    assert (last["type"], last["reason"]) == ("finished", "failed")
    execute(tiny(*longer), place.root)
    assert_same_story(place.root, unbroken(tiny(*longer)))


def test_a_checkpoint_that_does_not_fit_the_networks_stops_the_run(tiny: Configure, cut_short: RunDir) -> None:
    found = checkpoint.load(cut_short.checkpoint(8))
    fewer = {name: tensor for name, tensor in found.tensors.items() if name != next(reversed(found.tensors))}
    checkpoint.save(cut_short.checkpoint(8), checkpoint.Checkpoint(8, found.lineage, fewer, found.notes))
    with pytest.raises(CheckpointError, match="does not fit"):
        execute(damageable(tiny), cut_short.root)
    assert cut_short.checkpoint_steps() == [4, 8]
