"""Hyperspherical uniformity as a penalty of the hidden layers."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gan_mhe.config.constraints import UniformityConfig
from gan_mhe.constraints.penalty import Penalty, PenaltyInputs, PenaltyModule
from gan_mhe.constraints.select import hidden_weights
from gan_mhe.constraints.uniformity import uniformity_penalties
from gan_mhe.sphere.uniformity import (
    covering,
    gram_determinant,
    polarization,
    polarization_step,
    relaxed_polarization,
    separation,
)

Make = Callable[..., nn.Module]
MEASURES = ("separation", "polarization", "relaxed_polarization", "covering", "gram_determinant")


def build(network: nn.Module, measure: str, **options: Any) -> Penalty:
    (penalty,) = uniformity_penalties(UniformityConfig(measure=measure, **options), network, 0)
    if isinstance(penalty.function, PenaltyModule):
        penalty.function.double()
    return penalty


def value(penalty: Penalty, network: nn.Module) -> Tensor:
    nothing = torch.empty(0)
    return penalty.function(PenaltyInputs(network, nothing, nothing, nothing))


@pytest.mark.parametrize(
    ("measure", "function"),
    [("separation", separation), ("gram_determinant", gram_determinant)],
)
@pytest.mark.parametrize("half_space", [False, True])
def test_a_measure_is_summed_over_the_hidden_layers(
    make_discriminator: Make, measure: str, function: Callable[..., Tensor], half_space: bool
) -> None:
    network = make_discriminator()
    expected = sum(function(weight, half_space=half_space).item() for weight in hidden_weights(network))
    found = value(build(network, measure, half_space=half_space), network)
    assert found.item() == pytest.approx(expected, rel=1e-12)


def test_the_relaxed_form_takes_the_weights_as_they_are(make_discriminator: Make) -> None:
    network = make_discriminator()
    expected = sum(relaxed_polarization(weight).item() for weight in hidden_weights(network))
    assert value(build(network, "relaxed_polarization"), network).item() == pytest.approx(expected, rel=1e-12)


def test_poles_move_before_they_are_used_and_stay_where_they_went(make_discriminator: Make) -> None:
    network = make_discriminator()
    penalty = build(network, "polarization", inner_steps=3, inner_lr=0.05)
    assert isinstance(penalty.function, PenaltyModule)
    before = {name: buffer.clone() for name, buffer in penalty.function.named_buffers()}
    found = value(penalty, network).item()
    expected = 0.0
    for index, weight in enumerate(hidden_weights(network)):
        pole, momentum = before[f"pole_{index}"], before[f"momentum_{index}"]
        for _ in range(3):
            pole, momentum = polarization_step(weight, pole, momentum, lr=0.05, momentum=0.9, half_space=True)
        expected += polarization(weight, pole, half_space=True).item()
        torch.testing.assert_close(penalty.function.get_buffer(f"pole_{index}"), pole)
        torch.testing.assert_close(penalty.function.get_buffer(f"momentum_{index}"), momentum)
    assert found == pytest.approx(expected, rel=1e-12)


def test_covering_is_measured_at_the_poles(make_discriminator: Make) -> None:
    network = make_discriminator()
    penalty = build(network, "covering")
    found = value(penalty, network).item()
    assert isinstance(penalty.function, PenaltyModule)
    expected = sum(
        covering(weight, penalty.function.get_buffer(f"pole_{index}"), half_space=True).item()
        for index, weight in enumerate(hidden_weights(network))
    )
    assert found == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("measure", MEASURES)
def test_every_measure_reaches_hidden_weights_alone_with_finite_gradients(
    make_discriminator: Make, measure: str
) -> None:
    network = make_discriminator()
    value(build(network, measure), network).backward()
    reached = {name for name, parameter in network.named_parameters() if parameter.grad is not None}
    assert reached == {name for name, parameter in network.named_parameters() if parameter.dim() == 4}
    assert all(network.get_parameter(name).grad.isfinite().all() for name in reached)


@pytest.mark.parametrize("measure", ["polarization", "covering"])
def test_poles_are_in_a_checkpoint(make_discriminator: Make, measure: str) -> None:
    penalty = build(make_discriminator(), measure)
    assert isinstance(penalty.function, PenaltyModule)
    assert {"pole_0", "momentum_0"} <= penalty.function.state_dict().keys()
