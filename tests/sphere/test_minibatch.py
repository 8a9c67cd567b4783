"""Mini-batch energies average, over everything that may be drawn, to the full mean; so do their gradients."""

import math
from itertools import combinations, product

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from gan_mhe.sphere import hyperspherical_energy
from gan_mhe.sphere.minibatch import (
    draw_partners,
    draw_subset,
    label_energy,
    partner_energies,
    partner_products,
    subset_energies,
)
from tests.support.looped import looped

DISTANCES = ["euclidean", "geodesic"]
KERNELS = [{"s": s, "distance": distance} for s in (0.0, 1.0, 2.0) for distance in DISTANCES]
EVERY_KERNEL = looped("kernel", KERNELS)
BOTH_SPACES = looped("half_space", [False, True])


def gaussian(count: int, dim: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def others(count: int) -> list[list[int]]:
    return [[j for j in range(count) if j != i] for i in range(count)]


def all_subsets(count: int, size: int) -> list[torch.Tensor]:
    return [torch.tensor(subset) for subset in combinations(range(count), size)]


def all_partners(count: int, size: int) -> list[torch.Tensor]:
    rows = [list(product(row, repeat=size)) for row in others(count)]
    return [torch.tensor(choice) for choice in product(*rows)]


def assert_same_value_and_gradient(actual: torch.Tensor, expected: torch.Tensor, weight: torch.Tensor) -> None:
    assert actual.item() == pytest.approx(expected.item(), abs=1e-12)
    gradients = [torch.autograd.grad(value, weight)[0] for value in (actual, expected)]
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-11, atol=1e-12)


@BOTH_SPACES
@EVERY_KERNEL
def test_mean_over_all_subsets_is_the_full_mean_and_so_is_its_gradient(kernel: dict, half_space: bool) -> None:
    weight = gaussian(12, 5).requires_grad_()
    subsets = all_subsets(12, 4)
    assert len(subsets) == 495
    average = subset_energies([weight] * 495, subsets, half_space=half_space, **kernel).mean()
    assert_same_value_and_gradient(average, hyperspherical_energy(weight, half_space=half_space, **kernel), weight)


@BOTH_SPACES
@looped("size", [2, 3, 6])
def test_subsets_of_every_size_are_unbiased(size: int, half_space: bool) -> None:
    weight, subsets = gaussian(6, 4), all_subsets(6, size)
    average = subset_energies([weight] * len(subsets), subsets, s=1.0, half_space=half_space).mean()
    full = hyperspherical_energy(weight, s=1.0, half_space=half_space)
    assert average.item() == pytest.approx(full.item(), abs=1e-13)


def test_half_space_energy_of_the_chosen_rows_alone_would_be_biased() -> None:
    weight, subsets = gaussian(6, 4), all_subsets(6, 3)
    naive = torch.stack([hyperspherical_energy(weight[subset], s=1.0, half_space=True) for subset in subsets]).mean()
    assert abs(naive - hyperspherical_energy(weight, s=1.0, half_space=True)) > 1e-2


@BOTH_SPACES
@looped(("count", "size"), [(4, 1), (3, 2)])
@EVERY_KERNEL
def test_mean_over_all_partners_is_the_full_mean_and_so_is_its_gradient(
    kernel: dict, count: int, size: int, half_space: bool
) -> None:
    weight = gaussian(count, 5).requires_grad_()
    choices = all_partners(count, size)
    assert len(choices) == (count - 1) ** (count * size)
    average = partner_energies([weight] * len(choices), choices, half_space=half_space, **kernel).mean()
    assert_same_value_and_gradient(average, hyperspherical_energy(weight, half_space=half_space, **kernel), weight)


@BOTH_SPACES
def test_all_the_others_as_partners_are_the_full_mean(half_space: bool) -> None:
    weight = gaussian(9, 4).requires_grad_()
    (energy,) = partner_energies([weight], [torch.tensor(others(9))], s=2.0, half_space=half_space)
    assert_same_value_and_gradient(energy, hyperspherical_energy(weight, s=2.0, half_space=half_space), weight)


