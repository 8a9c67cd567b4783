"""The Gram product and its hand-written backward, against autograd through a plain matrix product."""

import math

import torch

from gan_mhe.sphere.gram import gram
from tests.support.looped import looped

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def gaussian(count: int, dim: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


def cotangent(count: int) -> torch.Tensor:
    """Deliberately not symmetric."""
    return torch.randn(count, count, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@looped("count", [1, 2, 127, 128, 129, 300])
def test_blocks_of_the_symmetric_product_add_up_to_the_whole(count: int) -> None:
    weight = gaussian(count, 9)
    torch.testing.assert_close(gram(weight), weight @ weight.T, rtol=1e-14, atol=1e-14)


@looped("dtype", DTYPES)
def test_stack_is_multiplied_and_differentiated_matrix_by_matrix(dtype: torch.dtype) -> None:
    stack = torch.stack([gaussian(130, 5, dtype), 2 * gaussian(130, 5, dtype).flip(0)]).requires_grad_()
    forces = torch.stack([cotangent(130), cotangent(130).T.flip(1)])
    torch.testing.assert_close(gram(stack), stack.double() @ stack.double().mT, rtol=1e-14, atol=1e-14)
    (together,) = torch.autograd.grad(gram(stack), stack, forces)
    alone = [torch.autograd.grad(gram(each), each, force)[0] for each, force in zip(stack, forces, strict=True)]
    tolerance = 4 * torch.finfo(dtype).eps * together.abs().max().item()
    torch.testing.assert_close(together, torch.stack(alone), rtol=0, atol=tolerance)


def test_product_is_exactly_symmetric() -> None:
    product = gram(gaussian(300, 40, torch.float32))
    assert torch.equal(product, product.T)


@looped("dtype", DTYPES)
def test_backward_equals_autograd_through_the_plain_product(dtype: torch.dtype) -> None:
    weight = gaussian(7, 5, dtype).requires_grad_()
    wide = weight.detach().double().requires_grad_()
    (actual,) = torch.autograd.grad(gram(weight), weight, cotangent(7))
    (expected,) = torch.autograd.grad(wide @ wide.T, wide, cotangent(7))
    assert actual.dtype == dtype
    tolerance = 4 * torch.finfo(dtype).eps * expected.abs().max().item()
    torch.testing.assert_close(actual.double(), expected, rtol=0, atol=tolerance)


def test_first_and_second_derivatives_equal_finite_differences() -> None:
    weight = gaussian(4, 3).requires_grad_()
    assert torch.autograd.gradcheck(gram, (weight,))
    assert torch.autograd.gradgradcheck(gram, (weight,))
    stack = gaussian(6, 3).view(2, 3, 3).requires_grad_()
    assert torch.autograd.gradcheck(gram, (stack,))
    assert torch.autograd.gradgradcheck(gram, (stack,))


@looped("dtype", DTYPES)
def test_product_is_float64_for_every_dtype(dtype: torch.dtype) -> None:
    assert gram(gaussian(3, 4, dtype)).dtype == torch.float64


def test_float32_rows_far_apart_are_multiplied_in_float32() -> None:
    weight = gaussian(8, 4000, torch.float32)
    error = (gram(weight) - weight.double() @ weight.double().T).abs().max()
    assert 0 < error < 1e-2 * 4000**0.5


@looped("spoil", [
    lambda w: w[1].copy_(w[0] + 0.2 * w[1]), lambda w: w[1].copy_(-w[0] + 0.2 * w[1]), lambda w: w[3].zero_(),
    lambda w: w[3].mul_(1e-17), lambda w: w[3].mul_(1e17),
])  # fmt: skip
def test_float32_rows_that_need_float64_are_multiplied_in_float64(spoil) -> None:
    weight = gaussian(8, 4000, torch.float32)
    spoil(weight)
    torch.testing.assert_close(gram(weight), weight.double() @ weight.double().T, rtol=1e-13, atol=1e-10)


@looped("bad", [math.nan, math.inf])
def test_values_that_are_not_finite_stay_visible(bad: float) -> None:
    weight = gaussian(3, 4, torch.float32)
    weight[1, 2] = bad
    assert not gram(weight)[1].isfinite().any()


def test_gradient_saturates_at_the_largest_number_of_the_weights_dtype() -> None:
    weight = gaussian(3, 4, torch.float16).requires_grad_()
    (gradient,) = torch.autograd.grad(gram(weight), weight, torch.full((3, 3), 1e9, dtype=torch.float64))
    assert gradient.isfinite().all() and gradient.abs().max() == torch.finfo(torch.float16).max


def test_shape_is_known_without_arithmetic() -> None:
    product = gram(torch.empty(6, 9, device="meta"))
    assert product.shape == (6, 6) and product.dtype == torch.float64 and product.device.type == "meta"
    assert gram(torch.empty(4, 6, 9, device="meta")).shape == (4, 6, 6)
