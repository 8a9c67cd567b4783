"""Building by name: closed tables, weights as a function of the given stream, the global stream left alone."""

import pytest
import torch
from torch import nn

from gan_mhe.errors import ConfigError
from gan_mhe.networks.build import DISCRIMINATORS, GENERATORS, build_discriminator, build_generator
from gan_mhe.networks.discriminators import MiyatoDiscriminator, OfficialDiscriminator, ResNetDiscriminator
from gan_mhe.networks.generators import CnnGenerator, ResNetGenerator

NAMES = [("generator", name) for name in GENERATORS] + [("discriminator", name) for name in DISCRIMINATORS]


def build(kind: str, name: str, seed: int) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    if kind == "generator":
        return build_generator(name, image_size=32, latent_dim=16, width=0.04, generator=generator)
    return build_discriminator(name, image_size=32, width=0.04, generator=generator)


def test_the_tables_hold_the_published_architectures() -> None:
    assert dict(GENERATORS) == {"cnn": CnnGenerator, "resnet": ResNetGenerator}
    assert dict(DISCRIMINATORS) == {
        "cnn_miyato": MiyatoDiscriminator,
        "cnn_official": OfficialDiscriminator,
        "resnet": ResNetDiscriminator,
    }


@pytest.mark.parametrize("kind", ["generator", "discriminator"])
def test_the_tables_are_closed(kind: str) -> None:
    table = GENERATORS if kind == "generator" else DISCRIMINATORS
    with pytest.raises(TypeError):
        table["new"] = nn.Identity  # type: ignore[index]


@pytest.mark.parametrize(("kind", "name"), NAMES)
def test_weights_depend_on_the_given_stream_alone(kind: str, name: str) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        one = build(kind, name, seed=5).state_dict()
        torch.manual_seed(2)
        other = build(kind, name, seed=5).state_dict()
    assert one.keys() == other.keys()
    assert all(torch.equal(value, other[key]) for key, value in one.items())


@pytest.mark.parametrize(("kind", "name"), NAMES)
def test_another_stream_gives_other_weights_in_every_layer(kind: str, name: str) -> None:
    one, other = build(kind, name, seed=5), build(kind, name, seed=6).state_dict()
    weights = [key for key, value in one.named_parameters() if value.dim() > 1]
    assert weights
    assert all(not torch.equal(one.state_dict()[key], other[key]) for key in weights)


@pytest.mark.parametrize(("kind", "name"), NAMES)
def test_building_leaves_the_global_stream_as_it_was(kind: str, name: str) -> None:
    before = torch.random.get_rng_state()
    build(kind, name, seed=5)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(("kind", "name"), NAMES)
def test_initialising_again_from_the_same_stream_gives_the_same_network(kind: str, name: str) -> None:
    network = build(kind, name, seed=5)
    start = {key: value.clone() for key, value in network.state_dict().items()}
    for value in network.state_dict().values():
        value.fill_(3)
    network.initialize(torch.Generator().manual_seed(5))  # type: ignore[operator]
    assert all(torch.equal(value, start[key]) for key, value in network.state_dict().items())


@pytest.mark.parametrize(("kind", "name"), NAMES)
def test_a_fresh_network_is_trainable_float32_on_the_cpu(kind: str, name: str) -> None:
    network = build(kind, name, seed=5)
    assert network.training
    assert {(p.dtype, p.device.type, p.requires_grad) for p in network.parameters()} == {(torch.float32, "cpu", True)}


@pytest.mark.parametrize(("kind", "name"), NAMES)
def test_every_parameter_receives_a_gradient(kind: str, name: str) -> None:
    network = build(kind, name, seed=5)
    noise = torch.Generator().manual_seed(7)
    shape = (4, 16) if kind == "generator" else (4, 3, 32, 32)
    network(torch.randn(shape, generator=noise)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    weights = [p for p in network.parameters() if p.dim() > 1]
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in weights)


def test_an_unknown_generator_is_refused_with_the_known_names() -> None:
    with pytest.raises(ConfigError, match=r"generator\.architecture: expected one of cnn, resnet, got 'dcgan'"):
        build("generator", "dcgan", seed=0)


def test_an_unknown_discriminator_is_refused_with_the_known_names() -> None:
    names = "cnn_miyato, cnn_official, resnet"
    with pytest.raises(ConfigError, match=rf"discriminator\.architecture: expected one of {names}, got 'cnn'"):
        build("discriminator", "cnn", seed=0)
