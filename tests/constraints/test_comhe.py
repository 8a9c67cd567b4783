"""Compressive MHE as a penalty: which layers are projected, by what, and what stays from step to step."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gan_mhe.config.constraints import ComheConfig
from gan_mhe.constraints.comhe import CompressiveEnergy, comhe_penalties
from gan_mhe.constraints.penalty import PenaltyInputs
from gan_mhe.constraints.select import hidden_weights
from gan_mhe.errors import ConfigError
from gan_mhe.sphere import hyperspherical_energy
from gan_mhe.sphere.projection import angle_preserving_step

Make = Callable[..., nn.Module]
KINDS = ("random", "angle_preserving", "adversarial", "group")


def build(network: nn.Module, seed: int = 0, **options: Any) -> CompressiveEnergy:
    """The hidden layers' penalty function, at step 0."""
    config = ComheConfig(**{"dimension": 5, "count": 3, **options})
    function = comhe_penalties(config, network, seed)[0].function
    assert isinstance(function, CompressiveEnergy)
    function.double()
    function.set_step(0)
    return function


def value(function: CompressiveEnergy, network: nn.Module) -> Tensor:
    nothing = torch.empty(0)
    return function(PenaltyInputs(network, nothing, nothing, nothing))


def energy(weight: Tensor) -> float:
    """As the authors' code takes it: half space, s = 2."""
    return hyperspherical_energy(weight.detach(), s=2.0, half_space=True).item()


def test_random_projections_average_the_energies_of_the_projected_neurons(make_discriminator: Make) -> None:
    network = make_discriminator()
    function = build(network, shared_basis=False)
    first, *others = hidden_weights(network)
    projected = [
        sum(energy(weight @ matrix_KD.T) for matrix_KD in basis_CKD) / 3
        for weight, basis_CKD in zip(others, function.buffers(), strict=True)
    ]
    assert value(function, network).item() == pytest.approx(energy(first) + sum(projected), rel=1e-10)


def test_layers_of_equal_fan_in_share_their_matrices_unless_told_otherwise(make_discriminator: Make) -> None:
    network = make_discriminator(width=1 / 8)
    fan_ins = [weight.shape[1] for weight in hidden_weights(network)][1:]
    assert len(list(build(network).buffers())) == len(set(fan_ins))
    assert len(list(build(network, shared_basis=False).buffers())) == len(fan_ins)


@pytest.mark.parametrize("projection", ["random", "group"])
def test_what_is_drawn_is_a_function_of_seed_and_step(make_discriminator: Make, projection: str) -> None:
    network = make_discriminator()

    def drawn(*steps: int, seed: int = 0) -> Tensor:
        function = build(network, seed, projection=projection, redraw_every_steps=10)
        for step in steps:
            function.set_step(step)
        return torch.cat([buffer.flatten() for buffer in function.buffers()])

    assert torch.equal(drawn(5), drawn(9))
    assert torch.equal(drawn(25), drawn(9, 10, 24))
    assert not torch.equal(drawn(9), drawn(10))
    assert not torch.equal(drawn(9), drawn(9, seed=1))


def test_random_matrices_are_no_part_of_a_checkpoint_and_trained_ones_are(make_discriminator: Make) -> None:
    network = make_discriminator()
    assert not build(network).state_dict()
    assert len(build(network, projection="angle_preserving").state_dict()) == len(hidden_weights(network)) - 1


def test_the_first_layer_is_full_projected_or_left_out(make_discriminator: Make) -> None:
    network = make_discriminator()
    first = hidden_weights(network)[0]
    # One group is the layer itself, so that only the first layer tells the three apart.
    full, projected, none = (
        value(build(network, projection="group", count=1, first_layer=kind), network).item()
        for kind in ("full", "projected", "none")
    )
    assert full == pytest.approx(projected, rel=1e-10)
    assert full - none == pytest.approx(energy(first), rel=1e-10)


