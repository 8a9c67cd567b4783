"""Both networks of a configuration as training uses them: the generator and the constrained discriminator."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from gan_mhe.config.run_config import RunConfig
from gan_mhe.constraints.build import Constraints, constrain
from gan_mhe.constraints.penalty import PenaltyModule
from gan_mhe.networks.build import build_discriminator, build_generator
from gan_mhe.rng import generator


class Networks(NamedTuple):
    """Both networks, the constraints on the discriminator, and those of its penalties that are modules, by name."""

    generator: nn.Module
    discriminator: nn.Module
    constraints: Constraints
    penalty_modules: nn.ModuleDict


def build_networks(config: RunConfig, device: torch.device, dtype: torch.dtype) -> Networks:
    """Build everything in `dtype` on `device`, in training mode; the weights are drawn on the CPU from `config.seed`.

    Raises ConfigError if the constraints do not fit the discriminator.
    """
    generator_network = build_generator(
        config.generator.architecture,
        image_size=config.data.image_size,
        latent_dim=config.generator.latent_dim,
        width=config.generator.width,
        generator=generator("cpu", config.seed, "init/generator"),
    )
    discriminator = build_discriminator(
        config.discriminator.architecture,
        image_size=config.data.image_size,
        width=config.discriminator.width,
        generator=generator("cpu", config.seed, "init/discriminator"),
    )
    constraints = constrain(discriminator, config.constraints, seed=config.seed)
    modules = {p.name: p.function for p in constraints.penalties if isinstance(p.function, PenaltyModule)}
    return Networks(
        # Convolutions are fastest in channels-last layout, which does not change values.
        generator_network.to(device, dtype).to(memory_format=torch.channels_last).train(),
        discriminator.to(device, dtype).to(memory_format=torch.channels_last).train(),
        constraints,
        nn.ModuleDict(modules).to(device, dtype),
    )


def takes_joint_batch(discriminator: nn.Module) -> bool:
    """Whether real and generated images may share a batch: not with batch normalization, which would mix them."""
    return not any(isinstance(module, nn.BatchNorm2d) for module in discriminator.modules())


def real_and_fake_logits(
    discriminate: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, *, joint: bool
) -> tuple[Tensor, Tensor]:
    """Logits (B,) of two batches of images (B, 3, H, H): from one pass over both if `joint`, else from two passes."""
    if joint:
        real_logits, fake_logits = discriminate(torch.cat([real, fake])).chunk(2)
        return real_logits, fake_logits
    return discriminate(real), discriminate(fake)
