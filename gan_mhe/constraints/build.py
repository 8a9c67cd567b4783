"""Apply the `constraints` section of a configuration to a discriminator."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

from torch import nn

from gan_mhe.config.constraints import ConstraintsConfig
from gan_mhe.constraints import clipping, comhe, gradient, hyperspherical, normalize, orthogonal, uniformity
from gan_mhe.constraints.penalty import Penalty
from gan_mhe.constraints.sphere_conv import sphere_conv
from gan_mhe.rng import generator

# The penalties of each section, from the section, the discriminator and the seed of the run. The order matters: it is
# the order in which their gradients are added, which decides the rounding.
MAKERS: Mapping[str, Callable[[Any, nn.Module, int], list[Penalty]]] = MappingProxyType(
    {
        "gradient_penalty": gradient.gradient_penalties,
        "orthonormal": orthogonal.orthonormal_penalties,
        "mhe": hyperspherical.mhe_penalties,
        "official_mhe": hyperspherical.official_mhe_penalties,
        "comhe": comhe.comhe_penalties,
        "uniformity": uniformity.uniformity_penalties,
        "weight_decay": hyperspherical.weight_decay_penalties,
    }
)


@dataclass(frozen=True)
class Constraints:
    """The constraints that act on a discriminator during training.

    Its normalization and initialization are part of the network itself.
    """

    penalties: tuple[Penalty, ...]
    """Terms of the discriminator's loss; their gradients are added in this order."""
    after_update: tuple[Callable[[nn.Module], None], ...]
    """Projections of the discriminator's weights, to be called after each optimizer step."""
    notes: tuple[str, ...]
    """Messages for the user, such as a layer that a penalty skips."""


def constrain(discriminator: nn.Module, config: ConstraintsConfig, *, seed: int) -> Constraints:
    """Initialize and normalize `discriminator` in place, and return its penalties and projections.

    Raises ConfigError if the configuration does not fit the network.
    """
    if config.sphere_conv:
        sphere_conv(discriminator, **config.sphere_conv.model_dump())
    if config.orthonormal and config.orthonormal.initialise:
        orthogonal.orthonormal_init(discriminator, generator("cpu", seed, "orthonormal_init"))
    _normalize(discriminator, config, seed)
    penalties = tuple(_penalties(discriminator, config, seed))
    return Constraints(penalties, tuple(_projections(config)), tuple(_notes(penalties)))


def _normalize(discriminator: nn.Module, config: ConstraintsConfig, seed: int) -> None:
    match config.normalization:
        case "batch":
            normalize.batch_norm(discriminator)
        case "layer":
            normalize.layer_norm(discriminator)
        case "weight":
            normalize.weight_norm(discriminator)
        case "spectral":
            normalize.spectral_norm(discriminator, generator("cpu", seed, "spectral_norm"))


def _penalties(discriminator: nn.Module, config: ConstraintsConfig, seed: int) -> list[Penalty]:
    active = {name: section for name in MAKERS if (section := getattr(config, name)) is not None}
    return [penalty for name, section in active.items() for penalty in MAKERS[name](section, discriminator, seed)]


def _projections(config: ConstraintsConfig) -> list[Callable[[nn.Module], None]]:
    if config.clipping is None:
        return []
    return [partial(clipping.clip_conv_weights, bound=config.clipping.bound)]


def _notes(penalties: tuple[Penalty, ...]) -> list[str]:
    return [
        f"{penalty.name}: layer {layer} has one neuron and no pair, so its energy is 0"
        for penalty in penalties
        for layer in penalty.skipped_layers
    ]
