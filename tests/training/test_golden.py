"""Every variant computes what it computed when its golden trace was recorded."""

import math
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gan_mhe.variants import VARIANTS


@pytest.fixture(scope="module")
def recorder() -> dict[str, Any]:
    """What `record_golden.py` defines, as it is run from the shell."""
    return runpy.run_path(str(Path(__file__).with_name("record_golden.py")))


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_follows_its_golden_trace(recorder: dict[str, Any], variant: str) -> None:
    golden = recorder["load"](variant)
    assert golden, f"no golden trace of {variant}; record it with tests/training/record_golden.py"
    differences = recorder["deviations"](recorder["trace"](variant), golden)
    assert {name: size for name, size in differences.items() if size > recorder["TOLERANCE"]} == {}


def test_there_is_a_golden_trace_of_every_variant_and_of_nothing_else(recorder: dict[str, Any]) -> None:
    assert {path.stem for path in recorder["GOLDEN"].iterdir()} == set(VARIANTS)


def test_golden_traces_of_different_variants_differ(recorder: dict[str, Any]) -> None:
    # Also those whose term is numerically inert: 1e-9 still sees 1e-7 times an energy.
    for variant in VARIANTS:
        others = [recorder["load"](other) for other in VARIANTS if other != variant]
        golden = recorder["load"](variant)
        weights = {name: value for name, value in golden.items() if name.startswith("weights/")}
        for other in others:
            same_weights = {name: other[name] for name in weights}
            assert max(recorder["deviations"](weights, same_weights).values()) > 2 * recorder["TOLERANCE"]


@pytest.mark.parametrize(("found", "expected"), [
    ({"a": [1.0, 4.0]}, 0.0),
    ({"a": [1.0, 4.4]}, 0.1),
    ({"a": [1.4, 4.0]}, 0.1),
    ({"a": [1.0]}, math.inf),
    ({"a": [1.0, math.nan]}, math.inf),
    ({"a": [1.0, 4.0], "b": [0.0]}, math.inf),
    ({}, math.inf),
])  # fmt: skip
def test_a_deviation_is_relative_to_the_largest_value_of_a_trace(
    recorder: dict[str, Any], found: dict[str, list[float]], expected: float
) -> None:
    deviations: Callable[..., dict[str, float]] = recorder["deviations"]
    assert max(deviations(found, {"a": [1.0, 4.0]}).values()) == pytest.approx(expected, rel=1e-12)
