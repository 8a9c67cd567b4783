"""Commands that train: one run, or a sweep of variants x seeds.

Modules that load torch, which takes seconds, are imported inside the commands, after everything that can be refused
without them.
"""

from pathlib import Path
from typing import Annotated, Any

import typer

from gan_mhe.cli.console import out, print_error, say
from gan_mhe.cli.options import FAILURE, INTERRUPTED, ConfigFile, Jobs, Set, folder
from gan_mhe.cli.scores import print_result, print_scored
from gan_mhe.config import compose
from gan_mhe.errors import RunDirError
from gan_mhe.records.run_dir import RunDir
from gan_mhe.streams import output_is_optional


def train(
    config: ConfigFile,
    set_: Set = None,
    variant: Annotated[str | None, typer.Option(help="Named variant (see `gan-mhe variants`).")] = None,
    seed: Annotated[int | None, typer.Option(help="Training seed.")] = None,
    run_dir: Annotated[
        Path | None, typer.Option(help="Run directory. Default: runs/CONFIG/VARIANT/seed_SEED.", callback=folder)
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in the run directory.")] = False,
) -> None:
    """Train one GAN."""
    output_is_optional()
    settings = compose.compose(
        compose.find_local(config), variant=variant, seed=seed, overrides=compose.parse_local_overrides(set_ or [])
    )
    from gan_mhe.cli.console import sink_for
    from gan_mhe.run.control import stop_on_signals
    from gan_mhe.run.loop import execute, has_progress
    from gan_mhe.sweep.sweep import run_directory

    directory = run_dir or run_directory(Path("runs") / Path(config).stem, settings)
    if has_progress(RunDir(directory)) and not resume:
        raise RunDirError(f"{directory} already contains a run; continue it with --resume or choose another --run-dir")
    with stop_on_signals(say) as control, sink_for(out, f"{settings.label} seed {settings.seed}") as sink:
        result = execute(settings, directory, sink, control)
    if result.status == "stopped":
        say(f"stopped at step {result.step}; run the same command with --resume to continue")
        raise typer.Exit(INTERRUPTED)
    print_result(result.document())
    say(f"{result.status} at step {result.step}; run directory: {directory}")


def sweep(
    config: ConfigFile,
    variants: Annotated[str, typer.Option(help="Comma-separated variants.")],
    seeds: Annotated[str, typer.Option(help="Comma-separated training seeds.")] = "0",
    set_: Set = None,
    root: Annotated[
        Path | None, typer.Option("--out", help="Folder of the runs. Default: runs/CONFIG.", callback=folder)
    ] = None,
    jobs: Jobs = None,
) -> None:
    """Train variants x seeds, skip finished runs, and compare the variants."""
    output_is_optional()
    _sweep(
        compose.find_local(config),
        variants=[name.strip() for name in variants.split(",")],
        seeds=compose.parse_seeds(seeds),
        overrides=compose.parse_local_overrides(set_ or []),
        root=root or Path("runs") / Path(config).stem,
        jobs=jobs,
    )


def _sweep(
    document: dict[str, Any],
    *,
    variants: list[str],
    seeds: list[int],
    overrides: dict[str, Any],
    root: Path,
    jobs: int | None,
) -> None:
    configs = compose.expand(
        document, variants=list(dict.fromkeys(variants)), seeds=list(dict.fromkeys(seeds)), overrides=overrides
    )
    from gan_mhe.cli.console import sinks_for
    from gan_mhe.comparison import compare as comparisons
    from gan_mhe.run.control import stop_on_signals
    from gan_mhe.sweep import sweep as sweeps

    shared = sweeps.plan(configs, jobs)
    runs = sweeps.runs_below(root, configs)
    sweeps.refuse_changed(runs)
    if unfinished := len(sweeps.unfinished(runs)):
        say(f"{unfinished} of {len(runs)} runs to do: {shared}")
    with stop_on_signals(say) as control, sinks_for(out) as make_sink:
        failures = sweeps.sweep(runs, make_sink, control, shared)
    if control.should_stop():
        say("stopped; run the same command to continue")
        raise typer.Exit(INTERRUPTED)
    for run, error in failures:
        print_error(f"{run.title}: {error}")
    print_scored([comparisons.read_score(run_dir) for run_dir in sweeps.directories_of(runs)])
    say(f"runs: {root}")
    if failures:
        raise typer.Exit(FAILURE)
