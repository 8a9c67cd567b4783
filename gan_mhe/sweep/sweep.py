"""Many runs, resumable: what is done is not done again. Those of a sweep are variants x seeds of one configuration."""

import math
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from gan_mhe.config.run_config import RunConfig
from gan_mhe.errors import GanMheError
from gan_mhe.records.events import RunControl
from gan_mhe.records.run_dir import RunDir
from gan_mhe.run.loop import execute, has_progress
from gan_mhe.sweep import processes
from gan_mhe.sweep.processes import Run, SinkFactory

_CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # of a container: microseconds of CPU time, and in how many


@dataclass(frozen=True)
class Plan:
    """How many runs at once, and how many CPU threads each has then. One at a time runs in this process."""

    jobs: int
    threads: int

    def __str__(self) -> str:
        if self.jobs == 1:
            return "one run at a time"
        return f"{self.jobs} runs at once, {self.threads} thread{'s' if self.threads > 1 else ''} each"


def plan(configs: Sequence[RunConfig], jobs: int | None = None) -> Plan:
    """`jobs` runs at once, sharing the cores; None is one a core on the CPU, and one in all on a GPU.

    OMP_NUM_THREADS, where set, limits the threads. The plan follows from the whole sweep, not from what is left of it:
    a sweep that is taken up again computes with the same number of threads, and so the same bits.
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
    """Where a sweep below `root` puts a run."""
    return root / config.variant / f"seed_{config.seed}"


def runs_below(root: Path, configs: Sequence[RunConfig]) -> list[Run]:
    """The runs of a sweep below `root`."""
    return [Run(config, run_directory(root, config), f"{config.variant} seed {config.seed}") for config in configs]


def unfinished(runs: Sequence[Run]) -> list[Run]:
    """Those that have not come to an end as they are now: completed, or diverged, which they would do again."""
    return [run for run in runs if not _has_ended(run.config, RunDir(run.directory))]


def sweep(
    runs: Sequence[Run], make_sink: SinkFactory, control: RunControl, shared: Plan = Plan(jobs=1, threads=1)
) -> list[tuple[Run, GanMheError]]:
    """Execute `runs` in order until all are finished or `control` asks to stop; several at once where so planned.

    A run that fails does not take the others with it: failures are returned, each with its run.
    """
    left = unfinished(runs)
    if shared.jobs == 1:
        return _one_after_another(left, make_sink, control)
    return processes.execute_all(left, make_sink, control, jobs=shared.jobs, threads=shared.threads)


def _one_after_another(
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
    """A `RunControl` that asks to stop when another does, or when `seconds` are over. `clock` is monotonic."""

    def __init__(self, control: RunControl, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._control, self._clock = control, clock
        self._end = clock() + seconds

    def left(self) -> float:
        """Seconds until the end; negative after it."""
        return self._end - self._clock()

    def should_stop(self) -> bool:
        return self._control.should_stop() or self.left() <= 0


def sweep_in_waves(
    waves: Sequence[Sequence[Run]], make_sink: SinkFactory, budget: Budget, shared: Plan
) -> list[tuple[Run, GanMheError]]:
    """Execute one wave after another, so that what the budget ends is whole waves wherever that can be foreseen.

    A wave is not begun when less time is left than it would need at the slowest pace so far, that of waves whose runs
    were all begun anew; before there is one, it is begun in any case. Runs that the end finds in the middle save and
    stop. Failures are returned as by `sweep`.
    """
    failures: list[tuple[Run, GanMheError]] = []
    seconds_a_round = 0.0  # of as many runs as go on at once
    for wave in filter(None, map(unfinished, waves)):
        rounds, before = math.ceil(len(wave) / shared.jobs), budget.left()
        if budget.should_stop() or before < seconds_a_round * rounds:
            break
        anew = not any(has_progress(RunDir(run.directory)) for run in wave)
        failures += sweep(wave, make_sink, budget, shared)
        if anew:
            seconds_a_round = max(seconds_a_round, (before - budget.left()) / rounds)
    return failures


def _has_ended(config: RunConfig, place: RunDir) -> bool:
    """Whether there is nothing to go on with; no where its directory is damaged, so that the run says how."""
    try:
        result = place.read_result() if has_progress(place) else None
        if result is None or result["status"] not in ("completed", "diverged"):
            return False
        if result["status"] == "completed" and result["step"] < config.training.steps:
            return False
        return not config.changes_on_resume(place.read_config())
    except (GanMheError, OSError):
        return False


def _on_gpu(config: RunConfig) -> bool:
    device = config.training.device
    return torch.cuda.is_available() if device == "auto" else device.startswith("cuda")


def _cores() -> int:
    """CPU cores that this process may use: by its affinity, and by its container's quota."""
    cores = len(os.sched_getaffinity(0))
    with suppress(OSError, ValueError):  # no quota, or the word `max`
        quota, period = map(int, _CPU_QUOTA.read_text().split())
        cores = min(cores, max(1, quota // period))
    return cores
