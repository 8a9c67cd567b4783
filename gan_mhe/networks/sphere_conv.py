"""SphereConv (Liu et al. 2017, Deep Hyperspherical Learning): convolutions that depend only on angles."""

import math
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Operator = Literal["cosine", "linear", "sigmoid", "learnable"]

NORM_EPS = 1e-4  # added under both square roots, as in the authors' code
SMALLEST_LEARNABLE_K = 0.05  # as in the authors' code
_LARGEST_COSINE = 1 - 1e-6
_K_RANGE = (1e-6, 1e6)  # outside of it 1 / k or 1 / tanh(1 / k) overflows in float32


def angular(cosine: Tensor, operator: Operator, k: Tensor | float | None = None) -> Tensor:
    """g(θ) elementwise from cos θ. g decreases from 1 at θ = 0 through 0 at π/2 to -1 at π, and is odd about π/2.

    cosine: cos θ. linear: 1 - 2θ/π. sigmoid and learnable: tanh((π/2 - θ) / 2k) / tanh(π / 4k), which equals the
    exponential form of the paper; k > 0 is a number or a tensor that broadcasts with `cosine`. It approaches a step
    function as k -> 0 and linear as k -> infinity; k = 0.5 is closest to the cosine, within 0.0251.

    Computed in float32 or above. The cosine is clamped to +-(1 - 1e-6) before θ is computed, so that the gradient
    -1 / sin θ is finite even for cosines that exceed 1 by rounding. As a consequence, angles within 1.4e-3 rad of 0 or
    π have no gradient, and |g| stays below 1 by up to 9e-4 (linear; 5e-5 for the sigmoid at k = 0.3). The cosine
    operator is not clamped.

    Raises ValueError for an unknown operator, or for sigmoid and learnable without k.
    """
    _check_operator(operator, k)
    wide = cosine.to(torch.promote_types(cosine.dtype, torch.float32))
    if operator == "cosine":
        return wide
    # π/2 - θ. Unlike π/2 - acos, asin loses no digits near the right angle, where most patches are.
    elevation = wide.clamp(-_LARGEST_COSINE, _LARGEST_COSINE).asin()
    if operator == "linear" or k is None:
        return elevation * (2 / math.pi)
    quarter = math.pi / (4 * k)
    largest = quarter.tanh() if isinstance(quarter, Tensor) else math.tanh(quarter)
    return torch.tanh(elevation * (0.5 / k)) * (1 / largest)


