"""Executes several runs and skips finished ones, so that a sweep (variants x seeds of one configuration) can resume."""

import math
import os
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from gan_mhe.config.run_config import RunConfig
from gan_mhe.errors import GanMheError, RunDirError
from gan_mhe.records.events import RunControl
from gan_mhe.records.result import result_of
from gan_mhe.records.run_dir import RunDir
from gan_mhe.run.inputs import check_all
from gan_mhe.run.loop import execute, has_progress
from gan_mhe.sweep import processes
from gan_mhe.sweep.processes import Run, SinkFactory

_CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # of a container: CPU time and period, in microseconds


@dataclass(frozen=True)
class Plan:
    """jobs: runs executed at once, 1 executes them in this process; threads: CPU threads of each."""

    jobs: int
    threads: int

    def __str__(self) -> str:
        if self.jobs == 1:
            return "one run at a time"
        return f"{self.jobs} runs at once, {self.threads} thread{'s' if self.threads > 1 else ''} each"


def plan(configs: Sequence[RunConfig], jobs: int | None = None) -> Plan:
    """Divide the CPU cores among `jobs` runs at once; None is one run per core on the CPU and one run on a GPU.

    OMP_NUM_THREADS, if set, limits the threads of each run. The plan depends on the whole sweep, not on its unfinished
    runs, so that a resumed sweep uses the same number of threads and computes the same bits.
    """
    cores = _cores()
    if jobs is None:
        jobs = 1 if any(_on_gpu(config) for config in configs) else cores
    jobs = max(1, min(jobs, len(configs)))
    threads = max(1, cores // jobs)
    with suppress(KeyError, ValueError):
        threads = min(threads, max(1, int(os.environ["OMP_NUM_THREADS"])))
    return Plan(jobs, threads)


def run_directory(root: Path, config: RunConfig) -> Path:
    """Run directory of `config` in a sweep in `root`: root/VARIANT/seed_SEED, with other settings after the variant.

    Versions that left them out made root/VARIANT/seed_SEED for them too; a run of `config` that is there stays there.
    """
    seed = f"seed_{config.seed}"
    plain, own = root / config.variant / seed, root / config.folder_name / seed
    return plain if plain != own and _holds(RunDir(plain), config) else own


def _holds(run: RunDir, config: RunConfig) -> bool:
    """Whether the directory has the progress of a run that `config` resumes."""
    try:
        return has_progress(run) and not config.changes_on_resume(run.read_config())
    except RunDirError:
        return False


def runs_below(root: Path, configs: Sequence[RunConfig]) -> list[Run]:
    """The runs of a sweep in `root`, one per configuration."""
    return [Run(config, run_directory(root, config), f"{config.label} seed {config.seed}") for config in configs]


def refuse_changed(runs: Iterable[Run]) -> None:
    """ConfigError if a run in its directory has read other images, or other weights of the scorer, than are there now.

    Its scores would be shown, or its training continued, as if they were those of the present files.
    """
    started = [(run.config, RunDir(run.directory)) for run in runs]
    check_all((config, run) for config, run in started if _holds(run, config))


def directories_of(runs: Iterable[Run]) -> list[RunDir]:
    """The run directories that exist and hold the configuration that their run has now, not one that it refused."""
    found = []
    for run in runs:
        directory = RunDir(run.directory)
        with suppress(RunDirError):  # not started, or damaged
            if directory.read_config().digest() == run.config.digest():
                found.append(directory)
    return found


def unfinished(runs: Sequence[Run]) -> list[Run]:
    """Runs that still need work: completed runs are left out, and diverged ones, which would diverge again."""
    return [run for run in runs if not _has_ended(run.config, RunDir(run.directory))]


def sweep(
    runs: Sequence[Run], make_sink: SinkFactory, control: RunControl, shared: Plan = Plan(jobs=1, threads=1)
) -> list[tuple[Run, GanMheError]]:
    """Execute the unfinished `runs` in order, `shared.jobs` at once, until all have ended or `control` asks to stop.

    A failed run does not stop the others. Returns the failures, each with its run.
    """
    remaining = unfinished(runs)
    if shared.jobs == 1:
        return _execute_sequentially(remaining, make_sink, control)
    return processes.execute_all(remaining, make_sink, control, jobs=shared.jobs, threads=shared.threads)


def _execute_sequentially(
    runs: Sequence[Run], make_sink: SinkFactory, control: RunControl
) -> list[tuple[Run, GanMheError]]:
    failures: list[tuple[Run, GanMheError]] = []
    for run in runs:
        if control.should_stop():
            break
        try:
            with make_sink(run.title) as sink:
                execute(run.config, run.directory, sink, control)
        except GanMheError as error:
            failures.append((run, error))
    return failures


class Budget:
    """A time limit: a `RunControl` that asks to stop when `control` does or after `seconds`. `clock` is monotonic."""

    def __init__(self, control: RunControl, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._control, self._clock = control, clock
        self._end = clock() + seconds

    def seconds_left(self) -> float:
        """Seconds until the limit; negative after it."""
        return self._end - self._clock()

    def should_stop(self) -> bool:
        return self._control.should_stop() or self.seconds_left() <= 0


def sweep_in_waves(
    waves: Sequence[Sequence[Run]], make_sink: SinkFactory, budget: Budget, shared: Plan
) -> list[tuple[Run, GanMheError]]:
    """Execute the waves one after another; start only waves that are expected to finish within the budget.

    The time of a wave is estimated from the slowest earlier wave of which no run had started before; without such a
    wave it is started in any case. Runs that are active when the budget ends save and stop. Returns the failures as
    `sweep` does.
    """
    failures: list[tuple[Run, GanMheError]] = []
    seconds_per_round = 0.0  # a round is `shared.jobs` runs at once
    for wave in filter(None, map(unfinished, waves)):
        rounds, seconds_left = math.ceil(len(wave) / shared.jobs), budget.seconds_left()
        if budget.should_stop() or seconds_left < seconds_per_round * rounds:
            break
        all_new = not any(has_progress(RunDir(run.directory)) for run in wave)
        failures += sweep(wave, make_sink, budget, shared)
        if all_new:
            seconds_per_round = max(seconds_per_round, (seconds_left - budget.seconds_left()) / rounds)
    return failures


def _has_ended(config: RunConfig, run_dir: RunDir) -> bool:
    """Whether the run has ended as `config` has it; False if something is damaged, so that executing it reports why."""
    try:
        document = run_dir.read_result() if has_progress(run_dir) else None
        if document is None:
            return False
        saved = run_dir.read_config()
        result = result_of(saved, document)
    except (GanMheError, OSError, ValueError):
        return False
    ended = result.status == "diverged" or (result.status == "completed" and result.step >= config.training.steps)
    return ended and not config.changes_on_resume(saved)


def _on_gpu(config: RunConfig) -> bool:
    device = config.training.device
    return torch.cuda.is_available() if device == "auto" else device.startswith("cuda")


def _cores() -> int:
    """CPU cores that this process may use, limited by its affinity and its container's quota."""
    cores = len(os.sched_getaffinity(0))
    with suppress(OSError, ValueError):  # no such file, or the value `max`
        quota, period = map(int, _CPU_QUOTA.read_text().split())
        cores = min(cores, max(1, quota // period))
    return cores
