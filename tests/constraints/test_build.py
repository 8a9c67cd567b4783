"""The `constraints` section applied to a discriminator: normalizations, penalties and projections."""

from collections.abc import Callable
from typing import Any, get_args

import pytest
import torch
from torch import nn

from gan_mhe.config.constraints import ConstraintsConfig, PenaltyTiming
from gan_mhe.constraints.build import MAKERS, Constraints, constrain
from gan_mhe.constraints.normalize import ShiftedNorm
from gan_mhe.constraints.select import layer_weights


def build(network: nn.Module, **sections: Any) -> Constraints:
    return constrain(network, ConstraintsConfig.model_validate(sections), seed=0)


def test_an_empty_section_leaves_the_discriminator_as_it_was(make_discriminator: Callable[..., nn.Module]) -> None:
    network, plain = make_discriminator(), make_discriminator()
    constraints = build(network)
    assert (constraints.penalties, constraints.after_update, constraints.notes) == ((), (), ())
    assert network.state_dict().keys() == plain.state_dict().keys()
    assert all(torch.equal(value, plain.state_dict()[key]) for key, value in network.state_dict().items())


@pytest.mark.parametrize(("sections", "names"), [
    ({"gradient_penalty": {}}, ["gradient_penalty"]),
    ({"orthonormal": {}}, ["orthonormal"]),
    ({"mhe": {}}, ["mhe"]),
    ({"mhe": {"lambda_output": 1.0}}, ["mhe", "mhe_output"]),
    ({"official_mhe": {}}, ["official_mhe"]),
    ({"comhe": {"lambda_output": 1.0}}, ["comhe", "comhe_output"]),
    ({"uniformity": {}}, ["uniformity"]),
    ({"weight_decay": {}}, ["weight_decay"]),
    ({"weight_decay": {}, "mhe": {}, "gradient_penalty": {}}, ["gradient_penalty", "mhe", "weight_decay"]),
    ({"clipping": {}}, []),
])  # fmt: skip
def test_each_section_becomes_its_penalties(
    make_discriminator: Callable[..., nn.Module], sections: dict[str, Any], names: list[str]
) -> None:
    constraints = build(make_discriminator(), **sections)
    assert [penalty.name for penalty in constraints.penalties] == names


def test_the_makers_are_those_of_the_penalty_sections_in_their_order() -> None:
    kinds = {name: get_args(field.annotation) for name, field in ConstraintsConfig.model_fields.items()}
    penalties = [
        name for name, (kind, *_) in kinds.items() if isinstance(kind, type) and issubclass(kind, PenaltyTiming)
    ]
    assert list(MAKERS) == penalties


def test_clipping_becomes_a_projection_with_its_bound(make_discriminator: Callable[..., nn.Module]) -> None:
    network = make_discriminator()
    (project,) = build(network, clipping={"bound": 0.005}).after_update
    project(network)
    assert [layer.weight_ND.abs().max().item() for layer in layer_weights(network)[:-1]] == [0.005] * 7


@pytest.mark.parametrize(("normalization", "marks"), [("batch", 6), ("layer", 7), ("none", 0)])
def test_a_normalization_of_layers_fills_their_slots(
    make_discriminator: Callable[..., nn.Module], normalization: str, marks: int
) -> None:
    network = make_discriminator()
    build(network, normalization=normalization)
    assert sum(isinstance(module, ShiftedNorm) for module in network.modules()) == marks


@pytest.mark.parametrize(("normalization", "kind"), [("weight", "UnitRows"), ("spectral", "SpectralNorm")])
def test_a_normalization_of_weights_parametrizes_every_layer(
    make_discriminator: Callable[..., nn.Module], normalization: str, kind: str
) -> None:
    network = make_discriminator()
    build(network, normalization=normalization)
    assert sum(type(module).__name__ == kind for module in network.modules()) == 8


@pytest.mark.parametrize("initialise", [True, False])
def test_orthonormal_weights_are_initialized_only_if_configured(
    make_discriminator: Callable[..., nn.Module], initialise: bool
) -> None:
    network, plain = make_discriminator(), make_discriminator()
    build(network, orthonormal={"initialise": initialise})
    assert torch.equal(network.dense.weight, plain.dense.weight) != initialise


@pytest.mark.parametrize("sections", [{"normalization": "spectral"}, {"orthonormal": {}}])
def test_initial_random_numbers_depend_only_on_the_seed(
    make_discriminator: Callable[..., nn.Module], sections: dict[str, Any]
) -> None:
    states = []
    for seed in (0, 0, 1):
        network = make_discriminator()
        constrain(network, ConstraintsConfig.model_validate(sections), seed=seed)
        states.append(torch.cat([value.flatten() for value in network.state_dict().values()]))
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


@pytest.mark.parametrize(
    "sections", [{"mhe": {}}, {"comhe": {}}, {"uniformity": {}}, {"uniformity": {"measure": "gram_determinant"}}]
)
def test_an_energy_of_pairs_notes_the_layers_that_have_no_pair(
    make_discriminator: Callable[..., nn.Module], sections: dict[str, Any]
) -> None:
    (note,) = build(make_discriminator(), **sections).notes
    assert note == f"{next(iter(sections))}: layer dense has one neuron and no pair, so its energy is 0"


@pytest.mark.parametrize("sections", [{"gradient_penalty": {}}, {"uniformity": {"measure": "covering"}}])
def test_a_penalty_without_pairs_notes_nothing(
    make_discriminator: Callable[..., nn.Module], sections: dict[str, Any]
) -> None:
    assert build(make_discriminator(), **sections).notes == ()


@pytest.mark.parametrize(("interval", "due"), [(1, [0, 1, 2, 3, 4, 5, 6, 7, 8]), (4, [0, 4, 8]), (3, [0, 3, 6])])
def test_a_penalty_is_due_at_every_nth_step(
    make_discriminator: Callable[..., nn.Module], interval: int, due: list[int]
) -> None:
    (penalty,) = build(make_discriminator(), mhe={"interval": interval}).penalties
    assert [step for step in range(9) if penalty.due(step)] == due
