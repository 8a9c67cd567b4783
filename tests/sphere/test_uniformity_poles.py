"""The gradient steps of the poles of polarization and covering, against torch.optim.SGD and autograd."""

import math
from collections.abc import Callable

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from gan_mhe.sphere.uniformity import covering, covering_step, polarization, polarization_step

Objective = Callable[..., torch.Tensor]
BOTH_SPACES = pytest.mark.parametrize("half_space", [False, True])


def gaussian(count: int, dim: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pole_of(dim: int, seed: int = 99) -> torch.Tensor:
    return gaussian(1, dim, seed)[0]


POLES = {
    "polarization": (lambda w, v, half: -polarization(w, v, half_space=half), polarization_step),
    "covering": (lambda w, v, half: -covering(w, v, half_space=half), covering_step),
}  # objective that the pole minimizes, and its step
BOTH_POLES = pytest.mark.parametrize(("objective", "step"), POLES.values(), ids=POLES)


@BOTH_SPACES
@BOTH_POLES
def test_pole_steps_are_those_of_sgd_with_autograd(objective: Objective, step: Objective, half_space: bool) -> None:
    weight, pole = gaussian(6, 4), pole_of(4)
    reference = pole.clone().requires_grad_()
    optimizer = torch.optim.SGD([reference], lr=0.05, momentum=0.9)
    momentum = torch.zeros(4, dtype=torch.float64)
    for _ in range(10):
        optimizer.zero_grad()
        objective(weight, reference, half_space).backward()
        optimizer.step()
        pole, momentum = step(weight, pole, momentum, lr=0.05, momentum=0.9, half_space=half_space)
        torch.testing.assert_close(pole, reference.detach(), rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(momentum, optimizer.state[reference]["momentum_buffer"], rtol=1e-12, atol=1e-13)


@BOTH_POLES
def test_several_steps_in_one_call_are_those_of_several_calls(objective: Objective, step: Objective) -> None:
    weight, pole, momentum = gaussian(6, 4), pole_of(4), gaussian(1, 4, seed=5)[0]
    together = step(weight, pole, momentum, lr=0.1, momentum=0.9, steps=3)
    for _ in range(3):
        pole, momentum = step(weight, pole, momentum, lr=0.1, momentum=0.9)
    assert torch.equal(together[0], pole) and torch.equal(together[1], momentum)


@BOTH_SPACES
@BOTH_POLES
def test_a_pole_step_without_momentum_improves_the_poles_objective(
    objective: Objective, step: Objective, half_space: bool
) -> None:
    weight = gaussian(10, 5)
    for seed in range(20):
        pole, rest = pole_of(5, seed), torch.zeros(5, dtype=torch.float64)
        stepped, _ = step(weight, pole, rest, lr=1e-3, momentum=0.0, half_space=half_space)
        assert objective(weight, stepped, half_space) < objective(weight, pole, half_space)


def test_covering_step_takes_its_gamma() -> None:
    weight, rest = gaussian(6, 4), torch.zeros(4, dtype=torch.float64)
    pole = pole_of(4).requires_grad_()
    (slope,) = torch.autograd.grad(covering(weight, pole, gamma=2.0), pole)
    stepped, momentum = covering_step(weight, pole.detach(), rest, lr=0.1, momentum=0.5, gamma=2.0)
    torch.testing.assert_close(momentum, -slope)
    torch.testing.assert_close(stepped, pole.detach() + 0.1 * slope)


@BOTH_POLES
def test_pole_steps_leave_their_arguments_alone_and_keep_their_dtypes(objective: Objective, step: Objective) -> None:
    weight, pole, momentum = gaussian(6, 4).float().requires_grad_(), pole_of(4).float(), torch.ones(4)
    before = pole.clone()
    results = step(weight, pole, momentum, lr=0.1, momentum=0.9)
    assert torch.equal(pole, before) and torch.equal(momentum, torch.ones(4))
    assert [(result.dtype, result.requires_grad) for result in results] == [(torch.float32, False)] * 2


@BOTH_POLES
def test_a_traced_pole_step_computes_what_the_step_does(objective: Objective, step: Objective) -> None:
    def one(weight: torch.Tensor, pole: torch.Tensor, momentum: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return step(weight, pole, momentum, lr=0.1, momentum=0.9, steps=2, half_space=True)

    traced = make_fx(one)(gaussian(6, 4), pole_of(4), pole_of(4, 1))
    other = (gaussian(6, 4, seed=7), pole_of(4, 8), pole_of(4, 9))
    torch.testing.assert_close(traced(*other), one(*other), rtol=0, atol=0)


@BOTH_POLES
def test_pole_steps_read_nothing_back(objective: Objective, step: Objective) -> None:
    with FakeTensorMode():  # raises on item() and on branches over values
        pole, momentum = step(torch.empty(5, 3), torch.empty(3), torch.empty(3), lr=0.1, momentum=0.9, half_space=True)
    assert pole.shape == momentum.shape == (3,)


DEGENERATE = {
    "duplicates": gaussian(1, 5).repeat(4, 1),
    "antipodes": torch.cat([gaussian(3, 5), -2 * gaussian(3, 5)]),
    "zero row": torch.cat([gaussian(3, 5), torch.zeros(1, 5)]),
    "all zero": torch.zeros(3, 5),
    "tiny rows": gaussian(3, 5) * 1e-7,
    "one neuron": gaussian(1, 5),
    "one zero neuron": torch.zeros(1, 5),
    "on the pole": torch.stack([pole_of(5), -pole_of(5), pole_of(5) + 1e-7]),
}


@pytest.mark.parametrize("name", DEGENERATE)
@BOTH_SPACES
@BOTH_POLES
def test_pole_steps_from_degenerate_rows_and_poles_are_finite(
    objective: Objective, step: Objective, half_space: bool, name: str
) -> None:
    for pole in (pole_of(5), torch.zeros(5, dtype=torch.float64)):
        results = step(DEGENERATE[name].double(), pole, pole_of(5, 1), lr=0.1, momentum=0.9, half_space=half_space)
        assert all(result.isfinite().all() for result in results)


def test_a_pole_near_a_row_is_pushed_off_it() -> None:
    row = torch.tensor([[1.0, 0, 0]], dtype=torch.float64)
    near, rest = torch.tensor([1.0, 1e-6, 0], dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    pole, _ = polarization_step(row, near, rest, lr=1e-12, momentum=0.0)
    assert pole[1] > near[1]
    reference = near.clone().requires_grad_()
    (slope,) = torch.autograd.grad(-polarization(row, reference), reference)
    torch.testing.assert_close((near - pole) / 1e-12, slope, rtol=1e-6, atol=0)


@pytest.mark.parametrize(("name", "value"), [
    ("lr", 0.0), ("lr", math.nan), ("momentum", 1.0), ("momentum", -0.1), ("steps", 0), ("gamma", 0.0),
    ("momentum_D", torch.ones(2)),
])  # fmt: skip
def test_settings_of_a_step_out_of_range_are_refused_by_name(name: str, value: object) -> None:
    options: dict[str, object] = {"pole_D": torch.ones(3), "momentum_D": torch.ones(3), "lr": 0.1, "momentum": 0.9}
    with pytest.raises(ValueError, match=f"{name}: expected"):
        covering_step(torch.eye(3), **(options | {name: value}))
