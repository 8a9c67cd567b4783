"""Coefficients that hold a target ratio of gradient norms: mean, horizon, state and reporting."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gan_mhe.config.constraints import RatioConfig
from gan_mhe.config.run_config import RunConfig
from gan_mhe.config.sections import Schedule
from gan_mhe.constraints.penalty import Penalty
from gan_mhe.errors import CheckpointError
from gan_mhe.training.coefficients import AdaptiveCoefficients, missed_targets
from gan_mhe.training.trainer import Trainer

QUOTIENTS = st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=12)


def adapted(ratio: RatioConfig | None, quotients: Sequence[float], **timing: Any) -> list[float]:
    """The coefficients of a penalty at successive computations with the given ratios of gradient norms."""
    timing = {"interval": 1, "schedule": Schedule(), **timing}
    penalty = Penalty("p", lambda inputs: inputs.real.sum(), 7.0, ratio=ratio, **timing)
    coefficients = AdaptiveCoefficients([penalty], 100, torch.device("cpu"))
    found = []
    for number, quotient in enumerate(quotients):
        coefficients.set_step(number * penalty.interval, [penalty])
        found.append(float(coefficients.update("p", torch.tensor(1.0), torch.tensor(quotient))))
    return found


def geometric_mean(values: Sequence[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))


@given(QUOTIENTS)
def test_up_to_the_horizon_the_coefficient_is_the_target_times_the_geometric_mean_of_the_ratios(
    quotients: list[float],
) -> None:
    found = adapted(RatioConfig(target=0.5, horizon=20), quotients)
    expected = [0.5 * geometric_mean(quotients[: number + 1]) for number in range(len(quotients))]
    assert found == pytest.approx(expected, rel=1e-4)


def test_a_calibrated_coefficient_is_constant_after_the_horizon() -> None:
    found = adapted(RatioConfig(target=1.0, mode="calibrate", horizon=2), [1.0, 4.0, 1000.0, 0.001])
    assert found == pytest.approx([1.0, 2.0, 2.0, 2.0], rel=1e-5)


def test_a_tracked_coefficient_is_averaged_exponentially_after_the_horizon() -> None:
    found = adapted(RatioConfig(target=1.0, horizon=2), [1.0, 1.0, math.e, math.e])
    assert found == pytest.approx([1.0, 1.0, math.exp(0.5), math.exp(0.75)], rel=1e-5)


def said(reached: float, *, since: int, step: int, **options: Any) -> list[str]:
    """What is said about a penalty with a target of 0.1 and a horizon of 8 computations, two at each step."""
    timing = {"interval": 1, "schedule": Schedule(), **options}
    penalty = Penalty("p", lambda inputs: inputs.real.sum(), 1.0, ratio=RatioConfig(target=0.1, horizon=8), **timing)
    scalars = {"gradient_ratio/p": reached}
    return missed_targets([penalty], scalars, since=since, step=step, n_dis=2, total_steps=100)


@pytest.mark.parametrize("reached", [0.01, 0.0, 0.5])
def test_a_target_that_is_not_reached_is_said_at_the_end_of_the_horizon(reached: float) -> None:
    [sentence] = said(reached, since=3, step=6)
    assert f"its gradient ratio is {reached:.3g}, expected 0.1" in sentence


def test_a_target_that_is_reached_or_whose_horizon_does_not_end_is_not_spoken_of() -> None:
    assert said(0.09, since=3, step=6) == []
    assert said(0.01, since=0, step=3) == said(0.01, since=6, step=9) == []


def test_the_target_is_that_of_the_schedule_and_the_interval() -> None:
    assert said(0.4, since=9, step=15, interval=4) == []
    assert said(0.005, since=3, step=5, schedule=Schedule(warmup_steps=100)) == []


def test_without_a_target_ratio_the_coefficient_is_constant() -> None:
    assert adapted(None, [1.0, 100.0]) == [7.0, 7.0]


def test_interval_and_schedule_multiply_a_ratio_as_they_do_a_coefficient() -> None:
    timing = {"interval": 4, "schedule": Schedule(warmup_steps=8)}
    assert adapted(None, [1.0, 1.0], **timing) == pytest.approx([7 * 4 / 8, 7 * 4 * 5 / 8])
    assert adapted(RatioConfig(target=0.1), [1.0, 1.0], **timing) == pytest.approx([0.1 * 4 / 8, 0.1 * 4 * 5 / 8])


@pytest.mark.parametrize("quotient", [math.inf, math.nan, 0.0])
def test_a_ratio_without_a_finite_logarithm_does_not_change_the_coefficient(quotient: float) -> None:
    assert adapted(RatioConfig(target=1.0), [3.0, quotient]) == pytest.approx([3.0, 3.0])


def test_a_first_ratio_without_a_finite_logarithm_does_not_enter_the_mean() -> None:
    assert adapted(RatioConfig(target=1.0), [math.inf, 1000.0]) == pytest.approx([1.0, 1000.0], rel=1e-4)


def test_a_horizon_of_one_calibrates_by_the_first_ratio_alone() -> None:
    assert adapted(RatioConfig(target=1.0, mode="calibrate", horizon=1), [2.0, 50.0]) == pytest.approx([2.0, 2.0])


def test_a_missing_mean_is_a_checkpoint_error() -> None:
    penalty = Penalty("p", lambda inputs: inputs.real.sum(), 1.0, 1, Schedule(), RatioConfig())
    with pytest.raises(CheckpointError, match="adaptive coefficients"):
        AdaptiveCoefficients([penalty], 1, torch.device("cpu")).load_state({})


def test_every_update_of_a_step_is_one_computation() -> None:
    penalty = Penalty("p", lambda inputs: inputs.real.sum(), 1.0, 1, Schedule(), RatioConfig(target=1.0))
    coefficients = AdaptiveCoefficients([penalty], 10, torch.device("cpu"))
    found = []
    for step, quotients in enumerate([(1.0, 4.0), (16.0, 64.0)]):
        coefficients.set_step(step, [penalty])
        found += [float(coefficients.update("p", torch.tensor(1.0), torch.tensor(quotient))) for quotient in quotients]
    assert found == pytest.approx([1.0, 2.0, 4.0, 8.0], rel=1e-5)


def test_a_coefficient_of_0_is_0_beside_a_ratio_too(make_trainer: Callable[..., Trainer]) -> None:
    trainer = make_trainer("comhe", constraints={"comhe": {"lambda_hidden": 0.0}})
    trainer.set_step(0)
    trainer.step()
    read = trainer.meter.read()
    assert (read["strength/comhe"], read["gradient_ratio/comhe"]) == (0.0, 0.0)


def test_false_removes_the_ratio_of_a_variant(make_config: Callable[..., RunConfig]) -> None:
    comhe = make_config("comhe", constraints={"comhe": {"ratio": False, "lambda_hidden": 0.5}}).constraints.comhe
    assert comhe is not None and (comhe.ratio, comhe.lambda_hidden) == (None, 0.5)


def with_ratio(**ratio: Any) -> dict[str, Any]:
    return {"constraints": {"mhe": {"schedule": {"warmup_steps": 0}, "ratio": ratio}}}


def test_the_first_step_has_the_target_ratio_exactly(make_trainer: Callable[..., Trainer]) -> None:
    trainer = make_trainer("mhe", **with_ratio(target=0.25))
    trainer.set_step(0)
    trainer.step()
    assert trainer.meter.read()["gradient_ratio/mhe"] == pytest.approx(0.25, rel=1e-4)


def test_a_tracked_ratio_stays_near_its_target_while_the_gradients_change(
    make_trainer: Callable[..., Trainer], advance: Callable[..., Trainer]
) -> None:
    trainer = advance(make_trainer("mhe", **with_ratio(target=0.1, horizon=4)), range(12))
    trainer.meter.read()
    advance(trainer, range(12, 16))
    assert trainer.meter.read()["gradient_ratio/mhe"] == pytest.approx(0.1, rel=0.5)


def test_with_a_ratio_the_coefficient_has_no_effect(
    make_trainer: Callable[..., Trainer], advance: Callable[..., Trainer]
) -> None:
    sections = with_ratio(target=0.1)
    other = {"constraints": {"mhe": {**sections["constraints"]["mhe"], "lambda_hidden": 50.0}}}
    first, second = (advance(make_trainer("mhe", **each), range(3)).state() for each in (sections, other))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_reported_strength_is_what_weights_the_penalty(make_trainer: Callable[..., Trainer]) -> None:
    trainer = make_trainer("mhe", **with_ratio(target=0.1))
    trainer.set_step(0)
    trainer.step()
    read = trainer.meter.read()
    assert read["penalty_weighted/mhe"] == pytest.approx(read["strength/mhe"] * read["penalty/mhe"], rel=1e-5)


def test_a_resumed_run_adapts_as_an_uninterrupted_one(
    make_trainer: Callable[..., Trainer], advance: Callable[..., Trainer]
) -> None:
    whole = advance(make_trainer("mhe", **with_ratio(horizon=3)), range(8)).state()
    first = advance(make_trainer("mhe", **with_ratio(horizon=3)), range(4))
    second = make_trainer("mhe", **with_ratio(horizon=3))
    second.load_state(first.state())
    resumed = advance(second, range(4, 8)).state()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
