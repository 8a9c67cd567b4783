"""The `gan-mhe` command. Exit codes: 0 done, 1 failure, 2 wrong usage or configuration, 130 interrupted.

Modules that load torch are imported inside the commands that need them, so that `--help` answers at once.
"""

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gan_mhe import compare as comparisons
from gan_mhe import compare_table, compose
from gan_mhe.config import merge
from gan_mhe.console import complain, out, print_table, say
from gan_mhe.errors import ConfigError, GanMheError, RunDirError
from gan_mhe.metrics import METRICS
from gan_mhe.rundir import RunDir
from gan_mhe.variants import VARIANTS
from server import commands, operator_commands

if TYPE_CHECKING:
    from gan_mhe.study import Study

FAILURE, USAGE, INTERRUPTED = 1, 2, 130

app = typer.Typer(
    help="Train GANs with hyperspherically regularised discriminators, and compare them honestly.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
scorer_app = typer.Typer(help="Make the classifiers that score data sets of your own.", no_args_is_help=True)
app.add_typer(scorer_app, name="scorer")

ConfigFile = Annotated[Path, typer.Argument(help="TOML file, or the name of a preset such as digits_cnn.")]
RunPath = Annotated[Path, typer.Argument(help="Run directory.")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override one key; repeatable.")]
Jobs = Annotated[
    int | None,
    typer.Option(min=1, help="Runs at once, sharing the cores; one a core, or one on a GPU, unless given."),
]
Step = Annotated[int | None, typer.Option(help="Checkpoint to use; the newest unless given.")]
Ema = Annotated[bool, typer.Option("--ema", help="Use the moving average of the generator.")]


class Format(StrEnum):
    """How a comparison is printed."""

    table = "table"
    json = "json"
    csv = "csv"
    markdown = "markdown"


def main() -> None:
    """Run the command; turn our errors into one message and an exit code."""
    try:
        app()
    except GanMheError as error:
        complain(f"error: {error}")
        raise SystemExit(USAGE if isinstance(error, ConfigError) else FAILURE) from None


@app.command()
def train(
    config: ConfigFile,
    set_: Set = None,
    variant: Annotated[str | None, typer.Option(help="Named variant (see `gan-mhe variants`).")] = None,
    seed: Annotated[int | None, typer.Option(help="Training seed.")] = None,
    run_dir: Annotated[
        Path | None, typer.Option(help="Where the run lives; runs/CONFIG/VARIANT/seed_SEED unless given.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run that is there.")] = False,
) -> None:
    """Train one GAN."""
    from gan_mhe.console import sink_for
    from gan_mhe.interrupt import stop_on_signals
    from gan_mhe.run import begun, execute
    from gan_mhe.sweep import run_directory

    settings = compose.compose(
        compose.find_document(str(config)), variant=variant, seed=seed, overrides=compose.parse_overrides(set_ or [])
    )
    place = run_dir or run_directory(Path("runs") / config.stem, settings)
    if begun(RunDir(place)) and not resume:
        raise RunDirError(f"{place} holds a run already; continue it with --resume, or choose another --run-dir")
    with stop_on_signals(say) as control, sink_for(out, f"{settings.variant} seed {settings.seed}") as sink:
        result = execute(settings, place, sink, control)
    if result.status == "stopped":
        say(f"stopped at step {result.step}; the same command with --resume goes on from here")
        raise typer.Exit(INTERRUPTED)
    _print_scores(result.document())
    say(f"{result.status} at step {result.step}; run directory: {place}")


@app.command()
def sweep(
    config: ConfigFile,
    variants: Annotated[str, typer.Option(help="Comma-separated variants.")],
    seeds: Annotated[str, typer.Option(help="Comma-separated training seeds.")] = "0",
    set_: Set = None,
    root: Annotated[Path | None, typer.Option("--out", help="Folder of the runs; runs/CONFIG unless given.")] = None,
    jobs: Jobs = None,
) -> None:
    """Train variants x seeds, skipping what is done, and compare them."""
    _sweep(
        compose.find_document(str(config)),
        variants=[name.strip() for name in variants.split(",")],
        seeds=compose.parse_seeds(seeds),
        overrides=compose.parse_overrides(set_ or []),
        root=root or Path("runs") / config.stem,
        jobs=jobs,
    )


@app.command()
def study(
    file: Annotated[Path, typer.Argument(metavar="STUDY.toml", help="What is compared, on what, and why.")],
    root: Annotated[
        Path | None, typer.Option("--out", help="Folder of the study; runs/studies/NAME unless given.")
    ] = None,
    jobs: Jobs = None,
    budget: Annotated[
        float | None,
        typer.Option(metavar="MINUTES", help="End after whole seeds within this time; as the study says unless given."),
    ] = None,
    report_only: Annotated[bool, typer.Option("--report-only", help="Run nothing; report on what is there.")] = False,
    server: Annotated[
        str | None, typer.Option(metavar="URL", help="Run it as jobs of this service, and report on them here.")
    ] = None,
) -> None:
    """Run a study, arms x seeds on one configuration, and write its report; the same command goes on with it."""
    from gan_mhe import study as studies

    definition = studies.load(file)
    place = root or Path("runs") / "studies" / definition.name
    if budget is not None and not budget > 0:
        raise ConfigError(f"--budget {budget:g}: expected minutes, more than 0")
    if server is not None and (jobs, budget, report_only) != (None, None, False):
        raise ConfigError("--jobs, --budget and --report-only are for runs here; a service has limits of its own")
    if report_only:
        studies.kept(place)
    studies.keep(definition, place)
    code = 0 if report_only else _run_study(definition, place, jobs=jobs, budget=budget, server=server)
    _report_study(definition, place)
    raise typer.Exit(code)


@app.command()
def sample(
    run: RunPath,
    out_: Annotated[Path, typer.Option("--out", help="FILE.png for a grid, FILE.npz, or a folder for PNGs.")],
    n: Annotated[int, typer.Option("--n", min=1, help="Images, or rows with --interpolate.")] = 64,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the latents; the same seed gives the same images.")] = 0,
    interpolate: Annotated[
        int, typer.Option(min=0, metavar="STEPS", help="Walk between latents in so many steps a row.")
    ] = 0,
    step: Step = None,
    ema: Ema = False,
) -> None:
    """Draw images from a run's generator."""
    from gan_mhe import sampling

    sampling.check_destination(out_)
    place = RunDir(run)
    if interpolate:
        images = sampling.interpolate(place, rows=n, columns=interpolate, seed=seed, step=step, ema=ema)
    else:
        images = sampling.draw(place, n=n, seed=seed, step=step, ema=ema)
    sampling.write_images(images, out_, columns=interpolate or None)
    say(f"{len(images)} images: {out_}")


@app.command()
def score(
    run: RunPath,
    protocol: Annotated[str | None, typer.Option(help="Protocol; the run's own unless given.")] = None,
    step: Step = None,
    ema: Ema = False,
    set_: Set = None,
    format_: Annotated[Format, typer.Option("--format", help="table or json.")] = Format.table,
) -> None:
    """Score a run's generator again, under its own or another protocol."""
    from gan_mhe.scoring import score_checkpoint

    if format_ not in (Format.table, Format.json):
        raise ConfigError(f"--format {format_}: a score is printed as table or json")
    overrides: dict[str, Any] = {
        "evaluation": ({"ema": True} if ema else {}) | ({"protocol": protocol} if protocol else {})
    }
    scored = score_checkpoint(RunDir(run), step=step, overrides=merge(overrides, compose.parse_overrides(set_ or [])))
    if format_ is Format.json:
        out.print_json(json.dumps(scored))
    else:
        say(f"step {scored['step']}  {scored['protocol']} [{scored['fingerprint'][:12]}]")
        print_table(("metric", "generator", "real data"), _score_rows(scored["scores"], scored["real"]))


@app.command()
def compare(
    runs: Annotated[
        list[str],
        typer.Argument(help="Run directories or folders that hold them; with --server, ids.", metavar="RUNS..."),
    ],
    metric: Annotated[str, typer.Option(help="Score to compare.")] = "inception_score",
    reference: Annotated[
        str | None, typer.Option(metavar="VARIANT", help="Show the other variants' differences to it, seed by seed.")
    ] = None,
    view: Annotated[
        comparisons.View, typer.Option(help="Compare after equal steps, or after equal seconds of training.")
    ] = "steps",
    format_: Annotated[Format, typer.Option("--format", help="table, json, csv or markdown.")] = Format.table,
    server: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Compare jobs of this service: RUNS are ids of jobs or experiments."),
    ] = None,
) -> None:
    """Compare variants over training seeds."""
    if server is not None:
        from server.client import Client

        with Client(server) as client:
            comparison = client.compare(runs, metric=metric, reference=reference, view=view)
    else:
        scores = [comparisons.read_score(run) for run in comparisons.find_runs(map(Path, runs))]
        comparison = comparisons.compare(scores, metric=metric, reference=reference, view=view)
    _print_comparison(comparison, format_)


@app.command()
def info(run: RunPath) -> None:
    """Say what a run is and how far it got."""
    from gan_mhe.events import Evaluated, Finished, Progress, effective

    place = RunDir(run)
    config, result = place.read_config(), place.read_result()
    events = list(effective(place.read_events()))
    step = max((event.step for event in events), default=0)
    finished = [event for event in events if isinstance(event, Finished)]
    rates = [event.images_per_second for event in events if isinstance(event, Progress)]
    rows = [
        ("variant", config.variant),
        ("seed", str(config.seed)),
        ("data", f"{config.data.name}, {config.data.image_size} pixels"),
        ("networks", f"{config.generator.architecture} / {config.discriminator.architecture}"),
        ("digest", config.digest()),
        ("status", result["status"] if result else finished[-1].reason if finished else "unfinished"),
        ("step", f"{step} of {config.training.steps}"),
        ("images/s", f"{rates[-1]:.0f}" if rates else "-"),
        ("checkpoints", ", ".join(map(str, place.checkpoint_steps())) or "none"),
    ]
    rows += [
        (f"{event.purpose} {event.step}", "  ".join(f"{name} {event.scores[name]:.4g}" for name in METRICS))
        for event in events
        if isinstance(event, Evaluated)
    ]
    print_table(("", ""), rows)


@app.command()
def variants() -> None:
    """List the named variants."""
    print_table(("variant", "what it is", "source"), [(n, v.description, v.source) for n, v in VARIANTS.items()])


@scorer_app.command("train")
def scorer_train(
    name: Annotated[str, typer.Argument(help="Name: the protocol is then classifier:NAME.")],
    data: Annotated[str, typer.Option(help="Data set with labels.")],
    root: Annotated[Path | None, typer.Option(help="Folder of an image_folder.")] = None,
    image_size: Annotated[int, typer.Option(help="Side of the images in pixels.")] = 32,
    width: Annotated[float, typer.Option(min=0.01, help="Factor on the classifier's channel counts.")] = 1.0,
    epochs: Annotated[int, typer.Option(min=1)] = 30,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda:N.")] = "auto",
    out_: Annotated[
        Path | None, typer.Option("--out", help="Weights file; the cache's scorers folder unless given.")
    ] = None,
) -> None:
    """Train a classifier on real images and keep it as the scorer `classifier:NAME`."""
    from gan_mhe.scoring import train_and_save_scorer

    settings = compose.parse(
        {"data": {"name": data, "root": root, "image_size": image_size}, "evaluation": {"protocol": "none"}}
    )
    path, accuracy = train_and_save_scorer(
        name,
        settings,
        width=width,
        epochs=epochs,
        seed=seed,
        device=device,
        out=out_,
        progress=lambda epoch, loss: say(f"epoch {epoch} of {epochs}  loss {loss:.4f}"),
    )
    say(f"held-out accuracy {accuracy:.4f}: {path}")
    say(f"use it with --set evaluation.protocol=classifier:{name}" + (f" evaluation.weights={path}" if out_ else ""))


def _sweep(
    document: dict[str, Any],
    *,
    variants: list[str],
    seeds: list[int],
    overrides: dict[str, Any],
    root: Path,
    jobs: int | None,
) -> None:
    from gan_mhe import sweep as sweeps
    from gan_mhe.console import sinks_for
    from gan_mhe.interrupt import stop_on_signals

    configs = compose.expand(
        document, variants=list(dict.fromkeys(variants)), seeds=list(dict.fromkeys(seeds)), overrides=overrides
    )
    shared = sweeps.plan(configs, jobs)
    runs = sweeps.runs_below(root, configs)
    if left := len(sweeps.unfinished(runs)):
        say(f"{left} of {len(runs)} runs to do: {shared}")
    with stop_on_signals(say) as control, sinks_for(out) as make_sink:
        failures = sweeps.sweep(runs, make_sink, control, shared)
    if control.should_stop():
        say("stopped; the same command goes on from here")
        raise typer.Exit(INTERRUPTED)
    for run, error in failures:
        complain(f"{run.title}: {error}")
    places = [RunDir(run.directory) for run in runs]
    _print_scored([comparisons.read_score(place) for place in places if place.exists()])
    say(f"runs: {root}")
    if failures:
        raise typer.Exit(FAILURE)


def _run_study(study: "Study", root: Path, *, jobs: int | None, budget: float | None, server: str | None) -> int:
    """Here or at a service; the exit code."""
    if server is not None:
        from server.studying import run as run_at_service

        return run_at_service(server, study, root)
    from gan_mhe import study_command

    return study_command.run(study, root, jobs=jobs, minutes=study.wall_time_minutes if budget is None else budget)


def _report_study(study: "Study", root: Path) -> None:
    from gan_mhe.report import write_report
    from gan_mhe.study import scores

    path = write_report(study, root)
    found = scores(study, root)
    there = {score.variant for score in found}
    _print_scored(found, metric=study.metric, reference=study.reference if study.reference in there else None)
    say(f"report: {path}")


def _print_scored(scores: list[comparisons.RunScore], **how: Any) -> None:
    """The comparison of what has scores. how: parameters of `compare`."""
    if any(score.final for score in scores):
        _print_comparison(comparisons.compare(scores, **how), Format.table)
    else:
        say("no scores to compare")


def _print_scores(result: dict[str, Any]) -> None:
    if result["final"] is None:
        return
    best = result["best"]["scores"] if result["best"] else {}
    rows = [
        (name, _number(value), _number(best.get(name)), _number((result["real"] or {}).get(name)))
        for name, value in result["final"]["scores"].items()
    ]
    print_table(("metric", "final", "best, rescored", "real data"), rows)


def _score_rows(scores: dict[str, Any], real: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [(name, _number(value), _number(real.get(name))) for name, value in scores.items()]


def _number(value: Any) -> str:
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _print_comparison(comparison: comparisons.Comparison, format_: Format) -> None:
    match format_:
        case Format.table:
            print_table(compare_table.headings(comparison), compare_table.table_cells(comparison))
            say(compare_table.footnote(comparison))
        case Format.json:
            say(compare_table.as_json(comparison))
        case Format.csv:
            say(compare_table.as_csv(comparison))
        case Format.markdown:
            say(compare_table.as_markdown(comparison))


operator_commands.register(app)
commands.register(app)

if __name__ == "__main__":
    main()
