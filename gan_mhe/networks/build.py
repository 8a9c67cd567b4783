"""Builds networks by name, with weights that depend only on the given random generator."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import TypeVar

import torch
from torch import nn

from gan_mhe.errors import ConfigError
from gan_mhe.networks.discriminators import MiyatoDiscriminator, OfficialDiscriminator, ResNetDiscriminator
from gan_mhe.networks.generators import CnnGenerator, ResNetGenerator

Entry = TypeVar("Entry")

GENERATORS: Mapping[str, type[CnnGenerator] | type[ResNetGenerator]] = MappingProxyType(
    {"cnn": CnnGenerator, "resnet": ResNetGenerator}
)
"""The generators by the names of `gan_mhe.config.names.GENERATORS`."""

DISCRIMINATORS: Mapping[str, type[MiyatoDiscriminator] | type[OfficialDiscriminator] | type[ResNetDiscriminator]] = (
    MappingProxyType(
        {"cnn_miyato": MiyatoDiscriminator, "cnn_official": OfficialDiscriminator, "resnet": ResNetDiscriminator}
    )
)
"""The discriminators by the names of `gan_mhe.config.names.DISCRIMINATORS`."""


def build_generator(
    architecture: str, *, image_size: int, latent_dim: int, width: float, generator: torch.Generator
) -> nn.Module:
    """A new float32 generator on the CPU: (B, latent_dim) -> (B, 3, image_size, image_size) in [-1, 1].

    architecture: a key of GENERATORS. generator: the CPU random generator of all weights; torch's global one is not
    advanced. Raises ConfigError for an unknown name or a size out of range.
    """
    network_class = _lookup("generator", GENERATORS, architecture)
    # The constructors of torch's layers draw default weights from the global random generator.
    with torch.random.fork_rng(devices=[]):
        network = network_class(image_size=image_size, latent_dim=latent_dim, width=width)
    network.initialize(generator)
    return network


def build_discriminator(architecture: str, *, image_size: int, width: float, generator: torch.Generator) -> nn.Module:
    """A new float32 discriminator on the CPU: (B, 3, image_size, image_size) in [-1, 1] -> (B,) logits.

    architecture: a key of DISCRIMINATORS. generator: the CPU random generator of all weights; torch's global one is
    not advanced. Raises ConfigError for an unknown name or a size out of range.
    """
    network_class = _lookup("discriminator", DISCRIMINATORS, architecture)
    with torch.random.fork_rng(devices=[]):
        network = network_class(image_size=image_size, width=width)
    network.initialize(generator)
    return network


def _lookup(kind: str, table: Mapping[str, Entry], architecture: str) -> Entry:
    if architecture not in table:
        raise ConfigError(f"{kind}.architecture: expected one of {', '.join(sorted(table))}, got {architecture!r}")
    return table[architecture]
