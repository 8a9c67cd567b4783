"""Projected energies and the inner steps of CoMHE against autograd and the energy without projection."""

import math

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from gan_mhe.sphere import (
    adversarial_step,
    angle_preserving_step,
    group_energies,
    hyperspherical_energy,
    projected_energies,
)
from tests.support.looped import looped

POWERS = [0.0, 1.0, 2.0]
DISTANCES = ["euclidean", "geodesic"]
DECAY = 0.3
SETTINGS = looped(
    "options",
    [
        {"s": s, "distance": distance, "half_space": half_space}
        for s in POWERS
        for distance in DISTANCES
        for half_space in (False, True)
    ],
)


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rotation(dim: int, seed: int = 0) -> torch.Tensor:
    return torch.linalg.qr(gaussian(dim, dim, seed=seed)).Q


def plain_cosines(rows: torch.Tensor) -> torch.Tensor:
    unit = rows / rows.norm(dim=1, keepdim=True)
    return unit @ unit.T


# --- objectives of the inner steps as autograd sees them


def angle_loss(projection: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    lost = (plain_cosines(weight @ projection.T) - plain_cosines(weight)).norm()
    return lost + DECAY / 2 * projection.square().sum()


def adversarial_gain(projection: torch.Tensor, weight: torch.Tensor, s: float) -> torch.Tensor:
    return hyperspherical_energy(weight @ projection.T, s=s) - DECAY / 2 * projection.square().sum()


def reference_step(kind: str, projection: torch.Tensor, weight: torch.Tensor, lr: float) -> torch.Tensor:
    objective = angle_loss(projection, weight) if kind == "angle" else adversarial_gain(projection, weight, KINDS[kind])
    (gradient,) = torch.autograd.grad(objective, projection, create_graph=True)
    return projection - lr * gradient if kind == "angle" else projection + lr * gradient


def step(kind: str, projection: torch.Tensor, weight: torch.Tensor, lr: float | torch.Tensor) -> torch.Tensor:
    if kind == "angle":
        return angle_preserving_step(projection, weight, lr=lr, weight_decay=DECAY)
    return adversarial_step(projection, weight, lr=lr, weight_decay=DECAY, s=KINDS[kind])


KINDS = {"angle": math.nan, "log": 0.0, "s = 1": 1.0, "s = 2": 2.0, "s = 3.7": 3.7}  # the power of the adversary
EACH_KIND = looped("kind", KINDS)


# --- projected energies


@SETTINGS
def test_energies_are_the_mean_over_projections_one_by_one(options: dict) -> None:
    weights = [gaussian(70, 9), gaussian(5, 6, seed=1)]
    projections = [gaussian(20, 4, 9, seed=2), gaussian(3, 3, 6, seed=3)]
    leaves = [leaf.requires_grad_() for leaf in weights + projections]
    together = projected_energies(weights, projections, **options)
    alone = [
        torch.stack([hyperspherical_energy(weight @ each.T, **options) for each in projection]).mean()
        for weight, projection in zip(weights, projections, strict=True)
    ]
    torch.testing.assert_close(together, torch.stack(alone), rtol=1e-13, atol=0)
    gradients = torch.autograd.grad(together[0] - 2 * together[1], leaves)
    expected = torch.autograd.grad(alone[0] - 2 * alone[1], leaves)
    for actual, wanted in zip(gradients, expected, strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-10, atol=1e-12 * wanted.abs().max().item())


@SETTINGS
def test_gradient_equals_finite_differences(options: dict) -> None:
    inputs = gaussian(4, 5).requires_grad_(), gaussian(2, 3, 5, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda w, p: projected_energies([w], [p], **options), inputs)


@SETTINGS
def test_scaled_projection_gives_the_same_energy(options: dict) -> None:
    weight, projection = gaussian(6, 9), gaussian(3, 4, 9, seed=1)
    scaled = projection * torch.tensor([1e-4, 3, -1e5]).view(3, 1, 1)
    energies = [projected_energies([weight], [each], **options) for each in (projection, scaled)]
    torch.testing.assert_close(energies[0], energies[1], rtol=1e-12, atol=1e-13)


@SETTINGS
def test_square_orthogonal_projection_gives_the_energy_without_projection(options: dict) -> None:
    weight = gaussian(6, 9)
    energy = projected_energies([weight], [rotation(9)[None]], **options)
    torch.testing.assert_close(energy[0], hyperspherical_energy(weight, **options), rtol=1e-12, atol=1e-13)


# --- inner steps


@EACH_KIND
def test_step_follows_the_gradient_that_autograd_finds(kind: str) -> None:
    weight, projection = gaussian(7, 9), gaussian(4, 9, seed=1).requires_grad_()
    torch.testing.assert_close(
        step(kind, projection, weight, 0.1), reference_step(kind, projection, weight, 0.1), rtol=1e-10, atol=1e-11
    )


@EACH_KIND
def test_gradient_through_a_step_equals_autograd_through_autograd(kind: str) -> None:
    weight, projection = gaussian(7, 9).requires_grad_(), gaussian(4, 9, seed=1).requires_grad_()
    gradients = []
    for take in (step, reference_step):
        stepped = take(kind, projection, weight, 0.2)
        energy = projected_energies([weight], [stepped[None]], s=2.0, half_space=True).sum()
        gradients.append(torch.autograd.grad(energy, (weight, projection)))
    for actual, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-10 * expected.abs().max().item())


