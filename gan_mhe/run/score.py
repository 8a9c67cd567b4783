"""Scores of a checkpoint under a chosen protocol, and the training of classifiers for `classifier:<name>`."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from gan_mhe.config.compose import parse_stored
from gan_mhe.config.documents import flatten, merge
from gan_mhe.config.protocols import CLASSIFIER_PREFIX, classifier_file, protocol_settings, too_few_samples
from gan_mhe.config.run_config import EXECUTION_KEYS, RunConfig
from gan_mhe.data.datasets import ImageSet
from gan_mhe.errors import ConfigError
from gan_mhe.evaluation.classifier_facts import check_skill
from gan_mhe.evaluation.train_classifier import save_classifier, train_classifier
from gan_mhe.files import atomic_write, default_cache_dir, write_cached
from gan_mhe.records import checkpoint
from gan_mhe.records.data_summary import DataSummary
from gan_mhe.records.events import encode_number
from gan_mhe.records.inputs import Inputs
from gan_mhe.records.run_dir import RunDir
from gan_mhe.run.inputs import check_inputs
from gan_mhe.run.sample import chosen_step
from gan_mhe.tasks import TASKS
from gan_mhe.tasks.gan import load_images
from gan_mhe.training.precision import resolve_device


class TrainedClassifier(NamedTuple):
    """A classifier that was trained and written."""

    path: Path
    """Its weights file."""
    accuracy: float
    """Accuracy on held-out images in 0..1."""
    chance: float
    """Accuracy of always naming the most frequent class in 0..1."""


def score_checkpoint(
    run: RunDir,
    *,
    step: int | None,
    overrides: Mapping[str, Any],
    digest: str | None = None,
    notice: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Score one checkpoint with fresh latents.

    step: of the checkpoint, None for the newest; overrides: changes to the `evaluation` section and to keys that say
    where a run is executed; digest: what the checkpoint's digest must be; notice: receives what the user should know
    about the meaning of the scores. The images must be those that the run was trained on, and the weights of the scorer
    its own, unless the overrides name another protocol or a weights file. A protocol other than the run's has its own
    number of samples and its own weights, unless the overrides name them.

    Returns `step`, `protocol`, `fingerprints`, `scores` and the scores of the real images as `real`, all as JSON
    values. Raises ConfigError for other overrides, for changed files or without a protocol, CheckpointError if there is
    no such checkpoint or it has another digest.
    """
    others = [key for key in flatten(overrides) if not key.startswith("evaluation.") and key not in EXECUTION_KEYS]
    if others:
        raise ConfigError(f"a score can change evaluation keys only; got {', '.join(others)}")
    saved = run.read_config()
    config = _with_evaluation(saved, overrides)
    if config.evaluation.protocol == "none":
        raise ConfigError("evaluation.protocol is 'none'; name one with --protocol")
    _check_count(config, overrides)
    chosen = chosen_step(run, step)
    task = TASKS[config.task](config)
    expected = run.read_inputs()
    if config.evaluation.protocol != saved.evaluation.protocol or "evaluation.weights" in flatten(overrides):
        expected = replace(expected, weights_sha256=None)  # another scorer was asked for
    check_inputs(config, Inputs(task.data.sha256, task.weights_sha256), expected, str(run.root))
    task.load_state(checkpoint.load(run.checkpoint(chosen), lineage=saved.digest("resumable"), digest=digest).tensors)
    if notice is not None:
        for note in task.score_notes:
            notice(note)
    return {
        "step": chosen,
        "protocol": task.protocol,
        "fingerprints": task.fingerprints,
        "scores": {name: encode_number(value) for name, value in task.evaluate(fresh=True).items()},
        "real": {name: encode_number(value) for name, value in task.real_scores().items()},
    }


def _check_count(config: RunConfig, overrides: Mapping[str, Any]) -> None:
    """ConfigError if the overrides ask for a score of too few images."""
    asked = {"evaluation.num_samples", "evaluation.protocol"} & flatten(overrides).keys()
    if asked and config.evaluation.num_samples is not None:
        lack = too_few_samples(config.evaluation.protocol, config.evaluation.num_samples)
        if lack:
            raise ConfigError(f"evaluation.num_samples: {lack}")


def _with_evaluation(saved: RunConfig, overrides: Mapping[str, Any]) -> RunConfig:
    """The configuration with the overrides; another protocol has its own number of samples and its own weights."""
    changed = parse_stored(merge(saved.document(), overrides))
    if saved.evaluation.protocol in ("none", changed.evaluation.protocol):
        return changed
    own: dict[str, Any] = {"evaluation": {"num_samples": None, "weights": None}}
    return parse_stored(merge(merge(saved.document(), own), overrides))


def train_and_save_classifier(
    name: str,
    config: RunConfig,
    *,
    width: float,
    epochs: int,
    seed: int,
    device: str,
    out: Path | None,
    progress: Callable[[int, float], None],
    loaded: Callable[[DataSummary], None] | None = None,
) -> TrainedClassifier:
    """Train the classifier of the protocol `classifier:<name>` on the data of `config` and write its weights file.

    out: the weights file, None for the path where the protocol finds it; loaded: receives what the data set holds,
    before training. Raises ConfigError for a name that no protocol can have, before training; ExtractorError for a
    classifier near chance, which is not written.
    """
    protocol = f"{CLASSIFIER_PREFIX}{name}"
    settings = protocol_settings(protocol)
    path = out or classifier_file(name, default_cache_dir())
    images = load_images(config)
    if loaded is not None:
        loaded(images.summary)
    tensors, metadata = train_classifier(
        images, width=width, epochs=epochs, seed=seed, device=resolve_device(device), progress=progress
    )
    accuracy, chance = float(metadata["held_out_accuracy"]), _largest_share(images)
    check_skill(protocol, accuracy=accuracy, chance=chance, smallest=settings.smallest_skill)
    save_classifier(path, tensors, metadata, atomic_write if out else write_cached)
    return TrainedClassifier(path, accuracy, chance)


def _largest_share(images: ImageSet) -> float:
    """The accuracy of always naming the most frequent class, in 0..1."""
    assert images.labels is not None, "train_classifier refuses images without labels"
    return int(images.labels.bincount().max()) / len(images.labels)
