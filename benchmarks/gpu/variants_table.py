"""Table 14 of the MHE paper on CIFAR-10 at full width: whole seeds of all rows, scored by a classifier of CIFAR-10.

Runs are trained several at once, as many as the stage `concurrency` found best. A run that ends leaves its result in
`variants.jsonl` and its last grid in `grids.png`; runs that the budget cuts short resume on the same machine.
"""

import json
import math
import os
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.gpu.concurrency import best_count
from benchmarks.gpu.kit import Results, Setup, say
from gan_mhe.comparison import compare as comparisons
from gan_mhe.comparison.table import as_json
from gan_mhe.config.compose import compose
from gan_mhe.config.documents import PRESETS, load_document
from gan_mhe.config.run_config import RunConfig
from gan_mhe.errors import GanMheError
from gan_mhe.files import atomic_write, sha256_file, write_json
from gan_mhe.images.grids import encode_png
from gan_mhe.records.events import Evaluated, Event, Notice
from gan_mhe.records.run_dir import RunDir
from gan_mhe.run.score import score_checkpoint, train_and_save_classifier
from gan_mhe.sweep.sweep import Budget, Plan, runs_below, sweep_in_waves
from gan_mhe.tasks.gan import load_images
from gan_mhe.variants import VARIANTS

ROWS = (
    *("none", "weight_clipping", "gan_gp", "wgan_gp", "batch_norm", "layer_norm", "weight_norm", "orthonormal"),
    *("spectral_norm", "mhe", "mhe_sn", "half_mhe_sn", "comhe_sn", "r1", "r3gan", "san_mhe"),
)
SEEDS = (0, 1, 2, 3)
UPDATES = 40_000  # of both networks together: 20,000 steps with one discriminator update each
EXTRACTOR = "classifier:cifar10"
_EVALUATIONS = 5
_TO_FINISH = 15.0  # seconds kept for scores with the other weights, the comparison and the sheet of grids
_EPOCHS = 12


