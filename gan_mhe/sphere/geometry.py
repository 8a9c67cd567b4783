"""Directions of neurons on the unit sphere: cosines, squared distances, angles, unordered pairs.

Shape letters: N neurons, D fan-in, C weights of one shape given as a stack (C, N, D). Matrices over pairs are (N, N),
and every unordered pair is counted once. Functions for several layers work on one vector that holds the flattened
matrices of all layers and stacks, concatenated.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from gan_mhe.sphere.gram import gram

SMALLEST_NORM = 1e-12  # up to it a row has no direction: its gradient grows as 1/||w|| and would dominate all others
_SMALLEST_SQUARE = 1e-30  # keeps the square root differentiable where d² rounds to 0; 1e-15 rad, below rounding error


def cosines(weights: Sequence[Tensor], norm_eps: float = 0.0) -> Tensor:
    """w_i.w_j / sqrt((||w_i||² + eps)(||w_j||² + eps)) of each weight (N, D) or stack (C, N, D), float64.

    Returns the flattened matrices of all weights in one vector of Σ N² (or Σ C N²) elements, so that later operations
    run once for all layers. Takes one Gram product per weight, with the precision of `gram`. At eps = 0 a row with
    ||w|| <= 1e-12 has cosine 0 with every other row and gets gradient 0. With eps > 0 the cosine of a row with itself
    is below 1.
    """
    grams = [gram(weight_ND) for weight_ND in weights]
    square_N = torch.cat([gram_NN.diagonal(dim1=-2, dim2=-1).flatten() for gram_NN in grams])
    inverse_N = inverse_norms(square_N + norm_eps)
    shapes = [weight_ND.shape[:-1] for weight_ND in weights]
    parts = _parts(inverse_N, [shape.numel() for shape in shapes])
    inverses = [part_N.view(shape) for part_N, shape in zip(parts, shapes, strict=True)]
    scales = [(each_N.unsqueeze(-1) * each_N.unsqueeze(-2)).flatten() for each_N in inverses]
    return torch.cat([gram_NN.flatten() for gram_NN in grams]) * torch.cat(scales)


def inverse_norms(square_N: Tensor) -> Tensor:
    """1 / ||w|| from ||w||², elementwise; 0 with gradient 0 where ||w|| <= 1e-12, so that the row has no direction."""
    no_direction = square_N <= SMALLEST_NORM**2
    # Replaced by 1 before rsqrt: rsqrt(0) = inf would make the backward pass compute 0 * inf = NaN.
    return square_N.masked_fill(no_direction, 1.0).rsqrt().masked_fill(no_direction, 0.0)


def directions(vectors: Tensor) -> Tensor:
    """Unit vectors along the last axis, float64; a vector with norm <= 1e-12 becomes zeros."""
    wide = vectors.double()
    return wide * inverse_norms(wide.square().sum(-1, keepdim=True))


def chords(cosine: Tensor, counts: Sequence[int], copies: Sequence[int] | None = None) -> Tensor:
    """Squared chords ||u_i - u_j||² = 2 - 2 u_i.u_j from `cosines`, with a constant 1 on the diagonals.

    counts: N of each weight; copies: C of each stack, 1 if not given. ||u_i + u_j||² is 4 - d².

    The diagonal is replaced before any logarithm or power is taken, so that it contributes no gradient (and no NaN).
    """
    return (2 - 2 * cosine).masked_fill(_diagonals(counts, cosine.device, copies), 1.0)


def squared_distances(weight_ND: Tensor) -> Tensor:
    """Squared chords between the directions of the rows of weight (N, D), float64 (N, N), 1 on the diagonal.

    2 - 2c cancels for close pairs, so these need products in float64. For float32 weights the relative error of d² is
    then below 1e-12, 1e-10 and 1e-8 at 0.1, 0.01 and 0.001 rad (from a float32 Gram matrix it would be 2e-5, 2e-3 and
    0.2, with negative values at smaller angles), and below 2e-5 where `gram` multiplies in float32.
    """
    count = len(weight_ND)
    return chords(cosines([weight_ND]), [count]).view(count, count)


def angles(squared_distance: Tensor) -> Tensor:
    """θ = 2 atan2(||u - v||, ||u + v||) in radians, [0, π], elementwise from d² = ||u - v||².

    Accurate to rounding at both ends, where acos loses half the digits and has an infinite gradient. The gradient is
    finite for every d², including values that rounding moved outside [0, 4].
    """
    chord = squared_distance.clamp(min=_SMALLEST_SQUARE).sqrt()
    opposite_chord = (4 - squared_distance).clamp(min=_SMALLEST_SQUARE).sqrt()
    return 2 * torch.atan2(chord, opposite_chord)


def pair_sums(values: Tensor, counts: Sequence[int], copies: Sequence[int] | None = None) -> list[Tensor]:
    """Sum over i < j of each layer's symmetric (N, N) matrices, over all C of a stack; one scalar per layer.

    values: the flattened matrices of all layers, concatenated as by `cosines`. A single neuron gives 0. Diagonal
    entries must be finite: their gradient is 0, and 0 * inf is NaN.
    """
    off_diagonal = values.masked_fill(_diagonals(counts, values.device, copies), 0.0)
    sizes = [copy * count**2 for copy, count in zip(copies or [1] * len(counts), counts, strict=True)]
    return [part.sum() / 2 for part in _parts(off_diagonal, sizes)]


def _parts(values: Tensor, sizes: list[int]) -> tuple[Tensor, ...]:
    parts: tuple[Tensor, ...] = values.split(sizes)  # type: ignore[no-untyped-call]
    return parts


def _diagonals(counts: Sequence[int], device: torch.device, copies: Sequence[int] | None = None) -> Tensor:
    shapes = zip(copies or [1] * len(counts), counts, strict=True)
    eyes = [torch.eye(count, dtype=torch.bool, device=device).expand(copy, count, count) for copy, count in shapes]
    return torch.cat([eye.flatten() for eye in eyes])


def pair_count(count: int) -> int:
    """Number of unordered pairs of `count` vectors."""
    return count * (count - 1) // 2


def closest_angle(squared_NN: Tensor) -> Tensor:
    """Smallest angle between two rows in radians, from their `squared_distances`; resolution about 2e-8 rad.

    A single row gives π, the largest possible angle. A row of zeros counts as orthogonal to all others.
    """
    count = len(squared_NN)
    diagonal_NN = _diagonals([count], squared_NN.device).view(count, count)
    return angles(squared_NN.masked_fill(diagonal_NN, 4.0).amin())