class SphereConv2d(nn.Conv2d):
    """F(w, x) = g(θ(w, x)) + b for every filter w and zero-padded patch x: (B, C, H, W) -> (B, N, H', W').

    cos θ = w.x / (||w|| ||x||) with norms sqrt(||.||² + eps), so that a patch of zeros gives b for every g. Outputs
    are in [-1, 1] + b, and do not depend on the norms of filter and patch if these are far above sqrt(eps).

    conv: the convolution to replace; gives shape, stride, padding and the parameters.
    operator: the function g, see `angular`. k: for `sigmoid`, its constant k; for `learnable`, the initial k of every
        filter, trained as |raw_k| + 0.05.
    rescale: SphereNorm, (||w|| ||x||)^rho cos θ + b with a trained rho per filter that starts at 0. rho = 0 is the
        cosine SphereConv, and rho = 1 the ordinary convolution for every eps. This is our interpretation; the authors
        only state that a learnable rescaling can turn the layer into an ordinary convolution.
    eps: with 0, a filter or patch of zeros gives NaN.

    In autocast only the product has reduced precision, and the result has its dtype; norms and angles are computed in
    float32 or above. Cost compared to an ordinary convolution: a pooling of one channel and elementwise operations on
    the output, which keep one map of its size for the backward pass with the cosine and up to five with the other
    operators.

    Raises ValueError for an unknown operator, a k or eps out of range, rescale with another operator than cosine, and a
    convolution with groups, dilation, padding other than zeros, or padding of more than half the kernel.
    """

    padding: tuple[int, int]
    raw_k: nn.Parameter | None
    rho: nn.Parameter | None

    def __init__(
        self,
        conv: nn.Conv2d,
        *,
        operator: Operator,
        k: float | None = None,
        rescale: bool = False,
        eps: float = NORM_EPS,
    ) -> None:
        _check_operator(operator, k)
        _check_options(operator, k, rescale, eps)
        kernel, stride, padding = _plain_geometry(conv)
        super().__init__(conv.in_channels, conv.out_channels, kernel, stride, padding, device="meta")
        self.weight, self.bias = conv.weight, conv.bias
        self.operator: Operator = operator
        self.eps = eps
        self._k = k
        per_filter = (conv.out_channels, 1, 1)
        raw_k = None
        if operator == "learnable" and k is not None:
            raw_k = nn.Parameter(conv.weight.new_full(per_filter, k - SMALLEST_LEARNABLE_K))
        self.register_parameter("raw_k", raw_k)
        self.register_parameter("rho", nn.Parameter(conv.weight.new_zeros(per_filter)) if rescale else None)
        self.train(conv.training)

    @property
    def k(self) -> Tensor | float | None:
        """The k of `angular`: the given number, or (N, 1, 1) for the learnable operator."""
        return self._k if self.raw_k is None else self.raw_k.abs() + SMALLEST_LEARNABLE_K

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, N, H', W'), in the dtype of an ordinary convolution."""
        filter_squares_N111 = self.weight.square().sum((1, 2, 3), keepdim=True) + self.eps
        # Normalizing the filters is cheaper than normalizing the product, which is larger.
        unit_filters = self.weight * filter_squares_N111.rsqrt()
        product = F.conv2d(input, unit_filters, None, self.stride, self.padding)
        patch_squares_B1HW = self._patch_squares(input) + self.eps
        response = angular(product * patch_squares_B1HW.rsqrt(), self.operator, self.k)
        if self.rho is not None:
            log_norms = (filter_squares_N111.view(-1, 1, 1).log() + patch_squares_B1HW.log()) / 2
            response = response * torch.exp(self.rho * log_norms)
        if self.bias is not None:
            response = response + self.bias[:, None, None]
        return response.to(product.dtype)

    def _patch_squares(self, input: Tensor) -> Tensor:
        """||x||² of every patch, (B, 1, H', W'), in float32 or above.

        Autocast reduces the precision of none of these operations, and pooling, unlike a convolution with ones, never
        uses TensorFloat-32.
        """
        wide = input.to(torch.promote_types(input.dtype, torch.float32))
        squares_B1HW = wide.square().sum(1, keepdim=True)
        return F.avg_pool2d(squares_B1HW, self.kernel_size, self.stride, self.padding, divisor_override=1)


def _plain_geometry(conv: nn.Conv2d) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
    """Kernel, stride and padding of a convolution; ValueError for groups, dilation and unsupported padding."""
    if conv.groups != 1 or tuple(conv.dilation) != (1, 1):
        raise ValueError(f"conv: expected one group and dilation 1, got {conv.groups} and {conv.dilation}")
    (height, width), padding = conv.kernel_size, conv.padding
    if isinstance(padding, str) or conv.padding_mode != "zeros" or 2 * padding[0] > height or 2 * padding[1] > width:
        raise ValueError(
            f"conv: expected zero padding of at most half the kernel {conv.kernel_size}, "
            f"got {padding} with {conv.padding_mode}"
        )
    return (height, width), (conv.stride[0], conv.stride[1]), (padding[0], padding[1])


def _check_operator(operator: str, k: Tensor | float | None) -> None:
    if operator not in get_args(Operator):
        raise ValueError(f"operator: expected one of {get_args(Operator)}, got {operator!r}")
    if k is None and operator in ("sigmoid", "learnable"):
        raise ValueError(f"k: expected a number above 0 for {operator}, got None")


def _check_options(operator: Operator, k: float | None, rescale: bool, eps: float) -> None:
    smallest, largest = _K_RANGE
    if operator == "learnable":
        smallest = SMALLEST_LEARNABLE_K
    if k is not None and not smallest < k < largest:
        raise ValueError(f"k: expected a number between {smallest:g} and {largest:g} for {operator}, got {k}")
    if rescale and operator != "cosine":
        raise ValueError(f"rescale: expected the cosine operator, got {operator}")
    if not 0 <= eps < math.inf:
        raise ValueError(f"eps: expected a finite number >= 0, got {eps}")