def run(setup: Setup, results: Results) -> None:
    """Train, score and compare; needs `setup.data`."""
    if setup.data is None:
        say("  skipped: --data is not given")
        return
    work = Path(setup.out) / "work"
    root = _image_folder(Path(setup.data), work)
    results.measure("extractor", lambda: extractor(setup, root, work))
    if "extractor" not in results:
        return
    weights = Path(results["extractor"]["path"])
    concurrent = Results(Path(setup.out) / "concurrency.jsonl", math.inf)
    jobs = 2 if setup.tiny else best_count(concurrent)
    load_images(configuration("none", 0, setup, root, weights))  # decodes them once, before many runs need them
    waves = [[configuration(row, seed, setup, root, weights) for row in rows(setup)] for seed in _seeds(setup)]
    runs = [runs_below(work / "runs", wave) for wave in waves]
    _restore(results, [run.directory for wave in runs for run in wave])
    budget = Budget(_Never(), results.seconds_left() - _TO_FINISH)
    threads = max(1, (os.cpu_count() or 1) // jobs)
    failures = sweep_in_waves(runs, _listener(results), budget, Plan(jobs, threads))
    for failed, error in failures:
        results.write(f"failed/{failed.title}", {"error": str(error)})
    directories = [run.directory for wave in runs for run in wave]
    _record(results, directories)
    _score_the_average(results, directories, weights)
    _compare(setup, directories)
    _sheet(setup, runs[0])


def rows(setup: Setup) -> tuple[str, ...]:
    """The rows that exist as variants."""
    return ("none", "spectral_norm") if setup.tiny else tuple(row for row in ROWS if row in VARIANTS)


def _seeds(setup: Setup) -> tuple[int, ...]:
    return SEEDS[:1] if setup.tiny else SEEDS


def configuration(variant: str, seed: int, setup: Setup, root: Path, weights: Path) -> RunConfig:
    """The official preset, with equal numbers of updates for every row whatever its `n_dis`."""
    bf16 = setup.device == "cuda"
    changed: dict[str, Any] = {
        "data": {"name": "image_folder", "root": str(root)},
        "generator": {"ema_halflife_steps": 500.0},
        "training": {"precision": "bf16" if bf16 else "float32", "device": setup.device, "report_every_steps": 500},
        "sampling": {"num_images": 64},
        "evaluation": {"protocol": EXTRACTOR, "weights": str(weights), "num_samples": 10_000},
        "checkpoint": {"keep_last": 1},
    }
    if setup.tiny:
        changed["generator"] |= {"width": 1 / 32, "latent_dim": 16}
        changed |= {"discriminator": {"width": 1 / 32}}
        changed["training"] |= {"batch_size": 4}
        changed["evaluation"] |= {"num_samples": 100}
    document = load_document(PRESETS / "cifar10_cnn_official.toml")
    n_dis = compose(document, variant=variant, overrides=changed).training.n_dis
    steps = (8 if setup.tiny else UPDATES) // (1 + n_dis)
    every = max(1, steps // _EVALUATIONS)
    changed["training"]["steps"] = steps
    changed["sampling"]["every_steps"] = changed["evaluation"]["every_steps"] = every
    changed["checkpoint"]["every_steps"] = every
    return compose(document, variant=variant, seed=seed, overrides=changed)


def extractor(setup: Setup, root: Path, work: Path) -> dict[str, Any]:
    """The weights of the classifier: those given, or trained now on 80 % of the images."""
    if setup.weights:
        return {"path": setup.weights, "sha256": sha256_file(Path(setup.weights)), "trained": False}
    path = work / "cifar10.safetensors"
    changed = {"data": {"name": "image_folder", "root": str(root)}}
    config = compose(load_document(PRESETS / "cifar10_cnn_official.toml"), overrides=changed)
    width, epochs = (0.1, 20) if setup.tiny else (1.0, _EPOCHS)
    trained = train_and_save_classifier(
        "cifar10", config, width=width, epochs=epochs, seed=0, device=setup.device, out=path, progress=_ignore
    )
    return {"path": str(path), "sha256": sha256_file(path), "trained": True, "held_out_accuracy": trained.accuracy}


def _ignore(epoch: int, loss: float) -> None:
    pass


def _image_folder(data: Path, work: Path) -> Path:
    """The folder, or the archive extracted once."""
    work.mkdir(parents=True, exist_ok=True)
    if data.is_dir():
        return data
    folder = work / "cifar10"
    if not folder.exists():
        with tempfile.TemporaryDirectory(dir=work) as scratch:
            with tarfile.open(data) as archive:
                archive.extractall(scratch, filter="data")
            Path(scratch).rename(folder)
            Path(scratch).mkdir()  # which the end of the block removes
    return folder


class _Never:
    """A run control that asks for nothing."""

    def should_stop(self) -> bool:
        return False


def _listener(results: Results) -> Callable[[str], Any]:
    """Writes scores as they are known. The runs' own journals hold the rest."""

    @contextmanager
    def listen(title: str) -> Iterator[Any]:
        class Sink:
            def emit(self, event: Event) -> None:
                if isinstance(event, Evaluated):
                    values = {"scores": dict(event.scores), "seconds_of_score": event.seconds}
                    results.write(f"score/{title}/{event.purpose}/{event.step}", values)
                elif isinstance(event, Notice):
                    say(f"  {title}: {event.message}")

        began = time.monotonic()
        yield Sink()
        say(f"  {title}: {time.monotonic() - began:.0f} s")

    return listen


def _record(results: Results, directories: Sequence[Path]) -> None:
    """Write the configuration and the result of every run that ended, from which a comparison can be made again."""
    for directory in directories:
        run, key = RunDir(directory), f"run/{directory.parent.name}/{directory.name}"
        result = run.read_result() if run.exists() else None
        if result and result["status"] != "stopped" and key not in results:
            results.write(key, {"config": json.loads(run.config.read_text()), "result": result})


def _restore(results: Results, directories: Sequence[Path]) -> None:
    """Give runs that ended on another machine their directories, so that they are not trained again."""
    for directory in directories:
        run, key = RunDir(directory), f"run/{directory.parent.name}/{directory.name}"
        if key in results and not run.exists():
            directory.mkdir(parents=True)
            write_json(run.config, results[key]["config"])
            write_json(run.result, results[key]["result"])
            atomic_write(run.sample(0), b"")  # what marks a run that has begun


def _score_the_average(results: Results, directories: Sequence[Path], weights: Path) -> None:
    """The moving average of each final generator, on fresh samples."""
    for directory in directories:
        run = RunDir(directory)
        steps = run.checkpoint_steps() if run.exists() else []
        result = run.read_result() if steps else None
        if result is None or result["status"] != "completed":
            continue
        overrides: Mapping[str, Any] = {"evaluation": {"ema": True, "weights": str(weights)}}
        key = f"average/{directory.parent.name}/{directory.name}"
        results.measure(key, lambda run=run, overrides=overrides: score_checkpoint(run, step=None, overrides=overrides))


def _compare(setup: Setup, directories: Sequence[Path]) -> None:
    runs = [RunDir(directory) for directory in directories if RunDir(directory).exists()]
    try:
        found = comparisons.compare([comparisons.read_score(run) for run in runs], reference="none")
    except GanMheError as error:
        say(f"  no comparison: {error}")
        return
    atomic_write(Path(setup.out) / "comparison.json", as_json(found).encode())


def _sheet(setup: Setup, runs: Sequence[Any]) -> None:
    """The last grids of the first seed beside one another, in the order of `rows`, each at native size."""
    images = []
    for run in runs:
        grids = sorted(RunDir(run.directory).samples.glob("*.png"))
        if grids and grids[-1].stat().st_size:
            images.append(Image.open(grids[-1]).convert("RGB"))
    if not images:
        return
    columns = math.ceil(math.sqrt(len(images)))
    width, height = (max(getattr(image, side) for image in images) for side in ("width", "height"))
    sheet = Image.new("RGB", (columns * width, math.ceil(len(images) / columns) * height))
    for index, image in enumerate(images):
        sheet.paste(image, (index % columns * width, index // columns * height))
    atomic_write(Path(setup.out) / "grids.png", encode_png(sheet))
