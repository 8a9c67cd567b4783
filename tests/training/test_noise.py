"""Random numbers of a step are functions of seed, stream and step, in buffers with fixed addresses."""

from collections.abc import Callable

import torch

from gan_mhe.config.run_config import RunConfig
from gan_mhe.training.noise import Noise

CPU = torch.device("cpu")


def noise(config: RunConfig) -> Noise:
    return Noise(config, CPU, torch.float64)


def drawn(noise: Noise) -> list[torch.Tensor]:
    return [noise.discriminator_KBZ.clone(), noise.generator_BZ.clone(), noise.mix_KB111.clone()]


def same(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    return all(map(torch.equal, first, second))


def test_numbers_depend_on_the_seed_and_the_step_alone(make_config: Callable[..., RunConfig]) -> None:
    first, second, other = noise(make_config()), noise(make_config()), noise(make_config(seed=1))
    for each in (first, second, other):
        each.set_step(7)
    second.set_step(9)
    assert not any(map(torch.equal, drawn(first), drawn(second)))
    assert not any(map(torch.equal, drawn(first), drawn(other)))
    second.set_step(7)
    assert same(drawn(first), drawn(second))


def test_every_update_of_a_step_has_numbers_of_its_own(make_config: Callable[..., RunConfig]) -> None:
    found = noise(make_config(training={"n_dis": 2}))
    found.set_step(0)
    assert not torch.equal(found.discriminator_KBZ[0], found.discriminator_KBZ[1])
    assert not torch.equal(found.discriminator_KBZ[0], found.generator_BZ)
    assert not torch.equal(found.mix_KB111[0], found.mix_KB111[1])


def test_setting_a_step_keeps_the_addresses_that_a_captured_step_reads(make_config: Callable[..., RunConfig]) -> None:
    found = noise(make_config())
    buffers = found.discriminator_KBZ, found.generator_BZ, found.mix_KB111
    before = [buffer.data_ptr() for buffer in buffers]
    found.set_step(5)
    assert [buffer.data_ptr() for buffer in (found.discriminator_KBZ, found.generator_BZ, found.mix_KB111)] == before


def test_setting_a_step_does_not_use_the_global_generator(make_config: Callable[..., RunConfig]) -> None:
    before = torch.random.get_rng_state()
    noise(make_config()).set_step(3)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_latents_are_standard_normal_and_mixing_numbers_uniform(make_config: Callable[..., RunConfig]) -> None:
    found = noise(make_config(training={"batch_size": 4096}, generator={"latent_dim": 2}))
    found.set_step(0)
    normal, uniform = torch.distributions.Normal(0, 1).cdf, lambda x: x
    for values, cdf in ((found.discriminator_KBZ, normal), (found.generator_BZ, normal), (found.mix_KB111, uniform)):
        ordered = cdf(values.double().flatten().sort().values)
        expected = (torch.arange(len(ordered), dtype=torch.float64) + 0.5) / len(ordered)
        # Kolmogorov-Smirnov: sqrt(n) D exceeds 1.95 once in a thousand draws.
        assert (ordered - expected).abs().max().item() * len(ordered) ** 0.5 < 1.95
