"""Executes the runs of a study on this machine, within a time budget."""

import time
from collections.abc import Callable
from pathlib import Path

from gan_mhe.cli.console import out, print_error, say, sinks_for
from gan_mhe.run.control import stop_on_signals
from gan_mhe.study import definition
from gan_mhe.study.definition import Study, run_directory
from gan_mhe.sweep import sweep as sweeps
from gan_mhe.sweep.processes import Run

DONE, FAILURE, INTERRUPTED = 0, 1, 130


def run(
    study: Study,
    root: Path,
    *,
    jobs: int | None = None,
    minutes: float | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> int:
    """Execute the unfinished runs of a study in `root`; return the exit code.

    jobs: runs at once, see `sweep.plan`. minutes: time budget; None is no limit. With a budget, all arms of a seed are
    executed before the next seed starts, so that it ends with complete seeds; without one, all runs share the cores.
    clock: monotonic, in seconds.
    """
    waves = _waves(study, root)
    runs = [run for wave in waves for run in wave]
    sweeps.refuse_changed(runs)
    shared = sweeps.plan([run.config for run in (runs if minutes is None else waves[0])], jobs)
    with stop_on_signals(say) as control, sinks_for(out) as make_sink:
        budget = None if minutes is None else sweeps.Budget(control, 60 * minutes, clock)
        if unfinished := len(sweeps.unfinished(runs)):
            say(f"{unfinished} of {len(runs)} runs to do: {shared}")
        if budget is None:
            failures = sweeps.sweep(runs, make_sink, control, shared)
        else:
            failures = sweeps.sweep_in_waves(waves, make_sink, budget, shared)
    for failed, error in failures:
        print_error(f"{failed.title}: {error}")
    if control.should_stop():
        say("stopped; run the same command to continue")
        return INTERRUPTED
    if any(run not in [failed for failed, _ in failures] for run in sweeps.unfinished(runs)):
        complete = sum(not sweeps.unfinished(wave) for wave in waves)
        say(f"time budget used up: {complete} of {len(waves)} seeds are complete; run the same command to continue")
    return FAILURE if failures else DONE


def _waves(study: Study, root: Path) -> list[list[Run]]:
    """The runs of the study, grouped by seed."""
    waves = {seed: list[Run]() for seed in study.seeds}
    for run in definition.runs(study):
        waves[run.seed].append(Run(run.config, run_directory(root, run.arm.name, run.seed), run.title))
    return list(waves.values())
