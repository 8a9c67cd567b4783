"""The Gram matrix W Wᵀ of a layer's neurons with a hand-written backward pass.

Norms, cosines and distances are functions of the Gram matrix, so that its product dominates the cost of energies and
diagnostics. An energy and its gradient take one product each: with G = W Wᵀ and S = dE/dG, dE/dW = (S + Sᵀ) W, where
autograd would multiply by S and by Sᵀ separately.
"""

import torch
from torch import Tensor

_BLOCK = 128  # rows; smaller blocks skip more of the symmetric half, but their products run less efficiently
_SAFE_COSINE = 0.97  # 0.25 rad: at larger angles d² from a float32 product has a relative error below 2e-5
_SAFE_SQUARES = (1e-30, 1e30)  # squared norms that float32 represents with full precision
_LARGEST_FORCE = 1e30  # larger entries of S + Sᵀ (duplicates, filters of norm 1e-8) would overflow the product


@torch.library.custom_op("gan_mhe::gram", mutates_args=())
def gram(weight_ND: Tensor) -> Tensor:
    """W Wᵀ, float64 (N, N), of a floating-point weight (N, D) or (C, N, N) of a stack (C, N, D); twice differentiable.

    The product is taken in float64, with one exception: on a CPU, where float64 takes twice the time, float32 weights
    (N, D) are multiplied in float32 if all rows are more than 0.25 rad apart from each other and from each other's
    opposites. Squared distances then have a relative error below 2e-5; closer pairs, where 2 - 2c cancels, always use
    float64. The check reads values back, which is free on a CPU and would synchronize on other devices.

    The gradient has the weight's dtype and is computed in that dtype, at least float32. Call it with autocast disabled.
    """
    if weight_ND.device.type != "cpu":
        wide_ND = weight_ND.double()
        return wide_ND @ wide_ND.mT
    if weight_ND.dtype == torch.float32 and weight_ND.ndim == 2:
        gram_NN = _symmetric_product(weight_ND)
        if _all_far_apart(gram_NN):
            return gram_NN.double()
    return _symmetric_product(weight_ND.double())


@gram.register_fake
def _(weight_ND: Tensor) -> Tensor:
    *stack, count, _ = weight_ND.shape
    return weight_ND.new_empty((*stack, count, count), dtype=torch.float64)


def _keep_weight(ctx: torch.autograd.function.FunctionCtx, inputs: tuple[Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: torch.autograd.function.FunctionCtx, gradient_NN: Tensor) -> Tensor:
    (weight_ND,) = ctx.saved_tensors  # type: ignore[attr-defined]
    computed_in = torch.promote_types(weight_ND.dtype, torch.float32)
    force_NN = (gradient_NN + gradient_NN.mT).clamp(-_LARGEST_FORCE, _LARGEST_FORCE).to(computed_in)
    gradient_ND: Tensor = force_NN @ weight_ND.to(computed_in)
    if weight_ND.dtype == torch.float16:  # the only dtype whose range the gradient can exceed
        return saturated(gradient_ND, torch.float16)
    return gradient_ND.to(weight_ND.dtype)


gram.register_autograd(_backward, setup_context=_keep_weight)


def saturated(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Convert to `dtype`; values beyond its range become its largest finite number."""
    limit = torch.finfo(dtype).max
    return values.clamp(-limit, limit).to(dtype)


def _symmetric_product(weight_ND: Tensor) -> Tensor:
    """W Wᵀ from its lower block triangle: five eighths of the arithmetic at 512 rows."""
    count = weight_ND.shape[-2]
    if count <= _BLOCK or weight_ND.ndim > 2:  # a stack takes one batched product
        return weight_ND @ weight_ND.mT
    lower_NN = weight_ND.new_empty(count, count)
    for first in range(0, count, _BLOCK):
        end = min(first + _BLOCK, count)
        torch.mm(weight_ND[first:end], weight_ND[:end].T, out=lower_NN[first:end, :end])
    return lower_NN.tril() + lower_NN.tril(-1).T


def _all_far_apart(gram_NN: Tensor) -> bool:
    """Whether every |cosine| is below `_SAFE_COSINE`; False for norms out of range and for non-finite values."""
    squares_N = gram_NN.diagonal()
    low, high = _SAFE_SQUARES
    cosine_NN = gram_NN * torch.outer(squares_N.rsqrt(), squares_N.rsqrt())
    closest = cosine_NN.fill_diagonal_(0.0).abs().amax()
    return bool((closest < _SAFE_COSINE) & (squares_N.amin() > low) & (squares_N.amax() < high))
