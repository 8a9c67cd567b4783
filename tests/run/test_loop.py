"""Whole runs: what they leave behind, what they say, how they end, and what they refuse."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from gan_mhe.config.constraints import RatioConfig
from gan_mhe.config.run_config import RunConfig
from gan_mhe.errors import ConfigError, DataError, DeviceError, DivergedError, MemoryLimitError, RunDirError
from gan_mhe.files import sha256_file
from gan_mhe.records import checkpoint
from gan_mhe.records.events import (
    CheckpointSaved,
    Evaluated,
    Event,
    Finished,
    Notice,
    Progress,
    SampleGrid,
    Scalars,
    Started,
)
from gan_mhe.records.result import RunResult, Score
from gan_mhe.records.run_dir import RunDir
from gan_mhe.run.loop import execute, has_progress
from gan_mhe.tasks.gan import GanTask, load_images
from gan_mhe.training import host_memory
from gan_mhe.training.trainer import Trainer

Configure = Callable[..., RunConfig]
DIVERGING = (
    "loss=wasserstein",
    "discriminator.architecture=cnn_official",
    "optimizer.discriminator_lr=0.3",
    "optimizer.generator_lr=4e-4",
    "optimizer.schedule.kind=constant",
    "training.steps=40",
    "checkpoint.every_steps=4",
)


@dataclass
class Listener:
    """A sink that remembers."""

    events: list[Event] = field(default_factory=list)

    def emit(self, event: Event) -> None:
        self.events.append(event)


@dataclass
class StopAfter:
    """A control that asks for a stop once it was asked `steps` times."""

    steps: int
    asked: int = 0

    def should_stop(self) -> bool:
        self.asked += 1
        return self.asked >= self.steps


@dataclass(frozen=True)
class Run:
    place: RunDir
    config: RunConfig
    result: RunResult
    heard: list[Event]

    def journal(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.place.events.read_text().splitlines()]


def train(config: RunConfig, root: Path, control: StopAfter | None = None) -> Run:
    listener = Listener()
    return Run(RunDir(root), config, execute(config, root, listener, control), listener.events)


def tree(root: Path) -> dict[str, tuple[bytes, int]]:
    """Every file below `root` with its content and time of change."""
    files = (path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def tensors(place: RunDir, step: int) -> dict[str, torch.Tensor]:
    return dict(checkpoint.load(place.checkpoint(step)).tensors)


def assert_equal_tensors(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


@pytest.fixture(scope="module")
def scored(tiny: Configure, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A completed run on the digits with three evaluations."""
    return train(tiny("evaluation.every_steps=4", preset="digits_cnn"), tmp_path_factory.mktemp("run") / "scored")


