"""The run loop: trains a configuration in a run directory, and resumes there when its process was killed.

The loop decides when to report, sample, evaluate, save and stop. The task does the computations, and the run directory
holds everything that a resumed run needs. Only this file and the recorder read a clock.
"""

import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from gan_mhe.config.compose import with_absolute_paths
from gan_mhe.config.run_config import RunConfig
from gan_mhe.errors import CheckpointError, ConfigError, DivergedError, RunDirError, StorageError
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
    StopRequested,
)
from gan_mhe.records.inputs import Inputs
from gan_mhe.records.recorder import Recorder
from gan_mhe.records.result import RunResult, Score, result_of
from gan_mhe.records.run_dir import RunDir
from gan_mhe.run.inputs import check_all, check_inputs
from gan_mhe.run.state import RunState, recorded_score
from gan_mhe.tasks import TASKS
from gan_mhe.tasks.base import Task
from gan_mhe.training.precision import resolve_device


def execute(
    config: RunConfig, run_dir: Path | str, sink: EventSink | None = None, control: RunControl | None = None
) -> RunResult:
    """Train `config` in `run_dir`, or resume the run of the same configuration that is there.

    sink: receives the events besides the run directory. control: asked after every step and within scores whether to
    stop. Returns when the run is completed or stopped; a run that is completed already is left as it is. Raises
    GanMheError otherwise: DivergedError if a loss or gradient is not finite, ConfigError if the directory holds another
    configuration, or the images or the weights of the scorer are not those that it has read before, MemoryLimitError if
    a step or a score does not fit into the device's free memory, StorageError if a write fails. A start that fails
    before the first grid leaves events, but no configuration: the directory is no run.
    Relative paths of the configuration begin at the working directory, and are stored as absolute ones.
    """
    run, config = RunDir(Path(run_dir)), with_absolute_paths(config)
    with run.locked():
        _check_resumable(run, config)
        finished = _finished_result(run, config)
        if finished:
            check_all([(config, run)])
            return finished
        environment = _prepare(run, config)
        with Recorder(run, [sink] if sink else []) as recorder:
            return _Run(config, run, environment, recorder, control).execute()


def has_progress(run: RunDir) -> bool:
    """Whether the directory holds a run to resume. A run that failed before its first grid has nothing to resume."""
    return run.exists() and (run.sample(0).exists() or bool(run.checkpoint_steps()))


def _check_resumable(run: RunDir, config: RunConfig) -> None:
    """ConfigError if the directory has the progress of a configuration that `config` cannot resume."""
    if not has_progress(run):
        return
    saved = run.read_config()
    if changes := config.changes_on_resume(saved):
        why = config.why_steps_are_fixed(saved)
        raise ConfigError(
            f"{run.root} holds a run of another configuration: {'; '.join(changes)}{f' ({why})' if why else ''}; "
            "use a new run directory, or fork a checkpoint at a service"
        )


def _prepare(run: RunDir, config: RunConfig) -> dict[str, Any]:
    """Remove what a killed process left; return the environment. Raises DeviceError if the device does not exist."""
    environment = describe_environment(resolve_device(config.training.device))
    remove_temporaries(run.root)
    remove_temporaries(run.samples)
    remove_temporaries(run.checkpoints)
    return environment


def _finished_result(run: RunDir, config: RunConfig) -> RunResult | None:
    """The result if the run is completed as `config` has it. RunDirError if the result is damaged or another run's."""
    document = run.read_result() if has_progress(run) else None
    if document is None or document["status"] != "completed":
        return None
    try:
        result = result_of(run.read_config(), document)
    except ValueError as error:
        raise RunDirError(f"{run.result}: {error}; remove it to train what is left of the run") from error
    return None if result.step < config.training.steps else result


