"""What each task's configuration amounts to: its cost, and its lines in a report. Loads no torch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from gan_mhe.config.run_config import RunConfig


@dataclass(frozen=True)
class Summary:
    """Functions that sum up the configurations of one task."""

    images_per_step: Callable[[RunConfig], int]
    """Real images in one step."""
    work: Callable[[RunConfig], str]
    """All steps in words, for an estimate of the cost."""
    facts: Callable[[RunConfig], dict[str, Any]]
    """Networks and training as JSON values, by name."""
    lines: Callable[[RunConfig], tuple[str, ...]]
    """The same as lines of a report."""


def _gan_images_per_step(config: RunConfig) -> int:
    return config.training.batch_size * config.training.n_dis


def _gan_work(config: RunConfig) -> str:
    training = config.training
    return (
        f"{training.steps:,} generator steps of {training.n_dis} discriminator updates on {training.batch_size} real "
        "images each"
    )


def _gan_facts(config: RunConfig) -> dict[str, Any]:
    return {
        "generator": f"{config.generator.architecture}, width {config.generator.width:g}",
        "discriminator": f"{config.discriminator.architecture}, width {config.discriminator.width:g}",
        "steps": config.training.steps,
        "batch_size": config.training.batch_size,
        "discriminator_updates_per_step": config.training.n_dis,
        "precision": config.training.precision,
    }


def _gan_lines(config: RunConfig) -> tuple[str, ...]:
    facts = _gan_facts(config)
    return (
        f"networks: generator {facts['generator']}; discriminator {facts['discriminator']}",
        f"training: {facts['steps']} generator steps, batch size {facts['batch_size']}, discriminator updates per step "
        f"{facts['discriminator_updates_per_step']}, {facts['precision']}",
    )


SUMMARIES: Mapping[str, Summary] = MappingProxyType(
    {"gan": Summary(images_per_step=_gan_images_per_step, work=_gan_work, facts=_gan_facts, lines=_gan_lines)}
)
"""By task (`gan_mhe.config.names.TASKS`)."""