@EVERY_KERNEL
def test_labels_that_are_all_equally_frequent_give_the_full_mean_and_its_gradient(kernel: dict) -> None:
    weight = gaussian(7, 4).requires_grad_()
    energy = label_energy(weight, torch.arange(21) % 7, **kernel)
    assert_same_value_and_gradient(energy, hyperspherical_energy(weight, **kernel), weight)


@EVERY_KERNEL
def test_label_energy_is_the_mean_over_the_pairs_of_each_labels_row(kernel: dict) -> None:
    weight, labels = gaussian(7, 4).requires_grad_(), [0, 0, 3]
    pairs = [hyperspherical_energy(weight[[y, j]], **kernel) for y in labels for j in others(7)[y]]
    energy = label_energy(weight, torch.tensor(labels), **kernel)
    assert_same_value_and_gradient(energy, torch.stack(pairs).mean(), weight)
    assert abs(energy - hyperspherical_energy(weight, **kernel)) > 1e-4


@BOTH_SPACES
def test_layers_of_different_sizes_have_their_own_estimates(half_space: bool) -> None:
    weights = [gaussian(6, 5), gaussian(9, 3, seed=1)]
    subsets = [torch.tensor([4, 1, 3]), torch.tensor([8, 0])]
    partners = [torch.tensor(others(6))[:, :2], torch.tensor(others(9))[:, [3]]]
    for function, indices in ((subset_energies, subsets), (partner_energies, partners)):
        together = function(weights, indices, s=1.0, half_space=half_space)
        alone = [
            function([weight], [index], s=1.0, half_space=half_space)
            for weight, index in zip(weights, indices, strict=True)
        ]
        torch.testing.assert_close(together, torch.cat(alone), rtol=1e-14, atol=0)


def test_rows_that_are_not_chosen_get_no_gradient() -> None:
    weight = gaussian(6, 5).requires_grad_()
    subset_energies([weight], [torch.tensor([4, 1, 3])]).sum().backward()
    assert weight.grad is not None
    assert (weight.grad.norm(dim=1) > 0).tolist() == [False, True, False, True, True, False]


@BOTH_SPACES
def test_a_layer_of_one_neuron_gives_exactly_zero_and_no_gradient(half_space: bool) -> None:
    weight = gaussian(1, 4).requires_grad_()
    values = [subset_energies([weight], [torch.tensor([0])], s=1.0, half_space=half_space)[0]]
    values.append(label_energy(weight, torch.tensor([0, 0]), s=1.0))
    for value in values:
        (slope,) = torch.autograd.grad(value, weight)
        assert value.item() == 0 and not slope.any()


@looped(("dtype", "tolerance"), [
    (torch.float64, 1e-15), (torch.float32, 1e-6), (torch.bfloat16, 1e-2), (torch.float16, 1e-3),
])  # fmt: skip
def test_gradient_of_partner_products_is_that_of_autograd_in_the_weights_dtype(
    dtype: torch.dtype, tolerance: float
) -> None:
    weight, partners = gaussian(6, 5).to(dtype).requires_grad_(), torch.tensor(others(6))[:, [0, 3, 0]]
    wide = weight.detach().double().requires_grad_()
    plain = torch.cat([(wide[:, None] * wide[partners]).sum(2), wide.square().sum(1, keepdim=True)], 1)
    products, cotangent = partner_products(weight, partners), gaussian(6, 4, seed=1)
    torch.testing.assert_close(products, plain.detach(), rtol=1e-14, atol=1e-14)
    (actual,) = torch.autograd.grad(products, weight, cotangent)
    (expected,) = torch.autograd.grad(plain, wide, cotangent)
    assert actual.dtype == dtype
    torch.testing.assert_close(actual.double(), expected, rtol=0, atol=10 * tolerance)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf Tensor")  # opcheck looks at it
def test_partner_products_are_a_sound_operator_with_two_derivatives() -> None:
    weight, partners = gaussian(4, 3).requires_grad_(), torch.tensor(others(4))[:, :2]
    torch.library.opcheck(partner_products, (weight, partners))
    assert torch.autograd.gradcheck(partner_products, (weight, partners))
    assert torch.autograd.gradgradcheck(partner_products, (weight, partners))


