"""A score can be killed, stopped and run out of memory without a loss, and a resumed run makes up for it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from PIL import Image

from gan_mhe.config.run_config import RunConfig
from gan_mhe.errors import MemoryLimitError
from gan_mhe.evaluation.evaluator import Evaluator
from gan_mhe.records import checkpoint
from gan_mhe.records.events import CheckpointSaved, Evaluated, Event, Notice, Started, effective
from gan_mhe.records.result import RunResult
from gan_mhe.records.run_dir import RunDir
from gan_mhe.run.loop import execute
from gan_mhe.tasks.gan import GanTask
from gan_mhe.training import host_memory

Configure = Callable[..., RunConfig]
KEYS = ("evaluation.every_steps=4", "checkpoint.every_steps=4", "training.steps=8", "evaluation.num_samples=600")


class Killed(BaseException):
    """Ends a run in this process the way a signal would: nothing catches it."""


@dataclass
class At:
    """A control that asks for a stop, or kills, at the n-th time that a score asks it."""

    asked: int
    kill: bool = False
    in_score: bool = False

    def should_stop(self) -> bool:
        self.asked -= self.in_score
        if self.asked > 0:
            return False
        if self.kill:
            raise Killed
        return True


@pytest.fixture(scope="module")
def config(tiny: Configure) -> RunConfig:
    """Scored at 4 and at the last step, 8, and then the best once more; each score asks its control four times."""
    return tiny(*KEYS, preset="digits_cnn")


@pytest.fixture(scope="module")
def unbroken(config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    place = RunDir(tmp_path_factory.mktemp("unbroken"))
    execute(config, place.root)
    return place


@pytest.fixture
def run(config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[At | None], RunResult]:
    """Execute the configuration in `tmp_path` under a control that counts within scores alone."""
    score = Evaluator.score

    def within(self: Evaluator, *arguments: object, control: At | None, **how: object) -> dict[str, float]:
        if control is not None:
            control.in_score = True
        try:
            return score(self, *arguments, control=control, **how)  # type: ignore[arg-type]
        finally:
            if control is not None:
                control.in_score = False

    monkeypatch.setattr(Evaluator, "score", within)
    return lambda control: execute(config, tmp_path, control=control)


def notes(place: RunDir, step: int) -> dict[str, object]:
    found = checkpoint.load(place.checkpoint(step)).notes
    return {key: value for key, value in found.items() if key not in ("train_seconds", "peak_memory_bytes")}


def counted(place: RunDir) -> list[tuple[int, str, dict[str, float]]]:
    events = effective(place.read_events())
    return [(event.step, event.purpose, dict(event.scores)) for event in events if isinstance(event, Evaluated)]


def assert_same_end(place: RunDir, expected: RunDir) -> None:
    results = [directory.read_result() for directory in (place, expected)]
    first, second = (
        {key: found[key] for key in ("status", "step", "final", "best", "curve", "evaluations", "real")}
        for found in results
        if found is not None
    )
    assert first == second
    assert counted(place) == counted(expected)
    assert place.checkpoint_steps() == expected.checkpoint_steps()
    for step in place.checkpoint_steps():
        assert notes(place, step) == notes(expected, step)
        left, right = (checkpoint.load(directory.checkpoint(step)).tensors for directory in (place, expected))
        assert all(torch.equal(left[name], right[name]) for name in right)


SCORES = {"the first score": 2, "the last step's score": 6, "the score of the best": 10}


@pytest.mark.parametrize("asked", SCORES.values(), ids=SCORES)
def test_a_run_killed_within_a_score_resumes_at_its_step_and_scores_again(
    run: Callable[[At | None], RunResult], unbroken: RunDir, tmp_path: Path, asked: int
) -> None:
    with pytest.raises(Killed):
        run(At(asked, kill=True))
    place = RunDir(tmp_path)
    assert place.checkpoint_steps()[-1] == (4 if asked == 2 else 8)
    run(None)
    assert [event.step for event in place.read_events() if isinstance(event, Started)][1] == (4 if asked == 2 else 8)
    assert_same_end(place, unbroken)


@pytest.mark.parametrize("asked", SCORES.values(), ids=SCORES)
def test_a_stop_within_a_score_is_heard_and_the_resumed_run_scores(
    run: Callable[[At | None], RunResult], unbroken: RunDir, tmp_path: Path, asked: int
) -> None:
    stopped = run(At(asked))
    assert (stopped.status, stopped.step) == ("stopped", 4 if asked == 2 else 8)
    assert run(None).status == "completed"
    assert_same_end(RunDir(tmp_path), unbroken)


def test_a_stop_within_a_score_saves_where_no_checkpoint_was_due(tiny: Configure, tmp_path: Path) -> None:
    config = tiny(*KEYS, "checkpoint.every_steps=0", preset="digits_cnn")

    class Always:
        def should_stop(self) -> bool:
            return RunDir(tmp_path).sample(4).exists()

    assert execute(config, tmp_path, control=Always()).status == "stopped"
    assert RunDir(tmp_path).checkpoint_steps() == [4]
    assert notes(RunDir(tmp_path), 4)["evaluation_due"] is True


def test_a_score_that_is_recorded_already_is_not_made_again(
    config: RunConfig, unbroken: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class KillAfterFirstScore:
        def emit(self, event: Event) -> None:
            if isinstance(event, Evaluated):
                raise Killed

    with pytest.raises(Killed):
        execute(config, tmp_path, KillAfterFirstScore())
    made: list[bool] = []
    evaluate = GanTask.evaluate
    monkeypatch.setattr(GanTask, "evaluate", lambda self, **how: made.append(how["fresh"]) or evaluate(self, **how))
    execute(config, tmp_path)
    assert made == [False, True]  # of the last step, and of the best again
    assert_same_end(RunDir(tmp_path), unbroken)


def test_a_due_checkpoint_is_saved_before_its_score(unbroken: RunDir) -> None:
    order = [event.type for event in unbroken.read_events() if isinstance(event, CheckpointSaved | Evaluated)]
    assert order == ["checkpoint_saved", "evaluated", "checkpoint_saved", "evaluated", "evaluated"]


def test_a_run_whose_score_runs_out_of_memory_keeps_its_steps(
    config: RunConfig, unbroken: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr("gan_mhe.evaluation.scores.compute_scores", fail)
        with pytest.raises(MemoryLimitError, match=r"^evaluation\.num_samples = 600: a score ran out of memory"):
            execute(config, tmp_path)
    assert RunDir(tmp_path).checkpoint_steps() == [4]
    execute(config, tmp_path)
    assert_same_end(RunDir(tmp_path), unbroken)


def test_more_samples_than_fit_into_memory_are_refused_before_the_first_step(
    tiny: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_memory, "free_bytes", lambda device: 2**32)
    config = tiny("evaluation.num_samples=100000000000", preset="digits_cnn")
    fit = 2**32 // (2 * 4 * (48 + 10))  # float32 features and logits, in parts and in one piece
    with pytest.raises(MemoryLimitError, match=rf"num_samples = 100,000,000,000 needs .* {fit:,} would fit$"):
        execute(config, tmp_path)
    assert not RunDir(tmp_path).sample(0).exists()


def test_a_run_on_data_without_a_protocol_says_once_that_it_is_not_scored(tiny: Configure, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for index in range(4):
        Image.new("RGB", (32, 32), (40 * index, 0, 0)).save(photos / f"{index}.png")
    config = tiny("training.steps=3", f"data.root={photos}", "data.name=image_folder")
    execute(config, tmp_path / "run")
    told = [event.message for event in RunDir(tmp_path / "run").read_events() if isinstance(event, Notice)]
    [notice] = [message for message in told if message.startswith("evaluation.protocol is none")]
    assert "no protocol is made for image_folder" in notice


def test_a_run_scored_by_a_classifier_of_other_data_says_so(tiny: Configure, tmp_path: Path) -> None:
    execute(tiny("training.steps=1", "data.name=synthetic", preset="digits_cnn"), tmp_path)
    told = [event.message for event in RunDir(tmp_path).read_events() if isinstance(event, Notice)]
    assert any("digits-v1: its classifier was trained on digits (10 classes: 0, 1, 2, ...)" in each for each in told)
