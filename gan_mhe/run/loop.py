"""`execute`: from a configuration to a finished run directory, however often the process dies in between.

One loop decides when to report, sample, evaluate, save and stop. What is computed belongs to the task; what is
remembered lies in the run directory; only this file and the recorder look at a clock.
"""

import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gan_mhe.config.names import PRIMARY_METRIC
from gan_mhe.config.run_config import RunConfig
from gan_mhe.errors import CheckpointError, ConfigError, DivergedError, StorageError
from gan_mhe.evaluation.metrics import METRICS
from gan_mhe.files import atomic_write, remove_temporaries, sha256_bytes, write_json
from gan_mhe.records import checkpoint as checkpoints
from gan_mhe.records.checkpoint import Checkpoint
from gan_mhe.records.environment import describe_environment
from gan_mhe.records.events import (
    CheckpointRejected,
    CheckpointSaved,
    Evaluated,
    EventSink,
    Finished,
    Progress,
    RunControl,
    SampleGrid,
    Scalars,
    Started,
)
from gan_mhe.records.recorder import Recorder
from gan_mhe.records.result import RunResult, Score, decode, encode, read_curve
from gan_mhe.records.run_dir import RunDir
from gan_mhe.tasks.base import Task
from gan_mhe.tasks.gan import GanTask
from gan_mhe.training.precision import resolve_device


@dataclass
class RunState:
    """What a run must know besides its tensors to go on as if it had never stopped."""

    best: Score | None = None
    final: Score | None = None
    evaluations: int = 0
    train_seconds: float = 0.0
    peak_memory_bytes: int = 0
    curve: tuple[Score, ...] = ()

    def notes(self) -> dict[str, Any]:
        notes: dict[str, Any] = encode(asdict(self))
        return notes

    @classmethod
    def from_notes(cls, notes: Mapping[str, Any]) -> "RunState":
        values = decode(notes)
        best, final = (Score(**values[key]) if values[key] else None for key in ("best", "final"))
        peak = values.get("peak_memory_bytes", 0)  # checkpoints of versions that did not say are taken up too
        return cls(best, final, values["evaluations"], values["train_seconds"], peak, read_curve(values))


def execute(
    config: RunConfig, run_dir: Path | str, sink: EventSink | None = None, control: RunControl | None = None
) -> RunResult:
    """Train as `config` says, in `run_dir`; continue there if a run with the same configuration was begun.

    Events go to the run directory and to `sink`; `control` is asked after every step whether to stop. Returns when
    the run is completed or stopped; a run that was completed before is left as it is. Raises GanMheError otherwise:
    DivergedError when a loss or gradient is not finite, ConfigError when the directory holds another configuration,
    MemoryLimitError when a step would not fit into what the device has free, StorageError when the disk refuses.
    """
    place = RunDir(Path(run_dir))
    with place.locked():
        _check_continues(place, config)
        finished = _finished_result(place, config)
        if finished:
            return finished
        _claim(place, config)
        with Recorder(place, [sink] if sink else []) as recorder:
            return _Run(config, place, recorder, control).execute()


def begun(place: RunDir) -> bool:
    """Whether there is anything to continue. A run that failed before its first picture left nothing to lose."""
    return place.exists() and (place.sample(0).exists() or bool(place.checkpoint_steps()))


def _check_continues(place: RunDir, config: RunConfig) -> None:
    """ConfigError when steps were made here under a configuration that `config` does not continue."""
    changes = config.changes_on_resume(place.read_config()) if begun(place) else []
    if changes:
        raise ConfigError(f"{place.root} was begun with another configuration: {'; '.join(changes)}")


def _claim(place: RunDir, config: RunConfig) -> None:
    """Write the configuration and the environment, once it is known that the device is there."""
    environment = describe_environment(resolve_device(config.training.device))
    remove_temporaries(place.root)
    remove_temporaries(place.samples)
    remove_temporaries(place.checkpoints)
    write_json(place.config, config.document())
    write_json(place.environment, environment)


