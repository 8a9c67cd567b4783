"""Commands that look at runs: images, scores, state; and the variants there are.

What loads torch is imported inside the commands, so that `--help` answers at once.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gan_mhe.cli.console import out, print_table, say
from gan_mhe.cli.options import Ema, Format, RunPath, Set, Step
from gan_mhe.cli.scores import score_rows
from gan_mhe.config import compose
from gan_mhe.config.documents import merge
from gan_mhe.config.protocols import PROTOCOLS
from gan_mhe.errors import ConfigError
from gan_mhe.evaluation.metrics import METRICS
from gan_mhe.records.run_dir import RunDir
from gan_mhe.variants import VARIANTS

if TYPE_CHECKING:
    pass


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
    from gan_mhe.run import sample

    sample.check_destination(out_)
    place = RunDir(run)
    if interpolate:
        images = sample.interpolate(place, rows=n, columns=interpolate, seed=seed, step=step, ema=ema)
    else:
        images = sample.draw(place, n=n, seed=seed, step=step, ema=ema)
    sample.write_images(images, out_, columns=interpolate or None)
    say(f"{len(images)} images: {out_}")


def score(
    run: RunPath,
    protocol: Annotated[
        str | None, typer.Option(help=f"One of {', '.join(PROTOCOLS)}; the run's own unless given.")
    ] = None,
    step: Step = None,
    ema: Ema = False,
    set_: Set = None,
    format_: Annotated[Format, typer.Option("--format", help="table or json.")] = Format.table,
) -> None:
    """Score a run's generator again, under its own or another protocol."""
    from gan_mhe.run.score import score_checkpoint

    if format_ not in (Format.table, Format.json):
        raise ConfigError(f"--format {format_}: a score is printed as table or json")
    overrides: dict[str, Any] = {
        "evaluation": ({"ema": True} if ema else {}) | ({"protocol": protocol} if protocol else {})
    }
    scored = score_checkpoint(RunDir(run), step=step, overrides=merge(overrides, compose.parse_overrides(set_ or [])))
    if format_ is Format.json:
        out.print_json(json.dumps(scored))
    else:
        say(f"step {scored['step']}  {scored['protocol']}")
        print_table(("metric", "generator", "real data", "fingerprint"), score_rows(scored))


def info(run: RunPath) -> None:
    """Say what a run is and how far it got."""
    from gan_mhe.records.events import Evaluated, Finished, Progress, effective

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
        (
            f"{event.purpose} {event.step}",
            "  ".join(f"{name} {event.scores[name]:.4g}" for name in METRICS if name in event.scores),
        )
        for event in events
        if isinstance(event, Evaluated)
    ]
    print_table(("", ""), rows)


def variants() -> None:
    """List the named variants."""
    print_table(("variant", "what it is", "source"), [(n, v.description, v.source) for n, v in VARIANTS.items()])