@EACH_KIND
def test_detached_arguments_leave_only_the_direct_gradient(kind: str) -> None:
    weight, projection = gaussian(7, 9).requires_grad_(), gaussian(4, 9, seed=1)
    stepped = step(kind, projection, weight.detach(), 0.2)
    assert not stepped.requires_grad
    unrolled = step(kind, projection, weight, 0.2)
    energies = [projected_energies([weight], [each[None]]).sum() for each in (stepped, unrolled)]
    detached, through = (torch.autograd.grad(energy, weight)[0] for energy in energies)
    assert energies[0].item() == energies[1].item()
    assert (detached - through).norm() > 1e-3 * detached.norm()


def test_small_steps_preserve_angles_better_and_better() -> None:
    weight, projection = gaussian(12, 9), gaussian(6, 9, seed=1)
    losses = [angle_loss(projection, weight).item()]
    for _ in range(20):
        projection = angle_preserving_step(projection, weight, lr=0.02, weight_decay=DECAY)
        losses.append(angle_loss(projection, weight).item())
    assert losses == sorted(losses, reverse=True) and losses[-1] < 0.95 * losses[0]


@looped("s", POWERS)
def test_small_steps_of_the_adversary_raise_the_energy(s: float) -> None:
    weight, projection = gaussian(12, 9), gaussian(6, 9, seed=1)
    gains = [adversarial_gain(projection, weight, s).item()]
    for _ in range(20):
        projection = adversarial_step(projection, weight, lr=0.002, weight_decay=DECAY, s=s)
        gains.append(adversarial_gain(projection, weight, s).item())
    assert gains == sorted(gains) and gains[-1] > gains[0]


@EACH_KIND
def test_rate_may_be_a_tensor(kind: str) -> None:
    weight, projection = gaussian(7, 9), gaussian(4, 9, seed=1)
    rate = torch.tensor(0.25)
    torch.testing.assert_close(step(kind, projection, weight, rate), step(kind, projection, weight, 0.25))


@looped("dtype", [torch.float64, torch.float32])
def test_projection_that_preserves_every_cosine_only_decays(dtype: torch.dtype) -> None:
    for projection in (rotation(6).to(dtype).requires_grad_(), torch.eye(6, dtype=dtype).requires_grad_()):
        weight = gaussian(5, 6).to(dtype).requires_grad_()
        stepped = angle_preserving_step(projection, weight, lr=0.5, weight_decay=0.1)
        torch.testing.assert_close(stepped, 0.95 * projection)
        gradients = torch.autograd.grad(stepped.sum(), (weight, projection))
        assert torch.equal(gradients[0], torch.zeros_like(weight))
        torch.testing.assert_close(gradients[1], torch.full_like(projection, 0.95))


# --- degenerate rows, precision, engines

