"""Commands for existing runs (images, scores, state), and the list of variants.

Modules that load torch, which takes seconds, are imported inside the commands, after everything that can be refused
without them.
"""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from gan_mhe.cli.console import note, out, print_columns, print_table, say
from gan_mhe.cli.options import Ema, Format, RunPath, Set, Step, possible
from gan_mhe.cli.scores import score_rows
from gan_mhe.config import compose
from gan_mhe.config.documents import merge
from gan_mhe.config.protocols import PROTOCOLS
from gan_mhe.errors import ConfigError
from gan_mhe.evaluation.metrics import METRICS
from gan_mhe.records.run_dir import RunDir
from gan_mhe.streams import output_is_optional
from gan_mhe.variants import VARIANTS


def sample(
    run: RunPath,
    out_: Annotated[
        Path,
        typer.Option(
            "--out",
            help="FILE.png or FILE.webp for a grid, FILE.npz or FILE.zip, or a folder for single PNGs.",
            callback=possible,
        ),
    ],
    n: Annotated[int, typer.Option("--n", min=1, help="Number of images, or of rows with --interpolate.")] = 64,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the latents.")] = 0,
    interpolate: Annotated[
        int, typer.Option(min=0, metavar="STEPS", help="Interpolate between two latents in STEPS images per row.")
    ] = 0,
    columns: Annotated[int | None, typer.Option(min=1, help="Columns of a grid; as square as possible.")] = None,
    scale: Annotated[int | None, typer.Option(min=1, max=16, help="Factor by which a grid enlarges images.")] = None,
    padding: Annotated[int, typer.Option(min=0, max=64, help="Pixels around each image of a grid.")] = 2,
    step: Step = None,
    ema: Ema = False,
) -> None:
    """Generate images with the generator of a run."""
    output_is_optional()
    run_dir = RunDir(run)
    run_dir.read_config()  # an error that names the directory, if it holds no run
    from gan_mhe.images.files import GridLayout
    from gan_mhe.run import sample

    sample.check_destination(out_)
    count, layout = n * max(1, interpolate), GridLayout(columns or interpolate or None, scale, padding)
    batches = sample.draw(run_dir, n=n, seed=seed, interpolation=interpolate, step=step, ema=ema)
    sample.write_images(batches, count, out_, layout)
    say(f"{count} images: {out_}")


def score(
    run: RunPath,
    protocol: Annotated[
        str | None, typer.Option(help=f"One of {', '.join(PROTOCOLS)}. Default: that of the run.")
    ] = None,
    step: Step = None,
    ema: Ema = False,
    set_: Set = None,
    format_: Annotated[Format, typer.Option("--format", help="table or json.")] = Format.table,
) -> None:
    """Score the generator of a run, under its own or another protocol."""
    if format_ not in (Format.table, Format.json):
        raise ConfigError(f"--format: expected table or json, got {format_}")
    overrides: dict[str, Any] = {
        "evaluation": ({"ema": True} if ema else {}) | ({"protocol": protocol} if protocol else {})
    }
    overrides = merge(overrides, compose.parse_local_overrides(set_ or []))
    run_dir = RunDir(run)
    compose.parse_stored(merge(run_dir.read_config().document(), overrides))  # errors, before torch is loaded
    from gan_mhe.run.score import score_checkpoint

    scored = score_checkpoint(run_dir, step=step, overrides=overrides, notice=note)
    if format_ is Format.json:
        out.print_json(json.dumps(scored))
    else:
        say(f"step {scored['step']}  {scored['protocol']}")
        print_table(("metric", "generator", "real data", "fingerprint"), score_rows(scored))


def info(run: RunPath) -> None:
    """Show the configuration and progress of a run."""
    from gan_mhe.records.events import Evaluated, Finished, Progress, effective

    run_dir = RunDir(run)
    config, data, result = run_dir.read_config(), run_dir.read_data(), run_dir.read_result()
    weights = run_dir.read_inputs().weights_sha256
    events = list(effective(run_dir.read_events()))
    step = max((event.step for event in events), default=0)
    finished = [event for event in events if isinstance(event, Finished)]
    rates = [event.images_per_second for event in events if isinstance(event, Progress)]
    rows = [
        ("variant", config.label),
        ("seed", str(config.seed)),
        ("data", f"{config.data.name}, {config.data.image_size} pixels"),
        *([("loaded data", data.line()), ("content", data.sha256)] if data else []),
        *([("scorer weights", weights)] if weights else []),
        ("networks", f"{config.generator.architecture} / {config.discriminator.architecture}"),
        ("digest", config.digest()),
        ("status", result["status"] if result else finished[-1].reason if finished else "unfinished"),
        ("step", f"{step} of {config.training.steps}"),
        ("images/s", f"{rates[-1]:.0f}" if rates else "-"),
        ("checkpoints", ", ".join(map(str, run_dir.checkpoint_steps())) or "none"),
    ]
    rows += [
        (
            f"{event.purpose} {event.step}",
            "  ".join(f"{name} {event.scores[name]:.4g}" for name in METRICS if name in event.scores),
        )
        for event in events
        if isinstance(event, Evaluated)
    ]
    print_columns(("", ""), rows)


def metrics(
    run: RunPath,
    out_: Annotated[
        Path | None, typer.Option("--out", help="FILE.csv; without it the table is printed.", callback=possible)
    ] = None,
) -> None:
    """Write all numbers of a run as CSV, one row per step, so that spreadsheets and data frames read them."""
    from gan_mhe.files import atomic_write
    from gan_mhe.records.export import metrics_table, to_csv

    run_dir = RunDir(run)
    if out_ is not None:
        output_is_optional()
    run_dir.read_config()  # an error that names the directory, if it holds no run
    columns, rows = metrics_table(run_dir)
    text = to_csv(columns, rows)
    if out_ is None:
        say(text.rstrip("\n"))
    else:
        atomic_write(out_, text.encode())
        say(f"{len(rows)} rows, {len(columns)} columns: {out_}")


def variants() -> None:
    """List the named variants."""
    print_table(("variant", "what it is", "source"), [(n, v.description, v.source) for n, v in VARIANTS.items()])
