"""Adversarial losses against their literal formulas in float64, values and gradients at known points, extremes."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gan_mhe.training.losses import LOSSES
from tests.support.looped import looped

NAMES = list(LOSSES)
LN2 = 0.6931471805599453


def logits(*values: float, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.tensor(values, dtype=dtype)


def literal_discriminator(name: str, real: list[float], fake: list[float]) -> float:
    """The formulas of the papers, one number at a time."""

    def mean(values: list[float], term: Callable[[float], float]) -> float:
        return math.fsum(map(term, values)) / len(values)

    def sigmoid(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    return {
        "non_saturating": mean(real, lambda x: -math.log(sigmoid(x))) + mean(fake, lambda x: -math.log(sigmoid(-x))),
        "hinge": mean(real, lambda x: max(0.0, 1 - x)) + mean(fake, lambda x: max(0.0, 1 + x)),
        "wasserstein": mean(fake, lambda x: x) - mean(real, lambda x: x),
        "least_squares": mean(real, lambda x: (x - 1) ** 2) / 2 + mean(fake, lambda x: x**2) / 2,
    }[name]


def literal_generator(name: str, fake: list[float]) -> float:
    term: Callable[[float], float] = {
        "non_saturating": lambda x: -math.log(1 / (1 + math.exp(-x))),
        "hinge": lambda x: -x,
        "wasserstein": lambda x: -x,
        "least_squares": lambda x: (x - 1) ** 2 / 2,
    }[name]
    return math.fsum(map(term, fake)) / len(fake)


moderate = st.lists(st.floats(-15, 15), min_size=1, max_size=5)


@pytest.mark.parametrize("name", NAMES)
@given(real=moderate, fake=moderate)
@settings(deadline=None, derandomize=True, max_examples=50)
def test_losses_equal_the_formulas_of_the_papers(name: str, real: list[float], fake: list[float]) -> None:
    # 1e-9: log(sigmoid(15)) loses digits to cancellation in the literal form, not in softplus.
    loss = LOSSES[name]
    expected = literal_discriminator(name, real, fake)
    assert loss.discriminator(logits(*real), logits(*fake)).item() == pytest.approx(expected, rel=1e-9, abs=1e-9)
    assert loss.generator(logits(*fake)).item() == pytest.approx(literal_generator(name, fake), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(
    ("name", "discriminator", "generator"),
    [
        ("non_saturating", 2 * LN2, LN2),
        ("hinge", 2.0, 0.0),
        ("wasserstein", 0.0, 0.0),
        ("least_squares", 0.5, 0.5),
    ],
)
def test_values_of_an_undecided_discriminator(name: str, discriminator: float, generator: float) -> None:
    zeros = torch.zeros(64, dtype=torch.float64)
    assert LOSSES[name].discriminator(zeros, zeros).item() == pytest.approx(discriminator, abs=1e-15)
    assert LOSSES[name].generator(zeros).item() == pytest.approx(generator, abs=1e-15)


@pytest.mark.parametrize(
    ("name", "point", "by_real", "by_fake", "by_generated"),
    [
        ("non_saturating", 0.0, -0.5, 0.5, -0.5),
        ("non_saturating", math.log(3), -0.25, 0.75, -0.25),
        ("hinge", 0.0, -1.0, 1.0, -1.0),
        ("hinge", 1.5, 0.0, 1.0, -1.0),
        ("hinge", -1.5, -1.0, 0.0, -1.0),
        ("wasserstein", 3.0, -1.0, 1.0, -1.0),
        ("least_squares", 0.0, -1.0, 0.0, -1.0),
        ("least_squares", 3.0, 2.0, 3.0, 2.0),
    ],
)
def test_gradients_at_known_points(
    name: str, point: float, by_real: float, by_fake: float, by_generated: float
) -> None:
    real, fake, generated = (logits(point, point).requires_grad_() for _ in range(3))
    LOSSES[name].discriminator(real, fake).backward()
    LOSSES[name].generator(generated).backward()
    for values, expected in ((real, by_real), (fake, by_fake), (generated, by_generated)):
        # Each of the two logits carries half of the gradient of the mean.
        assert values.grad is not None
        torch.testing.assert_close(values.grad, logits(expected / 2, expected / 2), rtol=0, atol=1e-15)


@looped("name", NAMES)
@looped("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@looped("value", [-1e4, 1e4])
def test_losses_and_gradients_are_finite_at_extreme_logits(name: str, dtype: torch.dtype, value: float) -> None:
    real, fake, generated = (logits(value, value, dtype=dtype).requires_grad_() for _ in range(3))
    losses = (LOSSES[name].discriminator(real, fake), LOSSES[name].generator(generated))
    for loss in losses:
        assert loss.isfinite()
        loss.backward()
    assert all(x.grad is not None and x.grad.isfinite().all() for x in (real, fake, generated))


@pytest.mark.parametrize(
    ("name", "expected"),
    [("non_saturating", 2e4), ("hinge", 2e4 + 2), ("wasserstein", 2e4), ("least_squares", 1e8 + 1e4 + 0.5)],
)
def test_a_confidently_wrong_discriminator_pays_its_whole_margin(name: str, expected: float) -> None:
    assert LOSSES[name].discriminator(logits(-1e4), logits(1e4)).item() == pytest.approx(expected, rel=1e-12)


@looped("name", NAMES)
@looped(
    ("dtype", "expected"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_losses_are_computed_in_at_least_float32(name: str, dtype: torch.dtype, expected: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    real = torch.randn(1000, generator=generator).to(dtype)
    fake = torch.randn(1000, generator=generator).to(dtype)
    discriminator, generated = LOSSES[name].discriminator(real, fake), LOSSES[name].generator(fake)
    assert discriminator.dtype == generated.dtype == expected
    # Against the same rounded logits in float64: any step in lower precision would be off by 1e-3 or more.
    precise = LOSSES[name].discriminator(real.double(), fake.double())
    assert discriminator.item() == pytest.approx(precise.item(), abs=1e-6)
    assert generated.item() == pytest.approx(LOSSES[name].generator(fake.double()).item(), abs=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_losses_are_scalars_that_do_not_depend_on_the_shape_of_the_logits(name: str) -> None:
    real = torch.randn(12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    fake = torch.randn(12, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    flat = LOSSES[name].discriminator(real, fake)
    assert flat.shape == () == LOSSES[name].generator(fake).shape
    torch.testing.assert_close(LOSSES[name].discriminator(real.view(3, 4), fake.view(3, 4)), flat)


@pytest.mark.parametrize("name", NAMES)
def test_a_generator_step_raises_the_logit_of_what_it_made(name: str) -> None:
    fake = logits(-3.0, -0.5, 0.0, 0.5).requires_grad_()
    LOSSES[name].generator(fake).backward()
    assert fake.grad is not None
    assert (fake.grad < 0).all()


def test_the_table_of_losses_is_closed() -> None:
    assert NAMES == ["non_saturating", "hinge", "wasserstein", "least_squares"]
    with pytest.raises(TypeError):
        LOSSES["new"] = LOSSES["hinge"]  # type: ignore[index]
