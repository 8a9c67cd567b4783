"""The mathematics of neurons on the sphere, as pure functions on tensors."""

from gan_mhe.sphere.energy import (
    Distance,
    Reduction,
    energy_and_angle,
    hyperspherical_energies,
    hyperspherical_energy,
)
from gan_mhe.sphere.official import ClassifierKind, official_classifier_energy, official_gan_energy

__all__ = [
    "ClassifierKind",
    "Distance",
    "Reduction",
    "energy_and_angle",
    "hyperspherical_energies",
    "hyperspherical_energy",
    "official_classifier_energy",
    "official_gan_energy",
]
