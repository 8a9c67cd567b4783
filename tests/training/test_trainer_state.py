"""Saving and resuming a run bit for bit, and refusing states that do not fit."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from gan_mhe.errors import CheckpointError
from gan_mhe.training.trainer import Trainer
from gan_mhe.variants import VARIANTS
from tests.support.trained import FULL, Trained

State = dict[str, Tensor]
AVERAGED = {"data": {"name": "synthetic", "flip": True}, "generator": {"ema_halflife_steps": 5.0}}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_resumed_run_continues_bit_for_bit(
    trained: Callable[[str], Trained],
    make_trainer: Callable[..., Trainer],
    advance: Callable[..., Trainer],
    snapshot: Callable[[Trainer], State],
    assert_same: Callable[[State, State], None],
    variant: str,
) -> None:
    unbroken = trained(variant).states
    resumed = advance(make_trainer(variant, **FULL), range(9, 10))  # all of its state must be replaced
    resumed.load_state(unbroken[3])
    assert_same(snapshot(resumed), unbroken[3])
    advance(resumed, range(3, 6))
    assert_same(snapshot(resumed), unbroken[6])  # the sums of its report among it


def test_draws_and_inner_steps_are_resumed_bit_for_bit(
    make_trainer: Callable[..., Trainer],
    advance: Callable[..., Trainer],
    snapshot: Callable[[Trainer], State],
    assert_same: Callable[[State, State], None],
    option: tuple[str, Mapping[str, Any]],
) -> None:
    variant, sections = option
    unbroken = advance(make_trainer(variant, **sections), range(4))
    resumed = advance(make_trainer(variant, **sections), range(9, 12))
    resumed.load_state(snapshot(unbroken))
    for trainer in (unbroken, resumed):
        advance(trainer, range(4, 8))
    assert_same(snapshot(resumed), snapshot(unbroken))


def test_a_run_resumed_before_its_first_step_starts_over(
    make_trainer: Callable[..., Trainer],
    advance: Callable[..., Trainer],
    snapshot: Callable[[Trainer], State],
    assert_same: Callable[[State, State], None],
) -> None:
    saved = snapshot(make_trainer("mhe_sn", **AVERAGED))
    resumed = advance(make_trainer("mhe_sn", **AVERAGED), range(2))
    resumed.load_state(saved)
    assert_same(snapshot(advance(resumed, range(2))), snapshot(advance(make_trainer("mhe_sn", **AVERAGED), range(2))))


def test_loaded_tensors_are_copies(make_trainer: Callable[..., Trainer], advance: Callable[..., Trainer],
                                   snapshot: Callable[[Trainer], State],
                                   assert_same: Callable[[State, State], None]) -> None:  # fmt: skip
    saved = snapshot(advance(make_trainer(**AVERAGED), range(1)))
    untouched = {name: value.clone() for name, value in saved.items()}
    resumed = make_trainer(**AVERAGED)
    resumed.load_state(saved)
    advance(resumed, range(1, 3))
    assert_same(saved, untouched)


def test_two_runs_of_one_seed_are_the_same_and_of_two_seeds_are_not(
    make_trainer: Callable[..., Trainer],
    advance: Callable[..., Trainer],
    snapshot: Callable[[Trainer], State],
    assert_same: Callable[[State, State], None],
) -> None:
    first, again, other = (snapshot(advance(make_trainer("mhe_sn", seed=seed), range(2))) for seed in (0, 0, 1))
    assert_same(first, again)
    assert not torch.equal(first["generator/dense.weight"], other["generator/dense.weight"])


def test_training_does_not_use_the_global_generator(
    make_trainer: Callable[..., Trainer], advance: Callable[..., Trainer]
) -> None:
    before = torch.random.get_rng_state()
    advance(make_trainer("mhe_sn", **AVERAGED), range(2))
    assert torch.equal(torch.random.get_rng_state(), before)


def without(state: State, key: str) -> State:
    assert key in state
    return {name: value for name, value in state.items() if name != key}


MOMENT = "adam_generator/dense.weight/exp_avg"
DAMAGE: dict[str, Callable[[State], State]] = {
    "generator": lambda state: without(state, "generator/dense.weight"),
    "discriminator": lambda state: state | {"discriminator/extra.weight": torch.zeros(1)},
    "ema": lambda state: {name: value for name, value in state.items() if not name.startswith("ema/")},
    "adam_generator": lambda state: without(state, MOMENT),
    "adam_discriminator": lambda state: state | {"adam_discriminator/extra/exp_avg": torch.zeros(1)},
    "adam_generator: dense.weight": lambda state: state | {MOMENT: state[MOMENT][1:]},
    "other": lambda state: state | {"other/weight": torch.zeros(1)},
}


@pytest.mark.parametrize("named", DAMAGE)
def test_a_state_with_a_missing_unknown_or_misshapen_tensor_is_refused_by_name(
    make_trainer: Callable[..., Trainer], advance: Callable[..., Trainer], snapshot: Callable[..., State], named: str
) -> None:
    saved = snapshot(advance(make_trainer(**AVERAGED), range(1)))
    with pytest.raises(CheckpointError, match=named):
        make_trainer(**AVERAGED).load_state(DAMAGE[named](saved))


@pytest.mark.parametrize(("variant", "sections"), [
    ("spectral_norm", AVERAGED),
    ("none", {**AVERAGED, "discriminator": {"width": 1 / 16}}),
    ("none", {**AVERAGED, "discriminator": {"architecture": "resnet"}}),
    ("none", {"generator": {"ema_halflife_steps": 0.0}}),
])  # fmt: skip
def test_the_state_of_another_configuration_is_refused(
    make_trainer: Callable[..., Trainer], snapshot: Callable[..., State], variant: str, sections: dict[str, object]
) -> None:
    with pytest.raises(CheckpointError, match="checkpoint"):
        make_trainer(variant, **sections).load_state(snapshot(make_trainer("none", **AVERAGED)))


def test_every_weight_moves_by_its_own_gradient_whatever_the_gradients_strides(
    make_trainer: Callable[..., Trainer],
) -> None:
    # Fused Adam pairs elements by their position in memory, and PyTorch 2.15 does not check that the strides agree.
    trainer = make_trainer("none", training={"precision": "float64"})
    before = {name: weight.clone() for name, weight in trainer.generator.named_parameters()}
    computed = trainer._generator_update
    given = {}

    def with_other_strides(latents: Tensor) -> Any:
        update = computed(latents)
        given.update({name: other_strides(gradient) for name, gradient in update.gradients.items()})
        return update._replace(gradients=dict(given))

    trainer._generator_update = with_other_strides
    trainer.step()
    assert any(given[name].stride() != weight.stride() for name, weight in before.items())
    for name, weight in trainer.generator.named_parameters():
        # The first step of Adam is the learning rate against the sign of the gradient.
        clear = given[name].abs() > 1e-7
        assert torch.equal((weight.detach() - before[name]).sign()[clear], -given[name].sign()[clear]), name


def other_strides(gradient: Tensor) -> Tensor:
    """The same values with the dimensions in the reverse order in memory."""
    order = tuple(reversed(range(gradient.dim())))
    return gradient.permute(order).contiguous().permute(order)