@pytest.fixture(scope="module")
def plain(tiny: Configure, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A completed run without scores."""
    return train(tiny(), tmp_path_factory.mktemp("run") / "plain")


@pytest.fixture
def scripted_scores(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[float], float], None]:
    """Replace the evaluator: one Inception score an evaluation, another for fresh latents."""

    def script(scheduled: list[float], fresh_score: float) -> None:
        scores: Iterator[float] = iter(scheduled)

        def evaluate(self: GanTask, *, fresh: bool, control: object = None) -> dict[str, float]:
            return {"inception_score": fresh_score if fresh else next(scores)}

        monkeypatch.setattr(GanTask, "evaluate", evaluate)

    return script


# --- what a run leaves behind


def test_a_run_leaves_its_artefacts_and_nothing_else(scored: Run) -> None:
    place = scored.place
    named = [
        place.config,
        place.environment,
        place.data,
        place.scorer,
        place.events,
        place.log,
        place.result,
        place.root / ".lock",
    ]
    named += [place.sample(step) for step in (0, 4, 8, 12)]
    kept = {scored.result.best.step, 10, 12} if scored.result.best else set()
    named += [place.checkpoint(step) / name for step in kept for name in ("manifest.json", "tensors.safetensors")]
    assert set(tree(place.root)) == {str(path.relative_to(place.root)) for path in named}


def test_the_saved_configuration_reads_back_as_the_same_experiment(scored: Run) -> None:
    assert scored.place.read_config() == scored.config
    assert scored.place.read_config().digest() == scored.config.digest() == scored.result.digest


def test_the_environment_names_versions_device_and_command(plain: Run) -> None:
    environment = json.loads(plain.place.environment.read_text())
    assert environment["packages"]["torch"] == torch.__version__.partition("+")[0]
    assert (environment["device"], environment["threads"]) == ("cpu", torch.get_num_threads())
    assert environment["command"]


def test_a_run_says_records_and_returns_what_its_data_hold(scored: Run) -> None:
    held = load_images(scored.config).summary
    assert (held.images, held.classes["0"], held.passed_over) == (1797, 178, {})
    assert scored.place.read_data() == scored.result.data == held
    assert scored.heard[1] == Notice(0, f"data: {held.line()}")


def test_events_are_numbered_without_gaps_and_carry_ascending_times(scored: Run) -> None:
    journal = scored.journal()
    assert [entry["seq"] for entry in journal] == list(range(len(journal)))
    assert all(entry["time"].endswith("Z") for entry in journal)
    times = [datetime.fromisoformat(entry["time"]) for entry in journal]
    assert all(earlier <= later for earlier, later in pairwise(times))


def test_events_begin_with_started_and_end_with_finished(scored: Run) -> None:
    assert scored.heard[0] == Started(0, 12, resumed=False)
    assert scored.heard[-1] == Finished(12, "completed", "")


def test_a_sink_hears_what_the_journal_holds_and_the_log_has_a_line_for_each(scored: Run) -> None:
    assert list(scored.place.read_events()) == scored.heard
    assert len(scored.place.log.read_text().splitlines()) == len(scored.heard)


def test_a_tick_reports_samples_saves_and_evaluates_in_this_order(scored: Run) -> None:
    last_tick = [event.type for event in scored.heard if event.step == 12 and isinstance(event, Event)]
    assert last_tick[:5] == ["scalars", "progress", "sample_grid", "checkpoint_saved", "evaluated"]


def test_each_duty_comes_at_its_own_interval_and_after_the_last_step(scored: Run) -> None:
    def steps(kind: type) -> list[int]:
        return [event.step for event in scored.heard if isinstance(event, kind)]

    assert steps(Scalars) == [3, 6, 9, 12]
    assert steps(SampleGrid) == [0, 4, 8, 12]
    assert set(steps(CheckpointSaved)) >= {5, 10, 12}
    assert [(e.step, e.purpose) for e in scored.heard if isinstance(e, Evaluated)][:3] == [
        (4, "scheduled"),
        (8, "scheduled"),
        (12, "final"),
    ]


def test_a_step_is_saved_once_even_when_it_is_the_best_and_the_last(scored: Run) -> None:
    saved = [event.step for event in scored.heard if isinstance(event, CheckpointSaved)]
    assert len(saved) == len(set(saved))


def test_events_name_files_with_their_hashes(scored: Run) -> None:
    for event in scored.heard:
        if isinstance(event, SampleGrid):
            assert sha256_file(scored.place.root / event.path) == event.sha256
    saved = [event for event in scored.heard if isinstance(event, CheckpointSaved)][-1]
    assert json.loads((scored.place.root / saved.path / "manifest.json").read_text())["sha256"] == saved.sha256


def test_sample_grids_differ_between_steps(scored: Run) -> None:
    grids = {event.sha256 for event in scored.heard if isinstance(event, SampleGrid)}
    assert len(grids) == 4


def test_the_result_file_holds_the_result(scored: Run) -> None:
    assert RunResult.from_document(json.loads(scored.place.result.read_text())) == scored.result


def test_a_result_with_non_finite_scores_survives_json(scored: Run) -> None:
    scores = {"inception_score": float("nan"), "fid": float("inf"), "kid": float("-inf")}
    curve = (Score(4, scores), Score(12, scores))
    result = replace(scored.result, final=Score(12, scores), best=None, curve=curve, evaluations=2)
    document = json.loads(json.dumps(result.document(), allow_nan=False))
    assert repr(RunResult.from_document(document)) == repr(result)


def test_a_curve_that_lacks_evaluations_is_none(scored: Run) -> None:
    document = replace(scored.result, curve=scored.result.curve[1:]).document()
    assert RunResult.from_document(document).curve == ()


def test_the_one_fingerprint_of_an_older_result_counts_for_each_score(scored: Run) -> None:
    document = json.loads(scored.place.result.read_text())
    names = list(document.pop("fingerprints"))
    read = RunResult.from_document({**document, "fingerprint": "ab"})
    assert read == replace(scored.result, fingerprints=dict.fromkeys(names, "ab"))


def test_a_result_of_a_version_that_did_not_tell_memory_is_read(scored: Run) -> None:
    document = {key: value for key, value in scored.result.document().items() if key != "peak_memory_bytes"}
    assert RunResult.from_document(document) == replace(scored.result, peak_memory_bytes=None)


def test_an_older_result_without_a_curve_is_read(scored: Run) -> None:
    document = {key: value for key, value in scored.result.document().items() if key != "curve"}
    assert RunResult.from_document(document) == replace(scored.result, curve=())


def test_an_older_result_without_its_data_is_read(scored: Run) -> None:
    document = {key: value for key, value in scored.result.document().items() if key != "data"}
    assert RunResult.from_document(document) == replace(scored.result, data=None)


def test_peak_memory_is_in_every_report_and_in_the_result(plain: Run) -> None:
    told = [event.peak_memory_bytes or 0 for event in plain.heard if isinstance(event, Progress)]
    assert plain.result.peak_memory_bytes is not None
    assert 64 * 2**20 < told[0] <= told[1] <= told[2] <= told[3] <= plain.result.peak_memory_bytes


def test_a_run_computes_what_its_trainer_computes_step_by_step(plain: Run) -> None:
    trainer = Trainer(plain.config, load_images(plain.config).images, torch.device("cpu"))
    for step in range(12):
        trainer.set_step(step)
        trainer.step()
    trainer.meter.read()
    assert_equal_tensors(tensors(plain.place, 12), trainer.state())


# --- scores


def test_the_best_generator_is_scored_again_with_fresh_latents(scored: Run) -> None:
    evaluated = [event for event in scored.heard if isinstance(event, Evaluated)]
    rescored = [event for event in evaluated if event.purpose == "best_rescored"]
    assert len(rescored) == 1
    assert scored.result.best is not None
    assert scored.result.best.scores == rescored[0].scores
    chosen = next(event for event in evaluated if event.step == rescored[0].step)
    assert chosen.scores["fid"] != rescored[0].scores["fid"]
    assert chosen.scores["fid"] == pytest.approx(rescored[0].scores["fid"], rel=0.2)


def test_a_result_names_protocol_fingerprints_and_the_score_of_real_data(scored: Run) -> None:
    result = scored.result
    evaluated = [event for event in scored.heard if isinstance(event, Evaluated)]
    assert {event.protocol for event in evaluated} == {result.protocol} == {"digits-v1"}
    assert result.final is not None and result.fingerprints.keys() == result.final.scores.keys()
    assert all(event.fingerprints == result.fingerprints for event in evaluated)
    assert result.evaluations == 3
    assert result.real is not None and 5 < result.real["inception_score"] < 7  # of 100 images, as many as generated


def test_the_curve_is_every_evaluation_in_order_without_the_rescoring(scored: Run) -> None:
    evaluated = [event for event in scored.heard if isinstance(event, Evaluated) and event.purpose != "best_rescored"]
    assert scored.result.curve == tuple(Score(event.step, event.scores) for event in evaluated)
    assert [score.step for score in scored.result.curve] == [4, 8, 12]
    assert scored.result.curve[-1] == scored.result.final


def test_a_run_that_was_stopped_and_continued_has_the_whole_curve(
    tiny: Configure, tmp_path: Path, scripted_scores: Callable[[list[float], float], None]
) -> None:
    scripted_scores([1.0, 3.0, float("nan"), 2.0], 2.5)
    config = tiny("training.steps=8", "evaluation.every_steps=2", preset="digits_cnn")
    stopped = train(config, tmp_path, StopAfter(5))
    assert [score.step for score in stopped.result.curve] == [2, 4]
    curve = train(config, tmp_path).result.curve
    assert repr([(score.step, score.scores["inception_score"]) for score in curve]) == (
        "[(2, 1.0), (4, 3.0), (6, nan), (8, 2.0)]"
    )


def test_with_one_evaluation_the_best_is_the_final_score_itself(tiny: Configure, tmp_path: Path) -> None:
    run = train(tiny("training.steps=2", preset="digits_cnn"), tmp_path)
    assert run.result.final is not None
    assert run.result.best == run.result.final
    assert [event.purpose for event in run.heard if isinstance(event, Evaluated)] == ["final"]


def test_the_best_checkpoint_outlives_newer_ones_and_its_first_score_is_not_reported(
    tiny: Configure, tmp_path: Path, scripted_scores: Callable[[list[float], float], None]
) -> None:
    scripted_scores([1.0, 3.0, float("nan"), 2.0], 2.5)
    keys = ("training.steps=8", "evaluation.every_steps=2", "checkpoint.every_steps=3", "checkpoint.keep_last=2")
    run = train(tiny(*keys, preset="digits_cnn"), tmp_path)
    assert [event.step for event in run.heard if isinstance(event, CheckpointSaved)] == [2, 3, 4, 6, 8]
    assert run.place.checkpoint_steps() == [4, 6, 8]
    assert run.result.final == Score(8, {"inception_score": 2.0})
    assert run.result.best == Score(4, {"inception_score": 2.5})


def test_without_keep_best_a_pruned_best_generator_is_reported_as_unknown(
    tiny: Configure, tmp_path: Path, scripted_scores: Callable[[list[float], float], None]
) -> None:
    scripted_scores([3.0, 2.0, 1.0], 2.5)
    keys = ("training.steps=6", "evaluation.every_steps=2", "checkpoint.every_steps=2", "checkpoint.keep_last=1")
    run = train(tiny(*keys, "checkpoint.keep_best=false", preset="digits_cnn"), tmp_path)
    assert run.place.checkpoint_steps() == [6]
    assert (run.result.status, run.result.best) == ("completed", None)
    assert run.result.final == Score(6, {"inception_score": 1.0})


def test_without_a_protocol_nothing_is_scored(plain: Run) -> None:
    assert not any(isinstance(event, Evaluated) for event in plain.heard)
    result = plain.result
    assert (result.protocol, result.final, result.best, result.real) == (None,) * 4
    assert result.fingerprints == {}


# --- stopping and continuing


def test_a_stop_saves_the_step_it_ends_at_and_says_so(tiny: Configure, tmp_path: Path) -> None:
    run = train(tiny(), tmp_path, StopAfter(7))
    assert (run.result.status, run.result.step) == ("stopped", 7)
    assert [event.type for event in run.heard[-2:]] == ["checkpoint_saved", "finished"]
    assert run.heard[-1] == Finished(7, "stopped", "")
    assert checkpoint.load(run.place.checkpoint(7)).step == 7
    assert json.loads(run.place.result.read_text())["status"] == "stopped"


def test_a_stopped_run_goes_on_where_it_stopped(tiny: Configure, tmp_path: Path) -> None:
    train(tiny(), tmp_path, StopAfter(7))
    run = train(tiny(), tmp_path)
    assert run.heard[0] == Started(7, 12, resumed=True)
    assert (run.result.status, run.result.step) == ("completed", 12)


def test_the_peak_memory_of_a_continued_run_is_that_of_all_its_processes(
    tiny: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(GanTask, "peak_memory_bytes", lambda self: 7000)
    train(tiny(), tmp_path, StopAfter(7))
    monkeypatch.setattr(GanTask, "peak_memory_bytes", lambda self: 5)
    run = train(tiny(), tmp_path)
    assert [event.peak_memory_bytes for event in run.heard if isinstance(event, Progress)] == [7000, 7000]
    assert run.result.peak_memory_bytes == 7000


def test_an_older_checkpoint_without_memory_and_curve_is_resumed(tiny: Configure, tmp_path: Path) -> None:
    place = train(tiny(), tmp_path, StopAfter(7)).place
    found = checkpoint.load(place.checkpoint(7))
    notes = {key: value for key, value in found.notes.items() if key not in ("peak_memory_bytes", "curve")}
    checkpoint.save(place.checkpoint(7), replace(found, notes=notes))
    assert train(tiny(), tmp_path).heard[0] == Started(7, 12, resumed=True)


def test_a_continued_run_has_no_result_until_it_has_one_again(tiny: Configure, tmp_path: Path) -> None:
    train(tiny(), tmp_path)

    class Watch:
        def should_stop(self) -> bool:
            assert not RunDir(tmp_path).result.exists()
            return False

    execute(tiny("training.steps=14"), tmp_path, control=Watch())
    assert json.loads(RunDir(tmp_path).result.read_text())["step"] == 14


def test_a_finished_run_executed_again_returns_its_result_and_touches_nothing(scored: Run) -> None:
    before = tree(scored.place.root)
    listener = Listener()
    assert execute(scored.config, scored.place.root, listener) == scored.result
    assert listener.events == []
    assert tree(scored.place.root) == before


def test_more_steps_continue_a_finished_run_as_if_it_had_been_longer_from_the_start(
    tiny: Configure, tmp_path: Path, plain: Run
) -> None:
    train(tiny("training.steps=6"), tmp_path)
    longer = train(tiny(), tmp_path)
    assert longer.heard[0] == Started(6, 12, resumed=True)
    assert_equal_tensors(tensors(longer.place, 12), tensors(plain.place, 12))
    assert longer.place.read_config().digest() == plain.config.digest()


def test_fewer_steps_than_were_made_are_refused_and_change_nothing(tiny: Configure, plain: Run) -> None:
    before = tree(plain.place.root)
    with pytest.raises(ConfigError, match=r"training\.steps was 12, is 5"):
        execute(tiny("training.steps=5"), plain.place.root)
    assert tree(plain.place.root) == before


def test_a_longer_run_under_a_decaying_schedule_is_refused(tiny: Configure, tmp_path: Path) -> None:
    decay = "optimizer.schedule.kind=linear_decay"
    train(tiny(decay, "training.steps=2"), tmp_path)
    with pytest.raises(ConfigError, match=r"training\.steps was 2, is 4"):
        execute(tiny(decay, "training.steps=4"), tmp_path)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer.generator_lr=0.001", r"optimizer\.generator_lr was 0\.0002, is 0\.001"),
        ("constraints.normalization=spectral", r"constraints\.normalization was 'none', is 'spectral'"),
        ("training.batch_size=8", r"training\.batch_size was 4, is 8"),
    ],
)
def test_a_changed_configuration_is_refused_with_key_and_both_values(
    tiny: Configure, plain: Run, override: str, message: str
) -> None:
    before = tree(plain.place.root)
    with pytest.raises(ConfigError, match=message):
        execute(tiny(override), plain.place.root)
    assert tree(plain.place.root) == before


def test_where_and_how_a_run_is_executed_may_change_on_resume(tiny: Configure, tmp_path: Path) -> None:
    train(tiny("training.steps=2"), tmp_path)
    run = train(tiny("training.steps=4", "checkpoint.every_steps=1", "checkpoint.keep_last=3"), tmp_path)
    assert run.place.checkpoint_steps() == [2, 3, 4]


def test_a_second_writer_is_refused(tiny: Configure, tmp_path: Path) -> None:
    with RunDir(tmp_path).locked(), pytest.raises(RunDirError, match="in use by another process"):
        execute(tiny(), tmp_path)
    assert not has_progress(RunDir(tmp_path))


# --- failing


def test_a_run_that_failed_before_its_first_step_leaves_nothing_in_the_way(tiny: Configure, tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="tf32"):
        execute(tiny("training.precision=tf32"), tmp_path)
    assert list(RunDir(tmp_path).read_events())[-1].type == "finished"
    run = train(tiny("training.steps=2"), tmp_path)
    assert run.result.status == "completed"
    assert run.place.read_config() == run.config


def test_missing_data_is_reported_before_any_step(tiny: Configure, tmp_path: Path) -> None:
    listener = Listener()
    with pytest.raises(DataError, match="not a folder"):
        execute(tiny("data.name=image_folder", f"data.root={tmp_path / 'nowhere'}"), tmp_path / "run", listener)
    assert [event.type for event in listener.events] == ["finished"]
    assert isinstance(listener.events[0], Finished) and listener.events[0].reason == "failed"


def test_a_run_that_cannot_fit_is_refused_before_its_first_step_and_says_what_would_fit(
    tiny: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_memory, "free_bytes", lambda device: 2**30)
    listener = Listener()
    with pytest.raises(MemoryLimitError, match=r"training\.batch_size = 100000 needs .* would fit$") as caught:
        execute(tiny("training.batch_size=100000"), tmp_path, listener)
    assert listener.events == [Finished(0, "failed", str(caught.value))]
    assert not has_progress(RunDir(tmp_path))


@pytest.fixture(scope="module")
def diverged(tiny: Configure, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunDir, list[Event], DivergedError]:
    """A critic without a bound on its growth and with a rate that makes it overflow after some steps."""
    root, listener = tmp_path_factory.mktemp("run") / "diverged", Listener()
    with pytest.raises(DivergedError) as caught:
        execute(tiny(*DIVERGING, "evaluation.every_steps=2", preset="digits_cnn"), root, listener)
    return RunDir(root), listener.events, caught.value


Diverged = tuple[RunDir, list[Event], DivergedError]


def test_divergence_names_the_term_and_the_step(diverged: Diverged) -> None:
    _, heard, error = diverged
    assert error.terms and set(error.terms) <= {"d_loss", "d_gradient", "g_loss", "g_gradient"}
    assert 4 < error.step < 40
    assert heard[-1] == Finished(error.step, "diverged", str(error))
    assert f"step {error.step}: {', '.join(error.terms)} not finite" in str(error)


def test_a_diverged_result_says_so(diverged: Diverged) -> None:
    place, _, error = diverged
    result = RunResult.from_document(json.loads(place.result.read_text()))
    assert (result.status, result.step, result.message) == ("diverged", error.step, str(error))
    assert result.final is None and result.best is None
    assert result.train_seconds > 0


def test_nothing_is_shown_scored_or_saved_after_the_fault(diverged: Diverged) -> None:
    place, heard, error = diverged
    assert max(event.step for event in heard) == error.step
    assert max(place.checkpoint_steps()) <= error.step
    assert not [path for path in place.samples.iterdir() if int(path.stem.removeprefix("step_")) > error.step]


def test_the_last_good_checkpoint_of_a_diverged_run_is_whole_and_finite(diverged: Diverged) -> None:
    place, _, error = diverged
    found = checkpoint.load(place.checkpoint(place.checkpoint_steps()[-1]))
    assert found.step >= error.step - error.step % 4
    assert all(torch.isfinite(tensor).all() for tensor in found.tensors.values())


def test_a_diverged_run_resumed_meets_the_same_fault_again(tiny: Configure, diverged: Diverged) -> None:
    place, _, error = diverged
    listener = Listener()
    with pytest.raises(DivergedError) as again:
        execute(tiny(*DIVERGING, "evaluation.every_steps=2", preset="digits_cnn"), place.root, listener)
    assert (again.value.step, again.value.terms) == (error.step, error.terms)
    assert isinstance(listener.events[0], Started) and listener.events[0].resumed


def test_a_target_ratio_that_is_not_reached_is_noticed_once(
    tiny: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RatioConfig, "is_reached", lambda *_: False)
    ratio = ("constraints.mhe.ratio.target=0.1", "constraints.mhe.ratio.horizon=5")
    for steps in (8, 12):
        execute(tiny(*ratio, f"training.steps={steps}", variant="mhe"), tmp_path)
    said = [
        event for event in RunDir(tmp_path).read_events() if isinstance(event, Notice) and "horizon" in event.message
    ]
    assert [event.step for event in said] == [6]