@pytest.mark.parametrize("projection", KINDS)
def test_every_hidden_weight_is_reached_and_the_output_is_not(make_discriminator: Make, projection: str) -> None:
    network = make_discriminator()
    value(build(network, projection=projection), network).backward()
    reached = {name for name, parameter in network.named_parameters() if parameter.grad is not None}
    assert reached == {name for name, parameter in network.named_parameters() if parameter.dim() == 4}
    assert all(network.get_parameter(name).grad.isfinite().all() for name in reached)


def test_a_trained_matrix_takes_its_steps_and_is_used_one_step_further(make_discriminator: Make) -> None:
    network = make_discriminator()
    function = build(network, projection="angle_preserving", inner_steps=2)
    expected = energy(hidden_weights(network)[0])
    kept = []
    for matrix_KD, weight in zip(function.buffers(), hidden_weights(network)[1:], strict=True):
        moved = matrix_KD.clone()
        for _ in range(2):
            moved = angle_preserving_step(moved, weight.detach(), lr=0.1, weight_decay=5e-7)
        kept.append(moved)
        ahead = angle_preserving_step(moved, weight.detach(), lr=0.1, weight_decay=5e-7)
        expected += energy(weight @ ahead.T)
    assert value(function, network).item() == pytest.approx(expected, rel=1e-10)
    for matrix_KD, moved in zip(function.buffers(), kept, strict=True):
        torch.testing.assert_close(matrix_KD, moved)


@pytest.mark.parametrize("projection", ["angle_preserving", "adversarial"])
def test_the_detached_form_has_the_value_of_the_unrolled_one_and_another_gradient(
    make_discriminator: Make, projection: str
) -> None:
    network = make_discriminator()
    weight = network.get_parameter("c1_0.conv.weight")
    values, gradients = [], []
    for unrolled in (True, False):
        result = value(build(network, projection=projection, unrolled=unrolled), network)
        values.append(result.item())
        gradients.append(torch.autograd.grad(result, weight)[0])
    assert values[0] == pytest.approx(values[1], rel=1e-12)
    assert (gradients[0] - gradients[1]).norm() > 1e-6 * gradients[1].norm()


def test_an_adversary_raises_the_energy_that_a_random_matrix_would_show(make_discriminator: Make) -> None:
    network = make_discriminator(width=1 / 8)
    small, large = (
        value(build(network, projection="adversarial", inner_steps=steps, inner_lr=1.0), network).item()
        for steps in (1, 30)
    )
    assert large > small


def test_layer_factors_weight_the_layers(make_discriminator: Make) -> None:
    network = make_discriminator()
    factors = (0.0, 0.0, 2.5, 0.0, 0.0, 0.0, 0.0)
    function = build(network, projection="group", count=1, layer_factors=factors)
    assert value(function, network).item() == pytest.approx(2.5 * energy(hidden_weights(network)[2]), rel=1e-10)


def test_layer_factors_of_another_number_are_refused_with_the_layers_names(make_discriminator: Make) -> None:
    with pytest.raises(ConfigError, match=r"comhe.layer_factors: expected 7 numbers.*c0_0.conv.*got 2"):
        build(make_discriminator(), layer_factors=(1.0, 1.0))


def test_groups_have_two_coordinates_at_least(make_discriminator: Make) -> None:
    network = make_discriminator("resnet")  # its first shortcut has three inputs: one group
    function = build(network, projection="group", count=8)
    expected = energy(hidden_weights(network)[0])
    for weight, order_D in zip(hidden_weights(network)[1:], function.buffers(), strict=True):
        groups = min(8, weight.shape[1] // 2)
        size = weight.shape[1] // groups
        parts = weight[:, order_D][:, : groups * size].split(size, dim=1)
        expected += sum(map(energy, parts)) / groups
    assert value(function, network).item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("architecture", ["cnn_miyato", "cnn_official", "resnet"])
@pytest.mark.parametrize("projection", KINDS)
def test_every_architecture_has_a_finite_pull(make_discriminator: Make, architecture: str, projection: str) -> None:
    network = make_discriminator(architecture, width=1 / 16)
    result = value(build(network, projection=projection), network)
    gradients = torch.autograd.grad(result, [weight for weight in network.parameters() if weight.dim() == 4])
    assert 0 < sum(gradient.norm().item() for gradient in gradients) < 1e9