@EVERY_KERNEL
def test_near_pairs_of_float32_rows_keep_their_energy(kernel: dict) -> None:
    for theta in (1e-1, 1e-2, 1e-3):
        turned = math.cos(theta) * gaussian(1, 64) / gaussian(1, 64).norm() + math.sin(theta) * gaussian(1, 64, 1) / 8
        weight = torch.cat([gaussian(1, 64), turned]).float()
        exact = hyperspherical_energy(weight.double(), **kernel).item()
        pair = torch.tensor([[1], [0]])
        assert partner_energies([weight], [pair], **kernel).item() == pytest.approx(exact, rel=1e-6)
        assert label_energy(weight, pair[0], **kernel).item() == pytest.approx(exact, rel=1e-6)
        assert subset_energies([weight], [pair[:, 0]], **kernel).item() == pytest.approx(exact, rel=1e-6)


DEGENERATE = {
    "duplicates": gaussian(1, 5).repeat(4, 1),
    "antipodes": torch.cat([gaussian(2, 5), -2 * gaussian(2, 5)]),
    "zero row": torch.cat([gaussian(3, 5), torch.zeros(1, 5)]),
    "all zero": torch.zeros(4, 5),
    "tiny rows": gaussian(4, 5) * 1e-7,
    "tiny duplicates": torch.full((4, 5), 1e-11),
    "near duplicates": gaussian(1, 5) + 1e-7 * gaussian(4, 5),
}


@looped("dtype", [torch.float64, torch.float32, torch.bfloat16])
@looped("name", DEGENERATE)
@EVERY_KERNEL
def test_degenerate_rows_have_a_finite_value_and_gradient(kernel: dict, name: str, dtype: torch.dtype) -> None:
    weight = DEGENERATE[name].to(dtype, copy=True).requires_grad_()
    values = [label_energy(weight, torch.tensor([0, 3, 3]), **kernel)]
    for half in (False, True):
        values.append(subset_energies([weight], [torch.tensor([0, 2, 3])], half_space=half, **kernel)[0])
        values.append(partner_energies([weight], [torch.tensor(others(4))], half_space=half, **kernel)[0])
    for value in values:
        (slope,) = torch.autograd.grad(value, weight)
        assert value.isfinite() and slope.isfinite().all()
        assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert slope.dtype == dtype


def test_half_precision_gradients_of_partners_saturate_instead_of_overflowing() -> None:
    weight = torch.tensor([[1.0, 0], [1, 1e-4]], dtype=torch.float16, requires_grad=True)
    partner_energies([weight], [torch.tensor([[1], [0]])], s=2.0).sum().backward()
    assert weight.grad is not None and weight.grad[1, 1].item() == -torch.finfo(torch.float16).max


def test_a_zero_row_counts_as_orthogonal_to_its_partners_and_gets_no_force() -> None:
    weight = torch.cat([gaussian(1, 5), torch.zeros(1, 5)]).requires_grad_()
    pair = torch.tensor([[1], [0]])
    for value in (partner_energies([weight], [pair], s=2.0), label_energy(weight, pair[:, 0], s=2.0)):
        (slope,) = torch.autograd.grad(value.sum(), weight)
        assert value.item() == pytest.approx(0.5, abs=1e-15)
        assert not slope.any()


def test_energies_ignore_ambient_autocast() -> None:
    weight, partners = gaussian(6, 8).float(), torch.tensor(others(6))

    def all_three() -> list[torch.Tensor]:
        return [
            subset_energies([weight], [partners[0]], s=1.0, half_space=True),
            partner_energies([weight], [partners], s=1.0, half_space=True),
            label_energy(weight, partners[0], s=1.0),
        ]

    plain = all_three()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert all(torch.equal(one, other) for one, other in zip(all_three(), plain, strict=True))


@BOTH_SPACES
def test_nothing_is_read_back_to_the_host(half_space: bool) -> None:
    with FakeTensorMode():  # raises on item() and on branches over values
        weight = torch.empty(5, 3, requires_grad=True)
        indices = torch.empty(5, 2, dtype=torch.int64)
        energy = subset_energies([weight], [indices[:3, 0]], half_space=half_space).sum()
        energy = energy + partner_energies([weight], [indices], half_space=half_space).sum()
        (energy + label_energy(weight, indices[:, 0])).backward()
    assert weight.grad is not None and weight.grad.shape == (5, 3)


