"""Variants x seeds of one configuration, resumable: what is done is not done again."""

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from gan_mhe import parallel
from gan_mhe.config import RunConfig
from gan_mhe.errors import GanMheError
from gan_mhe.events import RunControl
from gan_mhe.parallel import SinkFactory
from gan_mhe.run import begun, execute
from gan_mhe.rundir import RunDir

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


def unfinished(configs: Sequence[RunConfig], root: Path) -> list[RunConfig]:
    """Those that a sweep below `root` has not completed as they are now."""
    return [config for config in configs if not _is_completed(config, RunDir(run_directory(root, config)))]


def sweep(
    configs: Sequence[RunConfig],
    root: Path,
    make_sink: SinkFactory,
    control: RunControl,
    shared: Plan = Plan(jobs=1, threads=1),
) -> list[tuple[RunConfig, GanMheError]]:
    """Execute `configs` in order until all are finished or `control` asks to stop; several at once where so planned.

    A run that fails does not take the others with it: failures are returned, with the run's configuration.
    """
    if shared.jobs == 1:
        return _one_after_another(configs, root, make_sink, control)
    runs = [parallel.Run(config, run_directory(root, config), _title(config)) for config in unfinished(configs, root)]
    failures = parallel.execute_all(runs, make_sink, control, jobs=shared.jobs, threads=shared.threads)
    return [(run.config, error) for run, error in failures]


def _one_after_another(
    configs: Sequence[RunConfig], root: Path, make_sink: SinkFactory, control: RunControl
) -> list[tuple[RunConfig, GanMheError]]:
    failures: list[tuple[RunConfig, GanMheError]] = []
    for config in configs:
        if control.should_stop():
            break
        try:
            with make_sink(_title(config)) as sink:
                execute(config, run_directory(root, config), sink, control)
        except GanMheError as error:
            failures.append((config, error))
    return failures


def _title(config: RunConfig) -> str:
    return f"{config.variant} seed {config.seed}"


def _is_completed(config: RunConfig, place: RunDir) -> bool:
    """Whether executing it would change nothing; no where its directory is damaged, so that the run says how."""
    try:
        result = place.read_result() if begun(place) else None
        if result is None or result["status"] != "completed" or result["step"] < config.training.steps:
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
