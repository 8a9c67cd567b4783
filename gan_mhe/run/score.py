"""Scoring outside a training run: a checkpoint under a chosen protocol, and the making of scorers."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gan_mhe.config.compose import parse_stored
from gan_mhe.config.documents import flatten, merge
from gan_mhe.config.run_config import EXECUTION_KEYS, RunConfig
from gan_mhe.errors import ConfigError
from gan_mhe.evaluation.protocol import protocol_settings
from gan_mhe.evaluation.train_classifier import save_scorer, train_scorer
from gan_mhe.files import default_cache_dir
from gan_mhe.records import checkpoint
from gan_mhe.records.events import encode_number
from gan_mhe.records.run_dir import RunDir
from gan_mhe.run.sample import chosen_step
from gan_mhe.tasks import TASKS
from gan_mhe.tasks.gan import load_images
from gan_mhe.training.precision import resolve_device


def score_checkpoint(
    run: RunDir, *, step: int | None, overrides: Mapping[str, Any], digest: str | None = None
) -> dict[str, Any]:
    """Score one checkpoint with fresh latents; `overrides` may change evaluation and execution, not what the run is.

    `digest`, when given, must be the checkpoint's: CheckpointError else. Returns step, protocol, fingerprint, scores
    and the real data's scores as JSON values.
    """
    others = [key for key in flatten(overrides) if not key.startswith("evaluation.") and key not in EXECUTION_KEYS]
    if others:
        raise ConfigError(f"scoring can change evaluation keys only; got {', '.join(others)}")
    saved = run.read_config()
    config = parse_stored(merge(saved.document(), overrides))
    if config.evaluation.protocol == "none":
        raise ConfigError("evaluation.protocol is 'none'; name one with --protocol")
    chosen = chosen_step(run, step)
    task = TASKS[config.task](config)
    task.load_state(checkpoint.load(run.checkpoint(chosen), lineage=saved.digest("resumable"), digest=digest).tensors)
    return {
        "step": chosen,
        "protocol": task.protocol,
        "fingerprint": task.fingerprint,
        "scores": {name: encode_number(value) for name, value in task.evaluate(fresh=True).items()},
        "real": {name: encode_number(value) for name, value in task.real_scores().items()},
    }


def train_and_save_scorer(
    name: str,
    config: RunConfig,
    *,
    width: float,
    epochs: int,
    seed: int,
    device: str,
    out: Path | None,
    progress: Callable[[int, float], None],
) -> tuple[Path, float]:
    """Train a classifier on the configuration's data and write its weights file; the path and held-out accuracy."""
    protocol_settings(f"classifier:{name}")  # refuses a name that no configuration could use
    path = out or default_cache_dir() / "scorers" / f"{name}.safetensors"
    tensors, metadata = train_scorer(
        load_images(config), width=width, epochs=epochs, seed=seed, device=resolve_device(device), progress=progress
    )
    save_scorer(path, tensors, metadata)
    return path, float(metadata["held_out_accuracy"])
