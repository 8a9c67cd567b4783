"""The batch order against its definition, and the conversion between bytes and [-1, 1]."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from gan_mhe.data.batches import BatchOrder
from gan_mhe.data.pixels import to_uint8, to_unit_range
from gan_mhe.errors import DataError
from gan_mhe.rng import derive_seed


def numbered_images(count: int) -> Tensor:
    """Image m holds the bytes of m (low, high) in its first two columns and something asymmetric in the third."""
    number = torch.arange(count)
    columns = torch.stack([number % 256, number // 256, torch.full_like(number, 255)], dim=1)
    return columns.to(torch.uint8).view(count, 1, 1, 3).repeat(1, 3, 2, 1)


def numbers(batch: Tensor) -> list[int]:
    columns = to_uint8(batch)[:, 0, 0].to(torch.int64)
    return (columns[:, 0] + 256 * columns[:, 1]).tolist()


def make_order(count: int, *, batch: int, per_step: int = 1, flip: bool = False, seed: int = 0) -> BatchOrder:
    return BatchOrder(numbered_images(count), batch_size=batch, batches_per_step=per_step, flip=flip, seed=seed)


def numbers_of_steps(order: BatchOrder, steps: range, per_step: int) -> list[int]:
    seen = []
    for step in steps:
        order.set_step(step)
        for index in range(per_step):
            seen += numbers(order.draw(index))
    return seen


def by_definition(count: int, seed: int, positions: range) -> list[int]:
    """Image numbers at the given positions, straight from the definition: one permutation per epoch."""
    result = []
    for position in positions:
        epoch, place = divmod(position, count)
        generator = torch.Generator().manual_seed(derive_seed(seed, "epoch", epoch))
        result.append(int(torch.randperm(count, generator=generator)[place]))
    return result


sizes = {
    "count": st.integers(1, 23),
    "batch": st.integers(1, 9),
    "per_step": st.integers(1, 4),
    "step": st.integers(0, 40),
}


@given(**sizes)
@settings(deadline=None, derandomize=True, max_examples=60)
def test_draws_equal_the_definition(count: int, batch: int, per_step: int, step: int) -> None:
    order = make_order(count, batch=batch, per_step=per_step, seed=3)
    first = step * per_step * batch
    expected = by_definition(count, 3, range(first, first + per_step * batch))
    assert numbers_of_steps(order, range(step, step + 1), per_step) == expected


@given(**sizes)
@settings(deadline=None, derandomize=True, max_examples=40)
def test_seeking_a_step_equals_having_arrived_there(count: int, batch: int, per_step: int, step: int) -> None:
    arrived = make_order(count, batch=batch, per_step=per_step, flip=True)
    numbers_of_steps(arrived, range(step), per_step)
    fresh = make_order(count, batch=batch, per_step=per_step, flip=True)
    for order in (arrived, fresh):
        order.set_step(step)
    for index in range(per_step):
        assert torch.equal(arrived.draw(index), fresh.draw(index))


def test_seeking_backwards_returns_to_the_same_batch() -> None:
    order = make_order(10, batch=4, flip=True)
    order.set_step(2)
    before = order.draw(0)
    order.set_step(30)
    order.draw(0)
    order.set_step(2)
    assert torch.equal(order.draw(0), before)


@given(count=st.integers(1, 40), epochs=st.integers(1, 4))
@settings(deadline=None, derandomize=True, max_examples=30)
def test_each_epoch_visits_every_image_once(count: int, epochs: int) -> None:
    # Batches of 3 straddle the ends of epochs; `count` such steps are three epochs.
    order = make_order(count, batch=3)
    seen = numbers_of_steps(order, range(count * epochs), per_step=1)
    for epoch in range(3 * epochs):
        assert sorted(seen[epoch * count : (epoch + 1) * count]) == list(range(count))


def test_epochs_have_different_orders() -> None:
    seen = numbers_of_steps(make_order(300, batch=300), range(2), per_step=1)
    assert seen[:300] != seen[300:]


def test_different_seeds_give_different_orders() -> None:
    orders = [numbers(make_order(300, batch=100, seed=seed).draw(0)) for seed in (0, 1)]
    assert orders[0] != orders[1]


def test_fewer_images_than_a_batch_are_repeated_evenly() -> None:
    seen = numbers(make_order(3, batch=12).draw(0))
    assert [seen.count(number) for number in range(3)] == [4, 4, 4]


def test_a_single_image_can_be_drawn_for_ever() -> None:
    order = make_order(1, batch=5, per_step=2)
    assert numbers_of_steps(order, range(3), per_step=2) == [0] * 30


def test_a_flip_only_mirrors_left_to_right() -> None:
    plain, flipped = (make_order(500, batch=400, flip=flip).draw(0) for flip in (False, True))
    mirrored = (flipped == plain.flip(3)).flatten(1).all(1)
    unchanged = (flipped == plain).flatten(1).all(1)
    assert bool((mirrored ^ unchanged).all())  # exactly one: no image here is its own mirror image


def test_about_half_of_the_samples_are_mirrored_anew_at_every_step() -> None:
    # Binomial(4000, 1/2) has a standard deviation of 32; the bounds are six of them. One image serves as all
    # samples, so that the decisions can be read off.
    order = make_order(1, batch=2000, per_step=2, flip=True)
    decisions = []
    for step in range(2):
        order.set_step(step)
        decisions.append(torch.cat([order.draw(index)[:, 0, 0, 0] == 1.0 for index in range(2)]))
    for mirrored in decisions:
        assert 2000 - 190 < int(mirrored.sum()) < 2000 + 190
    agreement = int((decisions[0] == decisions[1]).sum())
    assert 2000 - 190 < agreement < 2000 + 190


def test_batches_may_be_drawn_in_any_order_and_again() -> None:
    order = make_order(20, batch=4, per_step=3, flip=True)
    forwards = [order.draw(index) for index in (0, 1, 2)]
    backwards = [order.draw(index) for index in (2, 1, 0)][::-1]
    assert all(torch.equal(a, b) for a, b in zip(forwards, backwards, strict=True))


def test_the_global_generator_is_left_alone() -> None:
    before = torch.random.get_rng_state()
    order = make_order(10, batch=4, flip=True)
    order.set_step(7)
    order.draw(0)
    assert torch.equal(torch.random.get_rng_state(), before)


class RefuseReadback(TorchDispatchMode):
    """Raises on operations that make the host wait for a value of the device."""

    waiting = ("_local_scalar_dense", "nonzero", "is_nonzero", "item", "equal", "unique")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ in self.waiting or "_unique" in func.overloadpacket.__name__:
            raise AssertionError(f"the host waits for the device in {func}")
        return func(*args, **(kwargs or {}))


def test_the_readback_guard_notices_a_readback() -> None:
    with RefuseReadback(), pytest.raises(AssertionError, match="waits"):
        torch.ones(()).item()


def test_neither_seeking_nor_drawing_reads_a_value_back() -> None:
    order = make_order(10, batch=4, per_step=2, flip=True)
    with RefuseReadback():
        for step in range(6):
            order.set_step(step)
            order.draw(0)
            order.draw(1)


def test_seeking_keeps_every_buffer_where_a_captured_graph_reads_it() -> None:
    order = make_order(10, batch=4, per_step=2, flip=True)
    addresses = {name: value.data_ptr() for name, value in vars(order).items() if isinstance(value, Tensor)}
    order.set_step(9)
    assert len(addresses) == 5  # images, permutations, start, offsets, mirrorings
    for name, address in addresses.items():
        assert getattr(order, name).data_ptr() == address, name


def test_a_batch_is_float32_between_minus_one_and_one() -> None:
    batch = make_order(300, batch=100).draw(0)
    assert batch.dtype == torch.float32
    assert batch.shape == (100, 3, 2, 3)
    assert (batch.min().item(), batch.max().item()) == (-1.0, 1.0)


@pytest.mark.parametrize(
    "images",
    [torch.zeros(4, 3, 2, 2), torch.zeros(4, 12, dtype=torch.uint8), torch.zeros(0, 3, 2, 2, dtype=torch.uint8)],
    ids=["float", "flat", "empty"],
)
def test_what_is_not_a_stack_of_byte_images_is_refused(images: Tensor) -> None:
    with pytest.raises(DataError, match="uint8 tensor"):
        BatchOrder(images, batch_size=2, batches_per_step=1, flip=False, seed=0)


def test_to_uint8_inverts_to_unit_range_for_every_byte() -> None:
    every = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_uint8(to_unit_range(every)), every)


def test_the_ends_of_the_byte_range_are_exactly_minus_one_and_one() -> None:
    assert to_unit_range(torch.tensor([0, 255], dtype=torch.uint8)).tolist() == [-1.0, 1.0]


def test_to_uint8_is_the_floor_of_its_formula_clamped() -> None:
    x = torch.linspace(-1.5, 1.5, 4001, dtype=torch.float64).to(torch.float32)
    expected = torch.floor(x.to(torch.float64) * 127.5 + 128).clamp(0, 255)
    distance = (to_uint8(x).to(torch.float64) - expected).abs()
    # float32 may round a value that lies on the edge between two bytes to the other side.
    assert distance.max() <= 1
    assert (distance > 0).float().mean() < 0.001


def test_low_precision_images_are_converted_in_float32() -> None:
    images = torch.linspace(-1, 1, 501).to(torch.bfloat16)
    assert torch.equal(to_uint8(images), to_uint8(images.to(torch.float32)))
