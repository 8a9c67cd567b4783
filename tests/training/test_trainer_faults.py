"""A non-finite value stops all updates, is named, and changes no parameter."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from gan_mhe.constraints.select import original_weight, weight_layers
from gan_mhe.training.trainer import Trainer

State = dict[str, Tensor]
AVERAGED = {"generator": {"ema_halflife_steps": 5.0}}


@pytest.fixture
def kept(snapshot: Callable[[Trainer], State]) -> Callable[[Trainer], State]:
    """Both networks' parameters, Adam's state and the moving average; forward passes may still move other buffers."""

    def copy(trainer: Trainer) -> State:
        passing = {f"{name}/{key}" for name in ("generator", "discriminator")
                   for key, _ in getattr(trainer, name).named_buffers()}  # fmt: skip
        state = snapshot(trainer)
        return {key: state[key] for key in state if not key.startswith("meter/") and key not in passing}

    return copy


def corrupt_weight(trainer: Trainer) -> None:
    with torch.no_grad():
        original_weight(next(weight_layers(trainer.discriminator))[1])[0, 0, 0, 0] = math.nan


def corrupt_image(trainer: Trainer) -> None:
    draw = trainer.order.draw

    def drawn(index: int) -> Tensor:
        batch = draw(index)
        batch[0, 0, 0, 0] = math.inf
        return batch

    trainer.order.draw = drawn  # type: ignore[method-assign]


@pytest.mark.parametrize("variant", ["none", "gan_gp", "mhe_sn", "batch_norm"])
@pytest.mark.parametrize("spoil", [corrupt_weight, corrupt_image])
def test_a_non_finite_weight_or_image_stops_both_networks(
    make_trainer: Callable[..., Trainer],
    advance: Callable[..., Trainer],
    kept: Callable[[Trainer], State],
    assert_same: Callable[[State, State], None],
    variant: str,
    spoil: Callable[[Trainer], None],
) -> None:
    trainer = advance(make_trainer(variant, **AVERAGED), range(3))
    assert trainer.nonfinite.read() is None
    spoil(trainer)
    before = kept(trainer)
    advance(trainer, range(3, 4))
    assert_same(kept(trainer), before)
    step, terms = trainer.nonfinite.read() or (None, [])
    assert step == 3
    assert {"d_loss", "d_gradient"} <= set(terms)
    advance(trainer, range(4, 6))
    assert_same(kept(trainer), before)
    assert trainer.nonfinite.read() == (3, terms)


def test_a_penalty_that_overflows_is_named_and_not_the_loss(
    make_trainer: Callable[..., Trainer],
    advance: Callable[..., Trainer],
    kept: Callable[[Trainer], State],
    assert_same: Callable[[State, State], None],
) -> None:
    # The energy itself is about -2 and stays finite; its gradient times this coefficient does not.
    trainer = make_trainer("mhe", constraints={"mhe": {"lambda_hidden": 1e38, "interval": 3}}, **AVERAGED)
    advance(trainer, range(1, 3))
    before = kept(trainer)
    advance(trainer, range(3, 5))
    assert trainer.nonfinite.read() == (3, ["penalty_gradient/mhe"])
    assert_same(kept(trainer), before)


def test_a_non_finite_generator_update_leaves_the_generator_and_its_average_unchanged(
    make_trainer: Callable[..., Trainer],
    advance: Callable[..., Trainer],
    kept: Callable[[Trainer], State],
    assert_same: Callable[[State, State], None],
) -> None:
    trainer = advance(make_trainer(**AVERAGED), range(2))
    before = kept(trainer)
    trainer.loss = replace(trainer.loss, generator=lambda logits: logits.mean() * math.inf)
    advance(trainer, range(2, 3))
    assert trainer.nonfinite.read() == (2, ["g_loss", "g_gradient"])
    after = kept(trainer)
    generators = ("generator/", "ema/", "adam_generator/")
    assert_same(*({key: s[key] for key in s if key.startswith(generators)} for s in (before, after)))
    # The discriminator's update of that step came first and was finite.
    assert not torch.equal(before["discriminator/dense.weight"], after["discriminator/dense.weight"])
    advance(trainer, range(3, 5))
    assert_same(kept(trainer), after)


def test_a_non_finite_later_discriminator_update_keeps_the_earlier_one(
    make_trainer: Callable[..., Trainer], advance: Callable[..., Trainer], kept: Callable[[Trainer], State]
) -> None:
    sections = {**AVERAGED, "training": {"n_dis": 2}}
    trainer, sound = make_trainer(**sections), make_trainer(**sections)
    draw = trainer.order.draw
    trainer.order.draw = lambda index: draw(index) * (math.nan if index == 1 else 1)  # type: ignore[method-assign]
    advance(trainer, range(1))
    sound._update_discriminator(0)
    after, expected = kept(trainer), kept(sound)
    weights = [key for key in expected if key.startswith(("discriminator/", "adam_discriminator/"))]
    assert all(torch.equal(after[key], expected[key]) for key in weights)
    assert (trainer.nonfinite.read() or (None,))[0] == 0


def test_a_finite_run_sets_no_flag(make_trainer: Callable[..., Trainer], advance: Callable[..., Trainer]) -> None:
    trainer = advance(make_trainer("wgan_gp"), range(4))
    assert trainer.nonfinite.read() is None
    assert trainer.nonfinite.flag.item() == 0.0
    steps = {key: value for key, value in trainer.state().items() if key.endswith("/step")}
    assert {value.item() for value in steps.values()} == {4.0}
