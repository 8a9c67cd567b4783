"""Hyperspherical uniformity (Liu et al. 2021, arXiv 2103.01649): MHS, MHP, MHC, MGD and R-MHP, each to be minimised.

The paper's text was not at hand; the authors' code (wy1iu/Sphere-Uniformity) was, and is the authority here. Of it,
these are left out: 1e-4 under every norm, the factor of each layer, and the weight decay 5e-4 on the poles.

Common to all: weight is floating, (N, D), rows are neurons, u_i = w_i / ||w_i||. Computed in float64 whatever autocast
says; the scalar is float64 for float64 weights, else float32. half_space takes the 2N vectors w and -w. A row with
||w|| <= 1e-12 counts as orthogonal to everything and gets gradient 0. ValueError for a weight of another kind.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from gan_mhe.sphere.energy import check_weight, distance_floor, narrow, pair_energies
from gan_mhe.sphere.geometry import directions, inverse_norms, squared_distances
from gan_mhe.sphere.precision import without_autocast

_SELF = 4.0  # squared distance of the pair (w, -w), the largest there is


def separation(weight: Tensor, *, half_space: bool = False) -> Tensor:
    """MHS: -min_{i<j} ||u_i - u_j||², in half space the minimum over u_i and ±u_j; in [-4, 0].

    The gradient reaches the closest pair only; pairs that tie share it equally, where the authors' code adds them up.
    Exact duplicates have no direction to part in and get none. One neuron has no pair: exactly 0 with gradient 0.
    """
    check_weight(weight)
    if len(weight) == 1:
        return _no_pair(weight)
    with without_autocast(weight):
        squared_NN = squared_distances(weight)
        if half_space:
            squared_NN = torch.minimum(squared_NN, 4 - squared_NN)
        return narrow(-squared_NN.masked_fill(_diagonal(squared_NN), _SELF).amin(), weight)


def polarization(weight: Tensor, pole_D: Tensor, *, half_space: bool = False) -> Tensor:
    """MHP: -mean_i 1 / ||v / ||v|| - u_i||² for the pole v (D,), which `polarization_step` trains against it; <= -1/4.

    Below a distance of 1e-5 the kernel continues on its tangent in d², as in `hyperspherical_energy` at s = 2.
    A pole with ||v|| <= 1e-12 has no direction and counts as orthogonal to all rows.
    """
    _check_pole(weight, pole_D=pole_D)
    with without_autocast(weight):
        squared_M = _squares(directions(weight) @ directions(pole_D), half_space)
        return narrow(-pair_energies(squared_M, 2.0, "euclidean").mean(), weight)


def polarization_step(
    weight: Tensor,
    pole_D: Tensor,
    momentum_D: Tensor,
    *,
    lr: float,
    momentum: float,
    steps: int = 1,
    half_space: bool = False,
) -> tuple[Tensor, Tensor]:
    """(pole, momentum) after `steps` steps of momentum SGD on the pole v, minimising mean_i 1 / ||v / ||v|| - u_i||².

    torch.optim.SGD's rule: b <- momentum b + g, v <- v - lr b; b starts at 0. The authors take 10 steps per update of
    the network, momentum 0.9, the network's rate, and v ~ N(0, I) at first; several steps in one call normalise the
    rows once. Without gradient, with the gradient in closed form, so that it can be compiled or captured; nothing is
    read back and nothing changed in place. The results have the dtypes of pole and momentum.
    """

    def slopes(squared_M: Tensor) -> Tensor:
        return squared_M.clamp(min=distance_floor(2.0) ** 2).square().reciprocal() / -len(squared_M)

    return _pole_steps(weight, pole_D, momentum_D, slopes, lr, momentum, steps, half_space)


def covering(weight: Tensor, pole_D: Tensor, *, gamma: float = 10.0, half_space: bool = False) -> Tensor:
    """MHC: -(1/gamma) log mean_i exp(-gamma ||v / ||v|| - u_i||²), a soft minimum; `covering_step` raises it over v.

    gamma > 0; it lies between min_i and min_i + (log N) / gamma of the squared distances from the pole v (D,). Pole of
    length 0 as in `polarization`. Raises ValueError for another gamma too.
    """
    _check_pole(weight, pole_D=pole_D)
    _check_positive(gamma=gamma)
    with without_autocast(weight):
        squared_M = _squares(directions(weight) @ directions(pole_D), half_space)
        return narrow((math.log(len(squared_M)) - (-gamma * squared_M).logsumexp(0)) / gamma, weight)


def covering_step(
    weight: Tensor,
    pole_D: Tensor,
    momentum_D: Tensor,
    *,
    lr: float,
    momentum: float,
    gamma: float = 10.0,
    steps: int = 1,
    half_space: bool = False,
) -> tuple[Tensor, Tensor]:
    """As `polarization_step`, but the pole maximises `covering` (torch.optim.SGD's rule with maximize=True)."""
    _check_positive(gamma=gamma)

    def slopes(squared_M: Tensor) -> Tensor:
        return -(-gamma * squared_M).softmax(0)

    return _pole_steps(weight, pole_D, momentum_D, slopes, lr, momentum, steps, half_space)


def gram_determinant(weight: Tensor, *, half_space: bool = False, epsilon: float = 1e-6) -> Tensor:
    """MGD: -log det(K + epsilon I) for K_ij = exp(-||u_i - u_j||²); at least -n log(1 + epsilon) for n vectors.

    One Cholesky factor of (N, N), O(N³); half space takes two, of K₊ + K₋ and K₊ - K₋, into which the (2N, 2N) matrix
    [[K₊, K₋], [K₋, K₊]] falls apart. epsilon keeps duplicates finite; with epsilon = 0 they give a value that is not,
    rather than an error, which would have to be read back. One neuron has no pair: exactly 0 with gradient 0.
    Raises ValueError for a negative epsilon too.
    """
    check_weight(weight)
    if not (math.isfinite(epsilon) and epsilon >= 0):
        raise ValueError(f"epsilon: expected a finite number >= 0, got {epsilon}")
    if len(weight) == 1:
        return _no_pair(weight)
    with without_autocast(weight):
        # Float64 before the product: K may be singular to 1e-6, and a float32 product would make it indefinite.
        squared_NN = squared_distances(weight.double())
        diagonal_NN = _diagonal(squared_NN)
        kernel_NN = (-squared_NN).exp().masked_fill(diagonal_NN, 1 + epsilon)
        if not half_space:
            return narrow(-_log_determinant(kernel_NN), weight)
        mirrored_NN = (squared_NN - 4).exp().masked_fill(diagonal_NN, math.exp(-_SELF))
        both = _log_determinant(kernel_NN + mirrored_NN) + _log_determinant(kernel_NN - mirrored_NN)
        return narrow(-both, weight)


def relaxed_polarization(weight: Tensor) -> Tensor:
    """R-MHP: ||Σ_i w_i||, of the weights as they are: neither normalised nor mirrored; >= 0, gradient 0 at 0.

    Of unit vectors its square is N² - Σ_{i<j} d_ij². Any centred set is a minimum, duplicates or not, and so is W = 0.
    """
    check_weight(weight)
    with without_autocast(weight):
        return narrow(torch.linalg.vector_norm(weight.double().sum(0)), weight)


def _squares(cosine_N: Tensor, half_space: bool) -> Tensor:
    """Squared distances from the pole to the M = N rows, or to the M = 2N of both signs."""
    squared_N = 2 - 2 * cosine_N
    return torch.cat([squared_N, 4 - squared_N]) if half_space else squared_N


@torch.no_grad()
def _pole_steps(
    weight: Tensor,
    pole_D: Tensor,
    momentum_D: Tensor,
    slopes: Callable[[Tensor], Tensor],
    lr: float,
    momentum: float,
    steps: int,
    half_space: bool,
) -> tuple[Tensor, Tensor]:
    """Momentum SGD on a function of the squared distances from the pole, given its derivatives by them."""
    _check_pole(weight, pole_D=pole_D, momentum_D=momentum_D)
    _check_positive(lr=lr)
    if not 0 <= momentum < 1:
        raise ValueError(f"momentum: expected a number in [0, 1), got {momentum}")
    if steps < 1:
        raise ValueError(f"steps: expected a number >= 1, got {steps}")
    with without_autocast(weight):
        unit_ND, pole, buffer = directions(weight), pole_D.double(), momentum_D.double()
        for _ in range(steps):
            inverse_norm = inverse_norms(pole.square().sum())
            axis_D = pole * inverse_norm
            slope_M = slopes(_squares(unit_ND @ axis_D, half_space))
            slope_N = slope_M[: len(weight)] - slope_M[len(weight) :] if half_space else slope_M
            pull_D = unit_ND.T @ slope_N
            gradient_D = -2 * inverse_norm * (pull_D - (pull_D @ axis_D) * axis_D)
            buffer = momentum * buffer + gradient_D
            pole = pole - lr * buffer
        return pole.to(pole_D.dtype), buffer.to(momentum_D.dtype)


def _log_determinant(matrix_NN: Tensor) -> Tensor:
    factor_NN: Tensor = torch.linalg.cholesky_ex(matrix_NN, check_errors=False).L
    return 2 * factor_NN.diagonal().log().sum()


def _diagonal(matrix_NN: Tensor) -> Tensor:
    return torch.eye(len(matrix_NN), dtype=torch.bool, device=matrix_NN.device)


def _no_pair(weight: Tensor) -> Tensor:
    """0 that depends on the weight, with gradient 0."""
    return narrow((0 * weight.double()).sum(), weight)


def _check_pole(weight: Tensor, **vectors: Tensor) -> None:
    check_weight(weight)
    for name, vector in vectors.items():
        if vector.shape != weight.shape[1:] or not vector.is_floating_point():
            raise ValueError(
                f"{name}: expected a floating-point tensor of shape {tuple(weight.shape[1:])}, "
                f"got {vector.dtype} of shape {tuple(vector.shape)}"
            )


def _check_positive(**numbers: float) -> None:
    for name, number in numbers.items():
        if not (math.isfinite(number) and number > 0):
            raise ValueError(f"{name}: expected a finite number > 0, got {number}")