DEGENERATE = {
    "duplicates": gaussian(1, 5).repeat(4, 1),
    "antipodes": torch.cat([gaussian(3, 5), -2 * gaussian(3, 5)]),
    "zero row": torch.cat([gaussian(3, 5), torch.zeros(1, 5)]),
    "all zero": torch.zeros(3, 5),
    "tiny rows": gaussian(3, 5) * 1e-7,
    "near pair": gaussian(1, 5) + 1e-5 * gaussian(3, 5, seed=1),
    "nearer pair": gaussian(1, 5) + 1e-9 * gaussian(3, 5, seed=1),
    "lost in projection": torch.eye(5, dtype=torch.float64),  # the last row projects to zero
    "one neuron": gaussian(1, 5),
    "one dimension": gaussian(5, 1) * torch.ones(1, 5),
}
PRECISIONS = looped("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])


@looped("dtype", [torch.float64, torch.float32, torch.bfloat16])
@looped("name", DEGENERATE)
def test_energies_steps_and_their_gradients_are_finite(name: str, dtype: torch.dtype) -> None:
    weight = DEGENERATE[name].to(dtype, copy=True).requires_grad_()
    projection = gaussian(3, 5, seed=2)
    projection[:, -1] = 0
    projection = projection.to(torch.float64 if dtype == torch.float64 else torch.float32).requires_grad_()
    steps = [step(kind, projection, weight, 1e-3) for kind in KINDS]
    losses = [
        projected_energies([weight], [torch.stack([projection, *steps])], s=s, distance=distance, half_space=half_space)
        for s in (0.0, 2.0)
        for distance in DISTANCES
        for half_space in (False, True)
    ]
    for values in (
        steps,
        losses,
        *(torch.autograd.grad(loss, (weight, projection), retain_graph=True) for loss in losses),
    ):
        assert all(value.isfinite().all() for value in values)


@looped("half_space", [False, True])
def test_one_neuron_gives_exactly_zero_and_no_gradient(half_space: bool) -> None:
    weight, projection = gaussian(1, 5).float().requires_grad_(), gaussian(4, 3, 5).float().requires_grad_()
    order = torch.arange(5)
    for energy in (
        projected_energies([weight], [projection], s=1.0, half_space=half_space),
        group_energies([weight], [order], groups=2, s=1.0, half_space=half_space),
    ):
        assert energy.item() == 0
        assert not torch.autograd.grad(energy, weight)[0].any()


@EACH_KIND
def test_step_without_a_pair_only_decays(kind: str) -> None:
    projection = gaussian(3, 5)
    expected = (1 - 0.5 * DECAY) * projection
    torch.testing.assert_close(step(kind, projection, gaussian(1, 5), 0.5), expected, rtol=1e-14, atol=1e-15)


def test_rows_lost_in_projection_count_as_orthogonal_and_get_no_gradient() -> None:
    weight = torch.eye(4, dtype=torch.float64).requires_grad_()
    projection = torch.eye(4, dtype=torch.float64)[None, :3]
    energy = projected_energies([weight], [projection], s=2.0)
    (gradient,) = torch.autograd.grad(energy, weight)
    assert energy.item() == pytest.approx(0.5, abs=1e-15)
    assert torch.equal(gradient[3], torch.zeros(4, dtype=torch.float64))


@PRECISIONS
def test_result_is_float64_for_float64_weights_and_float32_otherwise(dtype: torch.dtype) -> None:
    weight, projection = gaussian(4, 6).to(dtype), gaussian(2, 3, 6)
    expected = torch.float64 if dtype == torch.float64 else torch.float32
    assert projected_energies([weight], [projection]).dtype == expected
    assert group_energies([weight], [torch.arange(6)], groups=2).dtype == expected
    for kind in KINDS:
        assert step(kind, projection[0].float(), weight, 0.1).dtype == torch.float32


def test_near_pairs_of_float32_rows_keep_their_projected_energy() -> None:
    weight = (gaussian(1, 400) + 1e-4 * gaussian(2, 400, seed=1)).float()  # d² of float32 projections: 1e-3 off
    projection = gaussian(3, 40, 400, seed=2).float()
    exact = projected_energies([weight.double()], [projection.double()], s=2.0).item()
    assert projected_energies([weight], [projection], s=2.0).item() == pytest.approx(exact, rel=2e-7)


def test_half_precision_gradients_saturate_instead_of_overflowing() -> None:
    weight = torch.tensor([[1.0, 0], [1, 1e-4]], dtype=torch.float16, requires_grad=True)
    projected_energies([weight], [torch.eye(2)[None]], s=2.0).backward()
    assert weight.grad is not None
    assert weight.grad[1, 1].item() == -torch.finfo(torch.float16).max


def test_ambient_autocast_changes_nothing() -> None:
    weight, projection = gaussian(6, 8).float(), gaussian(4, 8, seed=1).float()

    def everything() -> list[torch.Tensor]:
        energies = [
            projected_energies([weight], [projection[None]]),
            group_energies([weight], [torch.arange(8)], groups=2),
        ]
        return energies + [step(kind, projection, weight, 0.1) for kind in KINDS]

    plain = everything()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert all(map(torch.equal, everything(), plain))


def all_at_once(weight: torch.Tensor, projection: torch.Tensor, order: torch.Tensor) -> list[torch.Tensor]:
    rate = projection.new_full((), 0.1)
    stepped = [step(kind, projection[0], weight, rate) for kind in KINDS]
    energies = projected_energies([weight] * 2, [projection, torch.stack(stepped)], s=1.0, half_space=True)
    energies = torch.cat([energies, group_energies([weight], [order], groups=2)])
    if weight.device.type != "cpu":  # where there is no GPU, no gradient can be taken for one
        return [energies]
    return [energies, *torch.autograd.grad(energies.sum(), (weight, projection))]


@looped("device", ["cpu", "cuda"])
def test_nothing_is_read_back_to_the_host(device: str) -> None:
    with FakeTensorMode():  # raises on item() and on branches over values
        weight = torch.empty(5, 8, device=device, requires_grad=True)
        projection = torch.empty(3, 4, 8, device=device, requires_grad=True)
        energies, *gradients = all_at_once(weight, projection, torch.empty(8, dtype=torch.int64, device=device))
    assert energies.shape == (3,)
    assert [gradient.shape for gradient in gradients] == ([(5, 8), (3, 4, 8)] if device == "cpu" else [])


def test_stacks_processed_in_chunks_have_the_energies_of_whole_stacks(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, projection = gaussian(6, 8), gaussian(5, 4, 8, seed=1)
    whole = projected_energies([weight], [projection], s=1.0)
    monkeypatch.setattr("gan_mhe.sphere.projection._CHUNK_ENTRIES", 2 * 6 * 6)
    chunked = projected_energies([weight], [projection], s=1.0)
    torch.testing.assert_close(chunked, whole, rtol=1e-14, atol=0)


def test_traced_computation_equals_the_eager_one() -> None:
    weight, projection = gaussian(5, 8).requires_grad_(), gaussian(3, 4, 8, seed=1).requires_grad_()
    order = torch.arange(8).flip(0)
    traced = torch.fx.experimental.proxy_tensor.make_fx(all_at_once)(weight, projection, order)
    other = gaussian(5, 8, seed=2).requires_grad_(), gaussian(3, 4, 8, seed=3).requires_grad_()
    for actual, expected in zip(traced(*other, order), all_at_once(*other, order), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-14)


# --- refusals


@looped("projection", [
    torch.ones(3, 5), torch.ones(2, 3, 4), torch.ones(0, 3, 5), torch.ones(2, 0, 5),
    torch.ones(2, 3, 5, dtype=torch.int64),
])  # fmt: skip
def test_projections_of_another_kind_are_refused_with_their_shape(projection: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"projections: expected .*\(C, K, 5\).* got .*shape \("):
        projected_energies([torch.ones(2, 5)], [projection])


@looped("take", [
    lambda weight, projection: angle_preserving_step(projection, weight, lr=0.1, weight_decay=0.0),
    lambda weight, projection: adversarial_step(projection, weight, lr=0.1, weight_decay=0.0, s=2.0),
])  # fmt: skip
def test_steps_refuse_shapes_that_do_not_match(take) -> None:
    with pytest.raises(ValueError, match=r"projection: expected .*\(K, 5\) with K >= 1, got .*\(3, 4\)"):
        take(torch.ones(2, 5), torch.ones(3, 4))
    with pytest.raises(ValueError, match=r"weight: expected .*\(N, D\)"):
        take(torch.ones(5), torch.ones(3, 5))


@looped("bad", [-0.1, math.nan, math.inf])
@looped("name", ["lr", "weight_decay"])
def test_steps_refuse_rates_out_of_range(name: str, bad: float) -> None:
    numbers = {"lr": 0.1, "weight_decay": 0.0} | {name: bad}
    with pytest.raises(ValueError, match=f"{name}: expected a finite number >= 0, got {bad}"):
        angle_preserving_step(torch.ones(3, 5), torch.ones(2, 5), **numbers)
    with pytest.raises(ValueError, match=f"{name}: expected a finite number >= 0, got {bad}"):
        adversarial_step(torch.ones(3, 5), torch.ones(2, 5), s=2.0, **numbers)


@looped("s", [-1.0, math.nan])
def test_power_out_of_range_is_refused_everywhere(s: float) -> None:
    weight, projection = torch.ones(2, 5), torch.ones(1, 3, 5)
    for refused in (
        lambda: projected_energies([weight], [projection], s=s),
        lambda: group_energies([weight], [torch.arange(5)], groups=1, s=s),
        lambda: adversarial_step(projection[0], weight, lr=0.1, weight_decay=0.0, s=s),
    ):
        with pytest.raises(ValueError, match=f"s: expected a finite number >= 0, got {s}"):
            refused()


def test_there_is_one_projection_and_one_order_for_each_weight() -> None:
    with pytest.raises(ValueError, match="projections: expected one for each of 2 weights, got 1"):
        projected_energies([torch.ones(2, 5)] * 2, [torch.ones(1, 3, 5)])
    with pytest.raises(ValueError, match="orders: expected one for each of 1 weights, got 0"):
        group_energies([torch.ones(2, 5)], [], groups=1)
