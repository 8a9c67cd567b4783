"""SphereNet discriminators: every convolution replaced, and all that is done to a discriminator still done to it."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from gan_mhe.constraints.normalize import batch_norm, layer_norm
from gan_mhe.constraints.select import layer_weights, weight_layers
from gan_mhe.constraints.sphere_conv import sphere_conv
from gan_mhe.networks.sphere_conv import Operator, SphereConv2d
from gan_mhe.sphere import hyperspherical_energies

MakeDiscriminator = Callable[..., nn.Module]
ARCHITECTURES = ["cnn_miyato", "cnn_official", "resnet"]
MEMBERS: list[tuple[Operator, bool]] = [
    ("cosine", False), ("linear", False), ("sigmoid", False), ("learnable", False), ("cosine", True)
]  # fmt: skip

every_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES)
every_member = pytest.mark.parametrize(("operator", "rescale"), MEMBERS)


def images(batch: int = 4, seed: int = 0) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.rand(batch, 3, 32, 32, generator=rng, dtype=torch.float64) * 2 - 1


@pytest.fixture(scope="module")
def make_sphere_net(make_discriminator: MakeDiscriminator) -> Callable[..., nn.Module]:
    def make(architecture: str = "cnn_miyato", operator: Operator = "sigmoid", rescale: bool = False) -> nn.Module:
        network = make_discriminator(architecture)
        sphere_conv(network, operator=operator, k=0.3, rescale=rescale)
        return network

    return make


@every_architecture
def test_every_convolution_is_replaced_and_keeps_its_parameters(
    make_discriminator: MakeDiscriminator, architecture: str
) -> None:
    network = make_discriminator(architecture)
    before = {name: m for name, m in network.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    sphere_conv(network, operator="learnable", k=0.3, rescale=False)
    after = {name: m for name, m in network.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    assert list(after) == list(before)
    assert all(isinstance(m, SphereConv2d) for m in after.values() if isinstance(m, nn.Conv2d))
    assert after["dense"] is before["dense"]
    for name, layer in before.items():
        assert after[name].weight is layer.weight
        assert after[name].bias is layer.bias


@pytest.mark.parametrize(("operator", "rescale"), [("sigmoid", False), ("cosine", True)])
def test_options_reach_every_convolution(
    make_discriminator: MakeDiscriminator, operator: Operator, rescale: bool
) -> None:
    network = make_discriminator()
    sphere_conv(network, operator=operator, k=0.7, rescale=rescale)
    found = [(m.operator, m.k, m.rho is not None) for m in network.modules() if isinstance(m, SphereConv2d)]
    assert found == [(operator, 0.7, rescale)] * 7


def test_hidden_responses_are_bounded_whatever_the_image_is(make_sphere_net: Callable[..., nn.Module]) -> None:
    network = make_sphere_net()
    seen: list[float] = []
    for module in network.modules():
        if isinstance(module, SphereConv2d):
            module.register_forward_hook(lambda _, __, output: seen.append(output.abs().max().item()))
    network(images() * 1e6)
    assert len(seen) == 7
    assert max(seen) <= 1 + 1e-12


@every_architecture
@every_member
def test_a_step_of_adam_gives_finite_gradients_and_moves_every_weight(
    make_sphere_net: Callable[..., nn.Module], architecture: str, operator: Operator, rescale: bool
) -> None:
    network = make_sphere_net(architecture, operator, rescale)
    before = {name: value.detach().clone() for name, value in network.named_parameters()}
    adam = torch.optim.Adam(network.parameters(), lr=1e-3)
    logits = network(images())
    assert logits.shape == (4,)
    torch.nn.functional.softplus(logits * torch.tensor([1.0, -1.0, 1.0, -1.0])).mean().backward()
    adam.step()
    for name, value in network.named_parameters():
        assert value.grad is not None and value.grad.isfinite().all(), name
        assert not torch.equal(value, before[name]) and value.isfinite().all(), name


@every_architecture
@every_member
def test_a_state_round_trips(
    make_sphere_net: Callable[..., nn.Module], architecture: str, operator: Operator, rescale: bool
) -> None:
    network, other = (make_sphere_net(architecture, operator, rescale) for _ in range(2))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.01
    assert not torch.equal(network(images()), other(images()))
    other.load_state_dict(network.state_dict())
    assert torch.equal(network(images()), other(images()))


@pytest.mark.parametrize("normalize", [batch_norm, layer_norm])
@every_architecture
def test_slots_for_normalization_stay_and_work(
    make_sphere_net: Callable[..., nn.Module], architecture: str, normalize: Callable[[nn.Module], None]
) -> None:
    network = make_sphere_net(architecture)
    normalize(network)
    logits = network.double()(images())
    gradients = torch.autograd.grad(logits.square().sum(), list(network.parameters()))
    assert all(gradient.isfinite().all() for gradient in gradients)


@every_architecture
def test_its_weights_are_the_same_neurons_and_their_energy_has_a_gradient(
    make_discriminator: MakeDiscriminator, make_sphere_net: Callable[..., nn.Module], architecture: str
) -> None:
    layers, plain = layer_weights(make_sphere_net(architecture)), layer_weights(make_discriminator(architecture))
    assert [(a.name, a.is_output) for a in layers] == [(b.name, b.is_output) for b in plain]
    weights = [layer.weight_ND for layer in layers if not layer.is_output]
    energies = hyperspherical_energies(weights)
    expected = hyperspherical_energies([layer.weight_ND for layer in plain if not layer.is_output])
    torch.testing.assert_close(energies, expected, rtol=1e-14, atol=0)
    for gradient in torch.autograd.grad(energies.sum(), weights):
        assert gradient.isfinite().all() and gradient.abs().sum() > 0


@every_member
def test_a_gradient_penalty_can_be_trained(
    make_sphere_net: Callable[..., nn.Module], operator: Operator, rescale: bool
) -> None:
    network = make_sphere_net("cnn_miyato", operator, rescale)
    x = images().requires_grad_()
    (slope,) = torch.autograd.grad(network(x).sum(), x, create_graph=True)
    penalty = (slope.flatten(1).norm(dim=1) - 1).square().mean()
    gradients = torch.autograd.grad(penalty, [layer.weight for _, layer in weight_layers(network)])
    assert all(gradient.isfinite().all() and gradient.abs().sum() > 0 for gradient in gradients)


@pytest.mark.parametrize(
    ("operator", "k", "rescale", "message"),
    [("sigmoid", 0.3, True, "rescale"), ("learnable", 0.01, False, "k: expected"), ("sine", 0.3, False, "operator")],
)
def test_options_out_of_range_are_refused(
    make_discriminator: MakeDiscriminator, operator: Operator, k: float, rescale: bool, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        sphere_conv(make_discriminator(), operator=operator, k=k, rescale=rescale)
