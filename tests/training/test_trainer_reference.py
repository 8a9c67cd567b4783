"""The trainer against a plain training loop, written out independently, in float64."""

import copy
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gan_mhe.config.run_config import RunConfig
from gan_mhe.rng import generator
from gan_mhe.training.trainer import Trainer
from tests.support.trained import SHALLOW

STEPS = 5
# Powers of two, and linear decay over 16 steps: learning rates that float32, in which they are kept, holds exactly.
LEARNING_RATES = {"generator_lr": 2.0**-10, "discriminator_lr": 2.0**-9}
PlainPenalty = Callable[[nn.Module, Tensor, Tensor, torch.Generator], Tensor]


def no_penalty(network: nn.Module, real: Tensor, fake: Tensor, noise: torch.Generator) -> Tensor:
    return torch.zeros((), dtype=torch.float64)


def energies(network: nn.Module, real: Tensor, fake: Tensor, noise: torch.Generator) -> Tensor:
    """10 x the mean over pairs of -log distance, summed over the convolutions."""
    filters = [layer.weight.flatten(1) for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    assert len(filters) == len(SHALLOW)
    return 10 * sum(-torch.pdist(w / w.norm(dim=1, keepdim=True)).log().mean() for w in filters)


def slopes(network: nn.Module, real: Tensor, fake: Tensor, noise: torch.Generator) -> Tensor:
    """10 x the mean over images of (||grad D|| - 1)^2 between real and generated."""
    mix = torch.rand(len(real), 1, 1, 1, generator=noise, dtype=torch.float64)
    between = (fake + mix * (real - fake)).requires_grad_()
    (gradient,) = torch.autograd.grad(network(between).sum(), between, create_graph=True)
    return 10 * ((gradient.square().sum(dim=(1, 2, 3)).sqrt() - 1) ** 2).mean()


def real_batches(images: Tensor, config: RunConfig) -> Iterator[Tensor]:
    """Batches that run through one permutation after the other."""
    epochs = range(STEPS * config.training.n_dis * config.training.batch_size // len(images) + 1)
    rngs = [generator("cpu", config.seed, "epoch", epoch) for epoch in epochs]
    order = torch.cat([torch.randperm(len(images), generator=rng) for rng in rngs])
    for indices in order.split(config.training.batch_size):
        yield (images[indices].float() / 127.5 - 1).double()


def plain_adam(network: nn.Module, lr: float) -> torch.optim.Adam:
    return torch.optim.Adam(network.parameters(), lr=lr, betas=(0.5, 0.999), eps=1e-8, fused=False, foreach=False)


def plain_loop(
    g: nn.Module, d: nn.Module, average: nn.Module, images: Tensor, config: RunConfig, penalty: PlainPenalty
) -> None:
    """Non-saturating GAN training of `g` and `d` in place, with a moving average of `g`."""
    adam_g, adam_d = (plain_adam(net, lr) for net, lr in zip((g, d), LEARNING_RATES.values(), strict=True))
    rates = [(group, group["lr"]) for adam in (adam_g, adam_d) for group in adam.param_groups]
    batches, latent = real_batches(images, config), (config.training.batch_size, config.generator.latent_dim)
    for step in range(STEPS):
        for group, lr in rates:
            group["lr"] = lr * (1 - step / config.training.steps)
        names = ("latents/discriminator", "latents/generator", "penalty")
        for_d, for_g, noise = (generator("cpu", config.seed, name, step) for name in names)
        for _ in range(config.training.n_dis):
            real = next(batches)
            fake = g(torch.randn(latent, generator=for_d, dtype=torch.float64)).detach()
            loss = F.softplus(-d(real)).mean() + F.softplus(d(fake)).mean() + penalty(d, real, fake, noise)
            adam_d.zero_grad()
            loss.backward()
            adam_d.step()
        adam_g.zero_grad()
        F.softplus(-d(g(torch.randn(latent, generator=for_g, dtype=torch.float64)))).mean().backward()
        adam_g.step()
        with torch.no_grad():
            for mean, value in zip(average.parameters(), g.parameters(), strict=True):
                mean += (1 - 2 ** (-1 / 10)) * (value - mean)


@pytest.mark.parametrize(("variant", "n_dis", "penalty"), [
    ("none", 1, no_penalty), ("none", 3, no_penalty), ("mhe", 1, energies), ("gan_gp", 2, slopes),
])  # fmt: skip
def test_a_step_equals_a_plain_training_loop(
    make_trainer: Callable[..., Trainer],
    advance: Callable[..., Trainer],
    images: Tensor,
    variant: str,
    n_dis: int,
    penalty: PlainPenalty,
) -> None:
    sections: dict[str, Any] = {
        "generator": {"ema_halflife_steps": 10.0},
        "optimizer": {**LEARNING_RATES, "schedule": {"kind": "linear_decay"}},
        "training": {"precision": "float64", "n_dis": n_dis, "steps": 16},
        "constraints": {"mhe": {"lambda_hidden": 10.0, "schedule": {"warmup_steps": 0}}} if variant == "mhe" else {},
    }
    trainer = make_trainer(variant, **sections)
    networks = trainer.generator, trainer.discriminator, trainer.ema.network
    g, d, average = (copy.deepcopy(network).train().requires_grad_() for network in networks)
    average.requires_grad_(False)
    advance(trainer, range(STEPS))
    plain_loop(g, d, average, images, trainer.config, penalty)
    assert_close = partial(torch.testing.assert_close, rtol=1e-10, atol=1e-10)
    for ours, plain in zip(networks, (g, d, average), strict=True):
        assert_close(dict(ours.named_parameters()), dict(plain.named_parameters()))
    assert_close(list(trainer.generator.buffers()), list(g.buffers()))