@looped("size", [1, 4, 10])
def test_drawn_subsets_are_distinct_and_in_range(size: int) -> None:
    out, source = torch.full((size,), -1), generator()
    for _ in range(50):
        draw_subset(10, size, source, out)
        assert len(set(out.tolist())) == size and set(out.tolist()) <= set(range(10))


def test_every_subset_is_drawn_equally_often() -> None:
    out, source = torch.empty(2, dtype=torch.int64), generator()
    counts = dict.fromkeys(combinations(range(5), 2), 0)
    for _ in range(4000):
        draw_subset(5, 2, source, out)
        counts[tuple(sorted(out.tolist()))] += 1
    assert max(abs(count - 400) for count in counts.values()) < 5 * math.sqrt(400)


def test_drawn_partners_are_in_range_never_self_and_equally_frequent() -> None:
    out = torch.empty((5, 20000), dtype=torch.int64)
    draw_partners(5, 20000, generator(), out)
    for i, row in enumerate(out):
        counts = row.bincount(minlength=5).tolist()
        assert len(counts) == 5 and counts.pop(i) == 0
        assert max(abs(count - 5000) for count in counts) < 5 * math.sqrt(5000)


@looped(("draw", "shape"), [(draw_subset, (20,)), (draw_partners, (50, 20))])
def test_draws_repeat_with_their_seed_and_fill_the_tensor_they_are_given(draw, shape: tuple[int, ...]) -> None:
    out = torch.empty(shape, dtype=torch.int64)
    address, state, draws = out.data_ptr(), torch.get_rng_state(), []
    for seed in (1, 1, 2):
        draw(50, 20, generator(seed), out)
        draws.append(out.clone())
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
    assert out.data_ptr() == address
    assert torch.equal(torch.get_rng_state(), state)


@looped("subset", [
    torch.tensor([0]), torch.arange(4), torch.tensor([[0, 1]]), torch.tensor([0.0, 1]), torch.tensor(1),
])  # fmt: skip
def test_subsets_of_another_kind_or_size_are_refused(subset: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="subsets: expected"):
        subset_energies([torch.eye(3)], [subset])


@looped("partners", [
    torch.zeros(3, 0, dtype=torch.int64), torch.zeros(2, 1, dtype=torch.int64), torch.zeros(3, dtype=torch.int64),
    torch.zeros(3, 1), torch.tensor(1),
])  # fmt: skip
def test_partners_of_another_kind_are_refused(partners: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="partners: expected"):
        partner_energies([torch.eye(3)], [partners])


def test_a_neuron_without_others_has_no_partners() -> None:
    with pytest.raises(ValueError, match="N = 1"):
        partner_energies([torch.ones(1, 3)], [torch.zeros(1, 1, dtype=torch.int64)])
    with pytest.raises(ValueError, match=r"count, size: .* got 1 and 2"):
        draw_partners(1, 2, generator(), torch.empty((1, 2), dtype=torch.int64))


@looped("labels", [torch.zeros(0, dtype=torch.int64), torch.ones(2), torch.tensor([[1]])])
def test_labels_of_another_kind_are_refused(labels: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="labels: expected"):
        label_energy(torch.eye(3), labels)


def test_unknown_kernels_are_refused() -> None:
    pair = torch.tensor([[1], [0]])
    for options, message in (({"s": -1.0}, "s: expected"), ({"distance": "other"}, "distance: expected")):
        for function, indices in ((subset_energies, [pair[:, 0]]), (partner_energies, [pair])):
            with pytest.raises(ValueError, match=message):
                function([torch.eye(2)], indices, **options)
        with pytest.raises(ValueError, match=message):
            label_energy(torch.eye(2), pair[0], **options)


@looped(("size", "out"), [
    (0, torch.empty(0, dtype=torch.int64)), (4, torch.empty(4, dtype=torch.int64)), (2, torch.empty(2)),
    (2, torch.empty(3, dtype=torch.int64)),
])  # fmt: skip
def test_impossible_draws_are_refused(size: int, out: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="expected"):
        draw_subset(3, size, generator(), out)
