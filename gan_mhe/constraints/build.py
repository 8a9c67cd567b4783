"""From a configuration's `constraints` section to a constrained discriminator and its list of penalties."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import nn

from gan_mhe.config.constraints import ConstraintsConfig
from gan_mhe.constraints import clipping, comhe, gradient, hyperspherical, normalize, orthogonal, uniformity
from gan_mhe.constraints.penalty import Penalty
from gan_mhe.constraints.sphere_conv import sphere_conv
from gan_mhe.rng import generator


@dataclass(frozen=True)
class Constraints:
    """What acts on a discriminator besides its normalisation layers.

    penalties: added to its loss, in this order. after_update: run on it after each optimiser step.
    notes: what a person should know, such as a layer that a penalty cannot see.
    """

    penalties: tuple[Penalty, ...]
    after_update: tuple[Callable[[nn.Module], None], ...]
    notes: tuple[str, ...]


def constrain(discriminator: nn.Module, config: ConstraintsConfig, *, seed: int) -> Constraints:
    """Initialise and normalise `discriminator` in place as configured; return the rest of its constraints.

    ConfigError where the configuration does not fit the network.
    """
    if config.sphere_conv:
        sphere_conv(discriminator, **config.sphere_conv.model_dump())
    if config.orthonormal and config.orthonormal.initialise:
        orthogonal.orthonormal_init(discriminator, generator("cpu", seed, "orthonormal_init"))
    _normalise(discriminator, config, seed)
    return Constraints(
        penalties=tuple(_penalties(discriminator, config, seed)),
        after_update=tuple(_projections(config)),
        notes=tuple(_notes(discriminator, config)),
    )


def _normalise(discriminator: nn.Module, config: ConstraintsConfig, seed: int) -> None:
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
    return [
        *([gradient.gradient_penalty(config.gradient_penalty)] if config.gradient_penalty else []),
        *([orthogonal.orthonormal_penalty(config.orthonormal)] if config.orthonormal else []),
        *(hyperspherical.mhe_penalties(config.mhe, discriminator, seed) if config.mhe else []),
        *([hyperspherical.official_penalty(config.official_mhe)] if config.official_mhe else []),
        *(comhe.comhe_penalties(config.comhe, discriminator, seed) if config.comhe else []),
        *([uniformity.uniformity_penalty(config.uniformity, discriminator, seed)] if config.uniformity else []),
        *([hyperspherical.weight_decay_penalty(config.weight_decay)] if config.weight_decay else []),
    ]


def _projections(config: ConstraintsConfig) -> list[Callable[[nn.Module], None]]:
    if config.clipping is None:
        return []
    return [partial(clipping.clip_conv_weights, bound=config.clipping.bound)]


def _notes(discriminator: nn.Module, config: ConstraintsConfig) -> list[str]:
    name = next((name for name in ("mhe", "comhe", "uniformity") if getattr(config, name)), None)
    if name is None:
        return []
    return [
        f"{name}: layer {layer.name} has one neuron and no pair, so its energy is 0"
        for layer in hyperspherical.single_neuron_layers(discriminator)
    ]