class _Run:
    def __init__(
        self,
        config: RunConfig,
        run_dir: RunDir,
        environment: Mapping[str, Any],
        recorder: Recorder,
        control: RunControl | None,
    ) -> None:
        self.config = config
        self.run_dir = run_dir
        self.environment = environment
        self.recorder = recorder
        self.control = control
        self.state = RunState()
        self.step = 0
        self.saved_step = -1
        self.reported_warnings: tuple[str, ...] = ()

    def execute(self) -> RunResult:
        try:
            self.task: Task = TASKS[self.config.task](self.config, to_train=True)
            result = self._outcome()
            write_json(self.run_dir.result, result.document())
        except DivergedError as error:
            self.step = error.step
            write_json(self.run_dir.result, self._result("diverged", str(error)).document())
            self._record_end("diverged", error)
            raise
        except Exception as error:
            self._record_end("failed", error)
            raise
        self.recorder.emit(Finished(self.step, result.status, ""))
        return result

    def _outcome(self) -> RunResult:
        try:
            if self._train():
                return self._conclude()
        except StopRequested:  # within a score, which a resumed run makes again
            self._save_once()
        return self._result("stopped")

    def _train(self) -> bool:
        """Run the loop. Returns True after the last step, False if control asked to stop before."""
        config, total = self.config, self.config.training.steps
        refused = self._resume()
        self.recorder.emit(Started(self.step, total, resumed=self.step > 0))
        self.recorder.notice(self.step, f"data: {self.task.data.line()}")
        self.run_dir.result.unlink(missing_ok=True)  # it is out of date as soon as a step is made
        for checkpoint_step, why in refused.items():
            self.recorder.emit(CheckpointRejected(self.step, checkpoint_step, why))
        if refused and self.step == 0:
            self.recorder.notice(0, "no checkpoint can be used; the run starts from the beginning")
        if self.step == 0:
            self._report_warnings()
            self._sample()
        self._record_start()
        self.reported_warnings = self.task.warnings  # a resumed run reported them when it started
        if self.state.evaluation_due:
            self._evaluate(recorded_score(self.run_dir.read_events(), self.step, self.task.fingerprints))

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

            # Waits for the device. Nothing is sampled, scored or saved before it is known to be finite.
            try:
                self.task.check()
            finally:
                self.state.train_seconds += time.monotonic() - clock
            if report:
                self._report((self.step - first) / max(self.state.train_seconds - trained_before, 1e-9))
            if sample:
                self._sample()
            self.state.evaluation_due = evaluate
            if save:  # before the score, which can take long, be killed and run out of memory
                self._save_once()
            if evaluate:
                self._evaluate()
            if stop:
                self._save_once()
                return False
            clock = time.monotonic()
        return True

    def _record_start(self) -> None:
        """Write what the run is. Only now: a start that fails must leave neither a run nor another run's configuration.

        The configuration is written last, because it makes the directory a run.
        """
        write_json(self.run_dir.data, self.task.data.document())
        self.run_dir.write_scorer(self.task.protocol, self.task.weights_sha256)
        write_json(self.run_dir.environment, self.environment)
        write_json(self.run_dir.config, self.config.document())

    @property
    def _inputs(self) -> Inputs:
        return Inputs(self.task.data.sha256, self.task.weights_sha256)

    def _report_warnings(self) -> None:
        for warning in self.task.warnings:
            if warning not in self.reported_warnings:
                self.recorder.notice(self.step, warning)
        self.reported_warnings = self.task.warnings

    def _due(self, every_steps: int) -> bool:
        """Whether the step is a multiple of `every_steps` (never for 0) or the last one."""
        return self.step == self.config.training.steps or (every_steps > 0 and self.step % every_steps == 0)

    def _resume(self) -> dict[int, str]:
        """Load the newest usable checkpoint; return what is wrong with newer ones, by step.

        Raises ConfigError if the run or the checkpoint was made with other images or weights of the scorer.
        """
        lineage, refused = self.config.digest("resumable"), dict[int, str]()
        recorded = self.run_dir.read_inputs() if has_progress(self.run_dir) else Inputs()
        check_inputs(self.config, self._inputs, recorded, str(self.run_dir.root))
        for step in reversed(self.run_dir.checkpoint_steps()):
            try:
                found = checkpoints.load(self.run_dir.checkpoint(step), lineage=lineage)
            except CheckpointError as error:
                refused[step] = str(error)
                continue
            check_inputs(
                self.config,
                self._inputs,
                Inputs.from_document(found.notes.get("inputs")),
                f"the checkpoint of step {step}",
            )
            self._restore(found)
            break
        return refused

    def _restore(self, found: Checkpoint) -> None:
        self.task.load_state(found.tensors)
        self.step, self.state = found.step, RunState.from_document(found.notes)
        self.saved_step = found.step

    def _report(self, steps_per_second: float) -> None:
        total = self.config.training.steps
        images_per_second = steps_per_second * self.task.images_per_step
        left = (total - self.step) / steps_per_second
        scalars = self.task.scalars()
        self._report_warnings()
        self.recorder.emit(Scalars(self.step, scalars))
        self.recorder.emit(Progress(self.step, total, steps_per_second, images_per_second, left, self._peak()))

    def _peak(self) -> int:
        """The most device memory that any process of the run has held; updates the state."""
        self.state.peak_memory_bytes = max(self.state.peak_memory_bytes, self.task.peak_memory_bytes())
        return self.state.peak_memory_bytes

    def _sample(self) -> None:
        path, content = self.run_dir.sample(self.step), self.task.grid()
        atomic_write(path, content)
        self.recorder.emit(SampleGrid(self.step, self.run_dir.relative(path), sha256_bytes(content)))

    def _evaluate(self, recorded: Score | None = None) -> None:
        """Score the current state, and keep its checkpoint if it is the best so far.

        recorded: its score, if an earlier process made it already.
        """
        last = self.step == self.config.training.steps
        score = recorded or self._score("final" if last else "scheduled")
        self.state.evaluation_due = False
        self.state.evaluations += 1
        self.state.curve += (score,)
        if last:
            self.state.final = score
        metric = self.task.metric
        best = self.state.best.scores[metric] if self.state.best else None
        if METRICS[metric].better(score.scores[metric], best):
            self.state.best = score
            if self.config.checkpoint.keep_best:
                self._save_once()
                self._prune()

    def _score(self, purpose: str) -> Score:
        assert self.task.protocol is not None
        began = time.monotonic()
        score = Score(self.step, self.task.evaluate(fresh=purpose == "best_rescored", control=self.control))
        seconds = time.monotonic() - began
        self.recorder.emit(
            Evaluated(self.step, purpose, score.scores, self.task.protocol, self.task.fingerprints, seconds)
        )
        return score

    def _save_once(self) -> None:
        """Save the current step unless it is saved already."""
        if self.saved_step != self.step:
            self._save()

    def _save(self) -> None:
        path = self.run_dir.checkpoint(self.step)
        self._peak()
        notes = self.state.document() | {"inputs": self._inputs.document()}
        content = Checkpoint(self.step, self.config.digest("resumable"), self.task.state(), notes)
        digest = checkpoints.save(path, content)
        self.saved_step = self.step
        self.recorder.emit(CheckpointSaved(self.step, self.run_dir.relative(path), digest))
        self._prune()

    def _prune(self) -> None:
        # Refused checkpoints of later steps may still exist; counted as newest, they would displace the one just saved.
        checkpoints.prune(
            {step: self.run_dir.checkpoint(step) for step in self.run_dir.checkpoint_steps() if step <= self.step},
            keep_last=self.config.checkpoint.keep_last,
            pinned=self.state.best.step if self.state.best and self.config.checkpoint.keep_best else None,
        )

    def _conclude(self) -> RunResult:
        """The result of a completed run. The best of several evaluated states is scored again with fresh samples."""
        best = self.state.final
        if self.state.evaluations > 1:
            best = self._rescore_best()
        return self._result("completed", final=self.state.final, best=best)

    def _rescore_best(self) -> Score | None:
        """None if the best checkpoint was not kept or is damaged."""
        chosen = self.state.best
        if chosen is None or not self.run_dir.checkpoint(chosen.step).exists():
            return None
        try:
            found = checkpoints.load(self.run_dir.checkpoint(chosen.step), lineage=self.config.digest("resumable"))
        except CheckpointError as error:
            self.recorder.notice(self.step, f"the best checkpoint, of step {chosen.step}, is not scored again: {error}")
            return None
        final_step, state = self.step, self.state
        self._restore(found)
        try:
            return self._score("best_rescored")
        finally:
            self.step, self.state, self.saved_step = final_step, state, final_step

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
            metric=self.task.metric,
            final=final,
            best=best,
            evaluations=self.state.evaluations,
            # Minutes for many images, which a stop must not take.
            real=self.task.real_scores() if self.task.protocol and status == "completed" else None,
            train_seconds=self.state.train_seconds,
            message=message,
            peak_memory_bytes=self._peak(),
            curve=self.state.curve,
            data=self.task.data,
            weights_sha256=self.task.weights_sha256,
        )

    def _record_end(self, reason: str, error: Exception) -> None:
        """Record why the run ended if the disk can still be written; the caller gets the error in any case."""
        with suppress(StorageError):
            self.recorder.emit(Finished(self.step, reason, str(error)))
