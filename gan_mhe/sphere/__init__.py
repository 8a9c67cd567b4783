"""Hyperspherical energies and measures of uniformity of a layer's neurons, as pure functions on tensors."""

from gan_mhe.sphere.energy import (
    Distance,
    Reduction,
    energy_and_angle,
    hyperspherical_energies,
    hyperspherical_energy,
)
from gan_mhe.sphere.official import ClassifierKind, official_classifier_energy, official_gan_energy
from gan_mhe.sphere.projection import (
    adversarial_step,
    angle_preserving_step,
    group_energies,
    groups_of,
    projected_energies,
)

__all__ = [
    "ClassifierKind",
    "Distance",
    "Reduction",
    "adversarial_step",
    "angle_preserving_step",
    "energy_and_angle",
    "group_energies",
    "groups_of",
    "hyperspherical_energies",
    "hyperspherical_energy",
    "official_classifier_energy",
    "official_gan_energy",
    "projected_energies",
]
