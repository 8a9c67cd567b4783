"""The networks of a configuration: drawn from pinned streams of its seed, in one batch wherever that is allowed."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from gan_mhe.config.run_config import RunConfig
from gan_mhe.networks.build import build_discriminator, build_generator
from gan_mhe.rng import generator
from gan_mhe.training.networks import build_networks, real_and_fake_logits, takes_joint_batch

CPU = torch.device("cpu")
Configure = Callable[..., RunConfig]


def test_initial_weights_are_drawn_from_the_streams_that_stored_seeds_mean(make_config: Configure) -> None:
    config = make_config("none")
    built = build_networks(config, CPU, torch.float32)
    expected = (
        build_generator(
            config.generator.architecture,
            image_size=config.data.image_size,
            latent_dim=config.generator.latent_dim,
            width=config.generator.width,
            generator=generator("cpu", config.seed, "init/generator"),
        ),
        build_discriminator(
            config.discriminator.architecture,
            image_size=config.data.image_size,
            width=config.discriminator.width,
            generator=generator("cpu", config.seed, "init/discriminator"),
        ),
    )
    for network, reference in zip((built.generator, built.discriminator), expected, strict=True):
        state = reference.state_dict()
        assert state.keys() == network.state_dict().keys()
        assert [name for name, value in network.state_dict().items() if not torch.equal(value, state[name])] == []


@pytest.mark.parametrize(("variant", "joint"), [("none", True), ("layer_norm", True), ("batch_norm", False)])
def test_only_batch_normalization_keeps_real_and_generated_images_apart(
    make_config: Configure, variant: str, joint: bool
) -> None:
    assert takes_joint_batch(build_networks(make_config(variant), CPU, torch.float32).discriminator) is joint


@pytest.mark.parametrize(("joint", "passes"), [(True, [4]), (False, [2, 2])])
def test_logits_of_real_and_generated_images_keep_their_order(joint: bool, passes: list[int]) -> None:
    seen: list[int] = []

    def discriminate(images: Tensor) -> Tensor:
        seen.append(len(images))
        return images.flatten(1).sum(1)

    real, fake = torch.ones(2, 3, 1, 1), torch.zeros(2, 3, 1, 1)
    real_logits, fake_logits = real_and_fake_logits(discriminate, real, fake, joint=joint)
    assert (real_logits.tolist(), fake_logits.tolist()) == ([3.0, 3.0], [0.0, 0.0])
    assert seen == passes


def test_networks_are_in_training_mode_and_in_the_requested_type(make_config: Configure) -> None:
    built = build_networks(make_config("mhe_sn"), CPU, torch.float64)
    for network in (built.generator, built.discriminator):
        assert isinstance(network, nn.Module) and network.training
        assert {parameter.dtype for parameter in network.parameters()} == {torch.float64}
