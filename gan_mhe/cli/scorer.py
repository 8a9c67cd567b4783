"""`gan-mhe scorer`: train feature extractors for your own data sets."""

from pathlib import Path
from typing import Annotated

import typer

from gan_mhe.cli.console import say
from gan_mhe.cli.options import Set, possible
from gan_mhe.config import compose
from gan_mhe.config.documents import flatten, merge
from gan_mhe.errors import ConfigError
from gan_mhe.streams import output_is_optional

scorer_app = typer.Typer(help="Train classifiers that score your own data sets.", no_args_is_help=True)


@scorer_app.command("train")
def scorer_train(
    name: Annotated[str, typer.Argument(help="Name of the classifier; its protocol is classifier:NAME.")],
    data: Annotated[str, typer.Option(help="Data set with labels.")],
    set_: Set = None,
    root: Annotated[
        Path | None, typer.Option(help="Folder of the images if DATA is image_folder.", callback=possible)
    ] = None,
    image_size: Annotated[int, typer.Option(help="Height and width of the images in pixels.")] = 32,
    width: Annotated[float, typer.Option(min=0.01, help="Factor of the classifier's channel counts.")] = 1.0,
    epochs: Annotated[int, typer.Option(min=1)] = 30,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda:N.")] = "auto",
    out_: Annotated[
        Path | None,
        typer.Option("--out", help="Weights file. Default: NAME.safetensors in the cache.", callback=possible),
    ] = None,
) -> None:
    """Train a classifier on real images and save it for the protocol `classifier:NAME`.

    --set takes the keys of the section `data`, so that the scorer reads what `gan-mhe train` reads, such as
    data.split=test or data.resize=crop; it wins over the options.
    """
    output_is_optional()
    overrides = compose.parse_local_overrides(set_ or [])
    others = [key for key in flatten(overrides) if not key.startswith("data.")]
    if others:
        raise ConfigError(f"--set: a scorer reads keys of the section data only; got {', '.join(others)}")
    options = {"data": {"name": data, "root": root, "image_size": image_size}, "evaluation": {"protocol": "none"}}
    settings = compose.parse(merge(options, overrides))
    from gan_mhe.run.score import train_and_save_classifier

    trained = train_and_save_classifier(
        name,
        settings,
        width=width,
        epochs=epochs,
        seed=seed,
        device=device,
        out=out_,
        loaded=lambda summary: say(f"data: {summary.line()}"),
        progress=lambda epoch, loss: say(f"epoch {epoch} of {epochs}  loss {loss:.4f}"),
    )
    say(f"held-out accuracy {trained.accuracy:.4f}, chance {trained.chance:.4f}: {trained.path}")
    weights = f" evaluation.weights={trained.path}" if out_ else ""
    say(f"use it with --set evaluation.protocol=classifier:{name}{weights}")
