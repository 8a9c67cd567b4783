"""Schedules at the steps whose factor is known."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gan_mhe.config.sections import Schedule
from gan_mhe.training.schedule import factor

KINDS = ["constant", "linear_decay", "cosine_decay"]


@pytest.mark.parametrize(("kind", "expected"), [
    ("constant", [1.0, 1.0, 1.0, 1.0]),
    ("linear_decay", [1.0, 0.75, 0.5, 0.25]),
    ("cosine_decay", [1.0, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2]),
])  # fmt: skip
def test_factor_at_the_quarters_of_a_run(kind: str, expected: list[float]) -> None:
    schedule = Schedule(kind=kind)
    assert [factor(schedule, step, 100) for step in (0, 25, 50, 75)] == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("kind", KINDS)
def test_warmup_rises_linearly_to_full_strength_and_the_decay_starts_there(kind: str) -> None:
    schedule = Schedule(kind=kind, warmup_steps=4)
    assert [factor(schedule, step, 20) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert factor(schedule, 12, 20) == pytest.approx(1.0 if kind == "constant" else 0.5, abs=1e-15)


@pytest.mark.parametrize("kind", ["linear_decay", "cosine_decay"])
def test_a_decay_reaches_zero_at_the_end_and_stays_there(kind: str) -> None:
    assert [factor(Schedule(kind=kind), step, 100) for step in (100, 150)] == pytest.approx([0.0, 0.0], abs=1e-15)
    assert factor(Schedule(kind=kind), 99, 100) > 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_warmup_as_long_as_the_run_never_divides_by_zero(kind: str) -> None:
    schedule = Schedule(kind=kind, warmup_steps=10)
    assert [factor(schedule, step, 10) for step in range(10)] == [(step + 1) / 10 for step in range(10)]
    assert 0 <= factor(schedule, 10, 10) <= 1


@settings(deadline=None, derandomize=True, max_examples=50)
@given(st.sampled_from(KINDS), st.integers(0, 50), st.integers(1, 200))
def test_factor_stays_between_zero_and_one_and_falls_after_the_warmup(kind: str, warmup: int, total: int) -> None:
    values = [factor(Schedule(kind=kind, warmup_steps=warmup), step, total) for step in range(total + 5)]
    assert all(0 <= value <= 1 for value in values)
    assert values[warmup:] == sorted(values[warmup:], reverse=True)
    assert values[:warmup] == sorted(values[:warmup])
