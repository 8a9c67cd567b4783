"""Directions of neurons on the unit sphere: cosines, squared distances, angles, unordered pairs.

Letters: N neurons, D fan-in. A matrix over pairs is (N, N); a pair is counted once, above the diagonal.
"""

import torch
from torch import Tensor

from gan_mhe.sphere.gram import gram

SMALLEST_NORM = 1e-12  # below it a row has no direction; its gradient, growing as 1/||w||, would be all that is left
_SMALLEST_SQUARE = 1e-30  # keeps the square root of a rounded-off 0 differentiable; 1e-15 rad, below all rounding


def cosines(weight_ND: Tensor, norm_eps: float = 0.0) -> Tensor:
    """w_i.w_j / sqrt((||w_i||² + eps)(||w_j||² + eps)), float64 (N, N), from one Gram product.

    At eps = 0 a row with ||w|| <= 1e-12 has cosine 0 with every other, as if orthogonal to all, and gets gradient 0.
    With eps > 0 a row's cosine with itself is below 1. Precision as of `gram`.
    """
    gram_NN: Tensor = gram(weight_ND)
    square_N = gram_NN.diagonal()
    no_direction = square_N + norm_eps <= SMALLEST_NORM**2
    # 1 first: rsqrt(0) would give NaN = 0 * inf on the way back.
    inverse_N = (square_N + norm_eps).masked_fill(no_direction, 1.0).rsqrt().masked_fill(no_direction, 0.0)
    return gram_NN * inverse_N[:, None] * inverse_N


def chords(cosine_NN: Tensor) -> Tensor:
    """||u_i - u_j||² = 2 - 2 u_i.u_j, shape (N, N), with a constant 1 on the diagonal.

    The 1 comes before any logarithm or power is taken, so that the diagonal has no gradient to spoil.
    ||u_i + u_j||² is 4 - d².
    """
    diagonal = torch.eye(len(cosine_NN), dtype=torch.bool, device=cosine_NN.device)
    return (2 - 2 * cosine_NN).masked_fill(diagonal, 1.0)


def squared_distances(weight_ND: Tensor) -> Tensor:
    """Squared chords between the directions of the rows of weight (N, D), float64, 1 on the diagonal.

    2 - 2c cancels for near pairs, so those need float64 products. From float32 weights the relative error of d² is
    then below 1e-12, 1e-10 and 1e-8 at 0.1, 0.01 and 0.001 rad (a float32 Gram matrix leaves 2e-5, 2e-3 and 0.2
    there, and negative values below), and below 2e-5 where `gram` may multiply in float32.
    """
    return chords(cosines(weight_ND))


def angles(squared_distance: Tensor) -> Tensor:
    """θ = 2 atan2(||u - v||, ||u + v||) in radians, [0, π], elementwise from d² = ||u - v||².

    Exact to rounding at both ends, where acos loses half the digits and its gradient is infinite. The gradient is
    finite for every d², the ones that rounding has pushed outside [0, 4] included.
    """
    chord = squared_distance.clamp(min=_SMALLEST_SQUARE).sqrt()
    opposite_chord = (4 - squared_distance).clamp(min=_SMALLEST_SQUARE).sqrt()
    return 2 * torch.atan2(chord, opposite_chord)


def sum_over_pairs(values_NN: Tensor) -> Tensor:
    """Sum over i < j of a symmetric matrix, a scalar; 0 for one neuron. The entries on the diagonal must be finite."""
    return (values_NN.sum() - values_NN.diagonal().sum()) / 2


def pair_count(count: int) -> int:
    """Number of unordered pairs of `count` vectors."""
    return count * (count - 1) // 2


@torch.no_grad()
def smallest_angle(weight_ND: Tensor) -> Tensor:
    """Smallest angle between two rows, in radians: a scalar without gradient.

    Computed in float64 and resolved to about 2e-8 rad; float64 for float64 weights, else float32. One neuron has
    no pair: π, the largest angle there is. A row of zeros counts as orthogonal to all others.
    """
    squared_NN = squared_distances(weight_ND)
    closest = squared_NN.fill_diagonal_(4.0).amin()
    angle = angles(closest)
    return angle if weight_ND.dtype == torch.float64 else angle.float()
