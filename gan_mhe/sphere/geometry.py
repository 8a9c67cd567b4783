"""Directions of neurons on the unit sphere: unit rows, pairwise squared distances, angles, unordered pairs.

Letters: N neurons, D fan-in. A matrix over pairs is (N, N); a pair is counted once, above the diagonal.
"""

import torch
from torch import Tensor

SMALLEST_NORM = 1e-12  # below it a row has no direction; its gradient, growing as 1/||w||, would be all that is left
_SMALLEST_SQUARE = 1e-30  # keeps the square root of a rounded-off 0 differentiable; 1e-15 rad, below all rounding


def unit_rows(weight_ND: Tensor) -> Tensor:
    """u_i = w_i / ||w_i|| in the dtype that came, shape (N, D).

    A row with ||w|| <= 1e-12 becomes 0 and gets gradient 0: it then stands at squared distance 2 from every other
    row, as if orthogonal to all, and exerts no force.
    """
    square_N1 = weight_ND.square().sum(dim=1, keepdim=True)
    no_direction = square_N1 <= SMALLEST_NORM**2
    inverse_N1 = square_N1.masked_fill(no_direction, 1.0).rsqrt()  # 1 first: rsqrt(0) would give NaN = 0 * inf
    return weight_ND * inverse_N1.masked_fill(no_direction, 0.0)


def squared_distances(unit_ND: Tensor) -> Tensor:
    """||u_i - u_j||² = 2 - 2 u_i.u_j, shape (N, N), with a constant 1 on the diagonal.

    The 1 comes before any logarithm or power is taken, so that the diagonal has no gradient to spoil. One Gram
    product: the absolute rounding error is a few units of the dtype, so 2 - 2c needs float64. From float32 weights
    cast to float64 the relative error of d² is then below 1e-12, 1e-10 and 1e-8 at 0.1, 0.01 and 0.001 rad
    (a float32 Gram matrix leaves 2e-5, 2e-3 and 0.2 there, and negative values below). ||u_i + u_j||² is 4 - d².
    """
    diagonal = torch.eye(len(unit_ND), dtype=torch.bool, device=unit_ND.device)
    return (2 - 2 * (unit_ND @ unit_ND.T)).masked_fill(diagonal, 1.0)


def angles(squared_distance: Tensor) -> Tensor:
    """θ = 2 atan2(||u - v||, ||u + v||) in radians, [0, π], elementwise from d² = ||u - v||².

    Exact to rounding at both ends, where acos loses half the digits and its gradient is infinite. The gradient is
    finite for every d², the ones that rounding has pushed outside [0, 4] included.
    """
    chord = squared_distance.clamp(min=_SMALLEST_SQUARE).sqrt()
    opposite_chord = (4 - squared_distance).clamp(min=_SMALLEST_SQUARE).sqrt()
    return 2 * torch.atan2(chord, opposite_chord)


def sum_over_pairs(values_NN: Tensor) -> Tensor:
    """Sum over i < j of a symmetric matrix, a scalar; 0 for one neuron. The entries on the diagonal must be finite:
    they get gradient 0, and 0 times an infinite derivative is NaN."""
    return values_NN.triu(diagonal=1).sum()


def pair_count(count: int) -> int:
    """Number of unordered pairs of `count` vectors."""
    return count * (count - 1) // 2


@torch.no_grad()
def smallest_angle(weight_ND: Tensor) -> Tensor:
    """Smallest angle between two rows, in radians: a scalar without gradient.

    Computed in float64 and resolved to about 2e-8 rad; float64 for float64 weights, else float32. One neuron has
    no pair: π, the largest angle there is. A row of zeros counts as orthogonal to all others.
    """
    squared_NN = squared_distances(unit_rows(weight_ND.double()))
    closest = squared_NN.fill_diagonal_(4.0).amin()
    angle = angles(closest)
    return angle if weight_ND.dtype == torch.float64 else angle.float()
