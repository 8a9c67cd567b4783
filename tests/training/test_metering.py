"""Means since the last report, and the first non-finite value of a run."""

import math

import pytest
import torch
from torch import Tensor

from gan_mhe.training.metering import Meter, NonFiniteFlag

CPU = torch.device("cpu")


def scalar(value: float) -> Tensor:
    return torch.tensor(value)


def step(number: int) -> Tensor:
    return torch.tensor(number)


def test_meter_reads_the_mean_of_each_scalar_over_the_steps_that_have_it() -> None:
    meter = Meter(CPU)
    meter.add({"a": scalar(1.0), "b": scalar(5.0)})
    meter.add({"a": scalar(2.0)})
    assert meter.read() == {"a": 1.5, "b": 5.0}


def test_meter_is_reset_by_reading() -> None:
    meter = Meter(CPU)
    meter.add({"a": scalar(1.0)})
    meter.read()
    assert meter.read() == {}
    meter.add({"b": scalar(3.0)})
    assert meter.read() == {"b": 3.0}


def test_meter_sums_many_small_numbers_beyond_float32() -> None:
    meter = Meter(CPU)
    meter.add({"a": scalar(2.0**24)})
    for _ in range(99):
        meter.add({"a": scalar(1.0)})  # each would vanish in a float32 sum
    assert meter.read()["a"] == (2**24 + 99) / 100


def test_meter_shows_a_non_finite_mean() -> None:
    meter = Meter(CPU)
    meter.add({"a": scalar(math.nan), "b": scalar(math.inf)})
    read = meter.read()
    assert math.isnan(read["a"]) and read["b"] == math.inf


def test_meter_continues_from_its_state() -> None:
    meter, other = Meter(CPU), Meter(CPU)
    meter.add({"a": scalar(1.0)})
    other.load_state(meter.state())
    other.add({"a": scalar(4.0)})
    assert other.read() == {"a": 2.5}
    assert meter.read() == {"a": 1.0}


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_flag_names_the_step_and_the_terms_that_were_not_finite(bad: float) -> None:
    detector = NonFiniteFlag(CPU)
    detector.watch({"fine": scalar(1.0), "loss": scalar(bad), "gradient": scalar(bad)}, step(17))
    assert detector.read() == (17, ["loss", "gradient"])
    assert detector.flag.item() == 1.0


def test_meter_keeps_the_address_of_its_table() -> None:
    meter = Meter(CPU)
    meter.add({"a": scalar(1.0)})
    address = meter._table.data_ptr()
    meter.read()
    meter.add({"b": scalar(1.0), "a": scalar(2.0)})
    meter.load_state(meter.state())
    assert meter._table.data_ptr() == address
    assert meter.read() == {"a": 2.0, "b": 1.0}


def test_flag_is_not_set_while_all_values_are_finite() -> None:
    detector = NonFiniteFlag(CPU)
    detector.watch({"loss": scalar(torch.finfo(torch.float32).max)}, step(0))
    assert detector.read() is None
    assert detector.flag.item() == 0.0


def test_only_the_first_update_with_a_non_finite_value_is_recorded() -> None:
    detector = NonFiniteFlag(CPU)
    detector.watch({"loss": scalar(1.0)}, step(3))
    detector.watch({"loss": scalar(math.nan)}, step(4))
    detector.watch({"other": scalar(math.nan), "loss": scalar(math.nan)}, step(4))
    detector.watch({"other": scalar(math.nan)}, step(5))
    assert detector.read() == (4, ["loss"])
    assert detector.flag.item() == 1.0
