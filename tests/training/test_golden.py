"""Every variant computes what it computed when its golden trace was recorded."""

import math
from collections.abc import Callable

import pytest

from gan_mhe.variants import VARIANTS
from tools import record_golden


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_follows_its_golden_trace(variant: str) -> None:
    golden = record_golden.load(variant)
    assert golden, f"no golden trace of {variant}; record it with `make golden`"
    differences = record_golden.deviations(record_golden.trace(variant), golden)
    assert {name: size for name, size in differences.items() if size > record_golden.TOLERANCE} == {}


def test_there_is_a_golden_trace_of_every_variant_and_of_nothing_else() -> None:
    assert {path.stem for path in record_golden.GOLDEN.iterdir()} == set(VARIANTS)


def test_golden_traces_of_different_variants_differ() -> None:
    # Also those whose term is numerically inert: 1e-9 still sees 1e-7 times an energy.
    for variant in VARIANTS:
        others = [record_golden.load(other) for other in VARIANTS if other != variant]
        golden = record_golden.load(variant)
        weights = {name: value for name, value in golden.items() if name.startswith("weights/")}
        for other in others:
            same_weights = {name: other[name] for name in weights}
            assert max(record_golden.deviations(weights, same_weights).values()) > 2 * record_golden.TOLERANCE


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
    found: dict[str, list[float]], expected: float
) -> None:
    deviations: Callable[..., dict[str, float]] = record_golden.deviations
    assert max(deviations(found, {"a": [1.0, 4.0]}).values()) == pytest.approx(expected, rel=1e-12)