def _finished_result(place: RunDir, config: RunConfig) -> RunResult | None:
    document = place.read_result() if begun(place) else None
    if document is None or document["status"] != "completed" or document["step"] < config.training.steps:
        return None
    return RunResult.from_document(document)


class _Run:
    def __init__(self, config: RunConfig, place: RunDir, recorder: Recorder, control: RunControl | None) -> None:
        self.config = config
        self.place = place
        self.recorder = recorder
        self.control = control
        self.state = RunState()
        self.step = 0
        self.told: tuple[str, ...] = ()

    def execute(self) -> RunResult:
        try:
            self.task: Task = GanTask(self.config, to_train=True)
            completed = self._train()
            result = self._conclude() if completed else self._result("stopped")
            write_json(self.place.result, result.document())
        except DivergedError as error:
            self.step = error.step
            write_json(self.place.result, self._result("diverged", str(error)).document())
            self._last_words("diverged", error)
            raise
        except Exception as error:
            self._last_words("failed", error)
            raise
        self.recorder.emit(Finished(self.step, result.status, ""))
        return result

    def _train(self) -> bool:
        """The loop. True when all steps are done, False when control asked to stop."""
        config, total = self.config, self.config.training.steps
        refused = self._resume()
        self.recorder.emit(Started(self.step, total, resumed=self.step > 0))
        self.place.result.unlink(missing_ok=True)  # it told of the steps so far
        for checkpoint_step, why in refused.items():
            self.recorder.emit(CheckpointRejected(self.step, checkpoint_step, why))
        if refused and self.step == 0:
            self.recorder.notice(0, "no checkpoint can be used: the run starts over")
        if self.step == 0:
            self._tell_notes()
            self._sample()
        self.told = self.task.notes  # of a run that is taken up again, at its beginning

        first, trained_before = self.step, self.state.train_seconds
        clock = time.monotonic()
        while self.step < total:
            self.task.set_step(self.step)
            self.task.step()
            self.step += 1

            report = self._due(config.training.report_every_steps)
            sample = self._due(config.sampling.every_steps)
            evaluate = self.task.protocol is not None and self._due(config.evaluation.every_steps)
            save = self._due(config.checkpoint.every_steps)
            stop = self.step < total and self.control is not None and self.control.should_stop()
            if not (report or sample or evaluate or save or stop):
                continue

            # Waits for the device. Nothing is shown, scored or saved before it is known to be finite.
            try:
                self.task.check()
            finally:
                self.state.train_seconds += time.monotonic() - clock
            if report:
                self._report((self.step - first) / max(self.state.train_seconds - trained_before, 1e-9))
            if sample:
                self._sample()
            improved = evaluate and self._evaluate()
            if save or stop or (improved and config.checkpoint.keep_best):
                self._save()
            if stop:
                return False
            clock = time.monotonic()
        return True

    def _tell_notes(self) -> None:
        for note in self.task.notes:
            if note not in self.told:
                self.recorder.notice(self.step, note)
        self.told = self.task.notes

    def _due(self, every_steps: int) -> bool:
        """Every so many steps, and always after the last one."""
        return self.step == self.config.training.steps or (every_steps > 0 and self.step % every_steps == 0)

    def _resume(self) -> dict[int, str]:
        """Go to the newest checkpoint that is whole; return what is wrong with the newer ones, by step."""
        lineage, refused = self.config.digest("resumable"), dict[int, str]()
        for step in reversed(self.place.checkpoint_steps()):
            try:
                found = checkpoints.load(self.place.checkpoint(step), lineage=lineage)
            except CheckpointError as error:
                refused[step] = str(error)
                continue
            self._restore(found)
            break
        return refused

    def _restore(self, found: Checkpoint) -> None:
        self.task.load_state(found.tensors)
        self.step, self.state = found.step, RunState.from_notes(found.notes)

    def _report(self, steps_per_second: float) -> None:
        total = self.config.training.steps
        images_per_second = steps_per_second * self.task.images_per_step
        left = (total - self.step) / steps_per_second
        self._tell_notes()
        self.recorder.emit(Scalars(self.step, self.task.scalars()))
        self.recorder.emit(Progress(self.step, total, steps_per_second, images_per_second, left, self._peak()))

    def _peak(self) -> int:
        """The most memory that this process or an earlier one of the run has held, remembered."""
        self.state.peak_memory_bytes = max(self.state.peak_memory_bytes, self.task.peak_memory_bytes())
        return self.state.peak_memory_bytes

    def _sample(self) -> None:
        path, content = self.place.sample(self.step), self.task.picture()
        atomic_write(path, content)
        self.recorder.emit(SampleGrid(self.step, self.place.relative(path), sha256_bytes(content)))

    def _evaluate(self) -> bool:
        """Score the generator; whether it is the best so far."""
        last = self.step == self.config.training.steps
        score = self._score("final" if last else "scheduled")
        self.state.evaluations += 1
        self.state.curve += (score,)
        if last:
            self.state.final = score
        best = self.state.best.scores[PRIMARY_METRIC] if self.state.best else None
        better = METRICS[PRIMARY_METRIC].better(score.scores[PRIMARY_METRIC], best)
        if better:
            self.state.best = score
        return better

    def _score(self, purpose: str) -> Score:
        assert self.task.protocol is not None
        began = time.monotonic()
        score = Score(self.step, self.task.evaluate(fresh=purpose == "best_rescored"))
        seconds = time.monotonic() - began
        self.recorder.emit(
            Evaluated(self.step, purpose, score.scores, self.task.protocol, self.task.fingerprints, seconds)
        )
        return score

    def _save(self) -> None:
        path = self.place.checkpoint(self.step)
        self._peak()
        content = Checkpoint(self.step, self.config.digest("resumable"), self.task.state(), self.state.notes())
        digest = checkpoints.save(path, content)
        self.recorder.emit(CheckpointSaved(self.step, self.place.relative(path), digest))
        # Later steps are there when they were refused; counted as newest, they would push out what was just saved.
        checkpoints.prune(
            {step: self.place.checkpoint(step) for step in self.place.checkpoint_steps() if step <= self.step},
            keep_last=self.config.checkpoint.keep_last,
            pinned=self.state.best.step if self.state.best and self.config.checkpoint.keep_best else None,
        )

    def _conclude(self) -> RunResult:
        """The result of a completed run: the best of several generators is scored again with fresh latents."""
        best = self.state.final
        if self.state.evaluations > 1:
            best = self._rescore_best()
        return self._result("completed", final=self.state.final, best=best)

    def _rescore_best(self) -> Score | None:
        """None where the best generator was not kept, or what was kept is damaged."""
        chosen = self.state.best
        if chosen is None or not self.place.checkpoint(chosen.step).exists():
            return None
        final_step, state = self.step, self.state
        try:
            found = checkpoints.load(self.place.checkpoint(chosen.step), lineage=self.config.digest("resumable"))
        except CheckpointError as error:
            self.recorder.notice(self.step, f"the best generator, of step {chosen.step}, is not scored again: {error}")
            return None
        self._restore(found)
        score = self._score("best_rescored")
        self.step, self.state = final_step, state
        return score

    def _result(
        self, status: str, message: str = "", final: Score | None = None, best: Score | None = None
    ) -> RunResult:
        return RunResult(
            status=status,
            step=self.step,
            variant=self.config.variant,
            seed=self.config.seed,
            digest=self.config.digest(),
            protocol=self.task.protocol,
            fingerprints=self.task.fingerprints,
            metric=PRIMARY_METRIC,
            final=final,
            best=best,
            evaluations=self.state.evaluations,
            real=self.task.real_scores() if self.task.protocol else None,
            train_seconds=self.state.train_seconds,
            message=message,
            peak_memory_bytes=self._peak(),
            curve=self.state.curve,
        )

    def _last_words(self, reason: str, error: Exception) -> None:
        """Say why, if the disk still takes it; the error itself goes on to the caller either way."""
        with suppress(StorageError):
            self.recorder.emit(Finished(self.step, reason, str(error)))
