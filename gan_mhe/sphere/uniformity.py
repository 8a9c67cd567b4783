"""Hyperspherical uniformity (Liu et al. 2021, arXiv 2103.01649): MHS, MHP, MHC, MGD and R-MHP, each to be minimized.

The definitions follow the authors' code (wy1iu/Sphere-Uniformity); the text of the paper was not available. Omitted
from that code: 1e-4 under every norm, the factor of each layer, and the weight decay 5e-4 on the poles.

Common to all measures: weight is floating-point, (N, D), rows are neurons, u_i = w_i / ||w_i||. Arithmetic is float64,
independent of autocast; the scalar result is float64 for float64 weights, else float32. half_space uses the 2N vectors
w and -w. A row with ||w|| <= 1e-12 counts as orthogonal to all others and gets gradient 0. A weight of another shape or
dtype raises ValueError.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from gan_mhe.sphere.energy import check_weight, distance_floor, narrow, pair_energies
from gan_mhe.sphere.geometry import directions, inverse_norms, squared_distances
from gan_mhe.sphere.precision import without_autocast

_SELF = 4.0  # squared distance of the pair (w, -w), the largest possible


def separation(weight: Tensor, *, half_space: bool = False) -> Tensor:
    """MHS: -min_{i<j} ||u_i - u_j||², in half space the minimum over u_i and ±u_j; in [-4, 0].

    Only the closest pair receives a gradient. Tied pairs share it equally; the authors' code adds their gradients up.
    Exact duplicates have no direction to separate in and get gradient 0. A single neuron gives exactly 0 with
    gradient 0.
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
    """MHP: -mean_i 1 / ||v / ||v|| - u_i||², at most -1/4; `polarization_step` trains the pole v (D,) to raise it.

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
    """(pole, momentum) after `steps` steps of momentum SGD on the pole v that minimize mean_i 1 / ||v / ||v|| - u_i||².

    Update rule of torch.optim.SGD: b <- momentum b + g, v <- v - lr b, with b = 0 initially. The authors take 10 steps
    per network update with momentum 0.9, the learning rate of the network, and v ~ N(0, I) initially. Several steps in
    one call normalize the rows once. The pole's gradient is computed in closed form and autograd is off, so that the
    step can be compiled or captured; nothing is read back or modified in place. The results have the dtypes of
    `pole_D` and `momentum_D`.
    """

    def slopes(squared_M: Tensor) -> Tensor:
        return squared_M.clamp(min=distance_floor(2.0) ** 2).square().reciprocal() / -len(squared_M)

    return _pole_steps(weight, pole_D, momentum_D, slopes, lr, momentum, steps, half_space)


def covering(weight: Tensor, pole_D: Tensor, *, gamma: float = 10.0, half_space: bool = False) -> Tensor:
    """MHC: -(1/gamma) log mean_i exp(-gamma ||v / ||v|| - u_i||²), a soft minimum of the squared distances from v (D,).

    It lies between min_i and min_i + (log N) / gamma of these distances; `covering_step` trains the pole v to raise it.
    A pole of length 0 is treated as in `polarization`. Raises ValueError unless gamma is finite and > 0.
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
    """Same as `polarization_step`, but v maximizes `covering` (torch.optim.SGD's rule with maximize=True)."""
    _check_positive(gamma=gamma)

    def slopes(squared_M: Tensor) -> Tensor:
        return -(-gamma * squared_M).softmax(0)

    return _pole_steps(weight, pole_D, momentum_D, slopes, lr, momentum, steps, half_space)


def gram_determinant(weight: Tensor, *, half_space: bool = False, epsilon: float = 1e-6) -> Tensor:
    """MGD: -log det(K + epsilon I) with K_ij = exp(-||u_i - u_j||²); at least -n log(1 + epsilon) for n vectors.

    Takes one Cholesky factorization of an (N, N) matrix, O(N³). Half space takes two, of K₊ + K₋ and K₊ - K₋, because
    the (2N, 2N) matrix [[K₊, K₋], [K₋, K₊]] is block diagonalized by them. epsilon > 0 keeps the value finite for
    duplicates; with epsilon = 0 duplicates give a non-finite value instead of an error, since detecting them would need
    a synchronization. A single neuron gives exactly 0 with gradient 0. Raises ValueError for a negative or non-finite
    epsilon.
    """
    check_weight(weight)
    if not (math.isfinite(epsilon) and epsilon >= 0):
        raise ValueError(f"epsilon: expected a finite number >= 0, got {epsilon}")
    if len(weight) == 1:
        return _no_pair(weight)
    with without_autocast(weight):
        # Convert before the product: K can be singular to 1e-6, and a float32 product would make it indefinite.
        squared_NN = squared_distances(weight.double())
        diagonal_NN = _diagonal(squared_NN)
        kernel_NN = (-squared_NN).exp().masked_fill(diagonal_NN, 1 + epsilon)
        if not half_space:
            return narrow(-_log_determinant(kernel_NN), weight)
        mirrored_NN = (squared_NN - 4).exp().masked_fill(diagonal_NN, math.exp(-_SELF))
        both = _log_determinant(kernel_NN + mirrored_NN) + _log_determinant(kernel_NN - mirrored_NN)
        return narrow(-both, weight)


def relaxed_polarization(weight: Tensor) -> Tensor:
    """R-MHP: ||Σ_i w_i|| of the raw weights, neither normalized nor mirrored; >= 0, with gradient 0 at 0.

    For unit vectors its square is N² - Σ_{i<j} d_ij². Any set with mean 0 is a minimum, with or without duplicates, and
    so is W = 0.
    """
    check_weight(weight)
    with without_autocast(weight):
        return narrow(torch.linalg.vector_norm(weight.double().sum(0)), weight)


def _squares(cosine_N: Tensor, half_space: bool) -> Tensor:
    """Squared distances from the pole to the M = N rows, or in half space to the M = 2N vectors of both signs."""
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
    """Momentum SGD on a function of the squared distances from the pole; `slopes` maps distances to its derivatives."""
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
            force_D = unit_ND.T @ slope_N
            gradient_D = -2 * inverse_norm * (force_D - (force_D @ axis_D) * axis_D)
            buffer = momentum * buffer + gradient_D
            pole = pole - lr * buffer
        return pole.to(pole_D.dtype), buffer.to(momentum_D.dtype)


def _log_determinant(matrix_NN: Tensor) -> Tensor:
    factor_NN: Tensor = torch.linalg.cholesky_ex(matrix_NN, check_errors=False).L
    return 2 * factor_NN.diagonal().log().sum()


def _diagonal(matrix_NN: Tensor) -> Tensor:
    return torch.eye(len(matrix_NN), dtype=torch.bool, device=matrix_NN.device)


def _no_pair(weight: Tensor) -> Tensor:
    """A 0 that depends on the weight, so that it has gradient 0."""
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
