"""Directions of neurons on the unit sphere: cosines, squared distances, angles, unordered pairs.

Letters: N neurons, D fan-in. A matrix over pairs is (N, N); a pair is counted once, above the diagonal. C weights of
one shape may be given as a stack (C, N, D); they then lie one after the other wherever matrices do.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from gan_mhe.sphere.gram import gram

SMALLEST_NORM = 1e-12  # below it a row has no direction; its gradient, growing as 1/||w||, would be all that is left
_SMALLEST_SQUARE = 1e-30  # keeps the square root of a rounded-off 0 differentiable; 1e-15 rad, below all rounding


def cosines(weights: Sequence[Tensor], norm_eps: float = 0.0) -> Tensor:
    """w_i.w_j / sqrt((||w_i||² + eps)(||w_j||² + eps)) within each weight (N, D), from one Gram product each; float64.

    All matrices lie one after the other in one vector (Σ N², or Σ C N²), so that what follows is done once for all
    layers. At eps = 0 a row with ||w|| <= 1e-12 has cosine 0 with every other, as if orthogonal to all, and gets
    gradient 0. With eps > 0 a row's cosine with itself is below 1. Precision as of `gram`.
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
    # 1 first: rsqrt(0) would give NaN = 0 * inf on the way back.
    return square_N.masked_fill(no_direction, 1.0).rsqrt().masked_fill(no_direction, 0.0)


def directions(vectors: Tensor) -> Tensor:
    """Vectors along the last axis divided by their norms, in float64; zeros where there is no direction."""
    wide = vectors.double()
    return wide * inverse_norms(wide.square().sum(-1, keepdim=True))


def chords(cosine: Tensor, counts: Sequence[int], copies: Sequence[int] | None = None) -> Tensor:
    """||u_i - u_j||² = 2 - 2 u_i.u_j of `cosines` of weights with `counts` rows, with a constant 1 on the diagonals.

    copies: how many weights each stack has; without it, one.

    The 1 comes before any logarithm or power is taken, so that the diagonal has no gradient to spoil.
    ||u_i + u_j||² is 4 - d².
    """
    return (2 - 2 * cosine).masked_fill(_diagonals(counts, cosine.device, copies), 1.0)


def squared_distances(weight_ND: Tensor) -> Tensor:
    """Squared chords between the directions of the rows of weight (N, D), float64 (N, N), 1 on the diagonal.

    2 - 2c cancels for near pairs, so those need float64 products. From float32 weights the relative error of d² is
    then below 1e-12, 1e-10 and 1e-8 at 0.1, 0.01 and 0.001 rad (a float32 Gram matrix leaves 2e-5, 2e-3 and 0.2
    there, and negative values below), and below 2e-5 where `gram` may multiply in float32.
    """
    count = len(weight_ND)
    return chords(cosines([weight_ND]), [count]).view(count, count)


def angles(squared_distance: Tensor) -> Tensor:
    """θ = 2 atan2(||u - v||, ||u + v||) in radians, [0, π], elementwise from d² = ||u - v||².

    Exact to rounding at both ends, where acos loses half the digits and its gradient is infinite. The gradient is
    finite for every d², the ones that rounding has pushed outside [0, 4] included.
    """
    chord = squared_distance.clamp(min=_SMALLEST_SQUARE).sqrt()
    opposite_chord = (4 - squared_distance).clamp(min=_SMALLEST_SQUARE).sqrt()
    return 2 * torch.atan2(chord, opposite_chord)


def pair_sums(values: Tensor, counts: Sequence[int], copies: Sequence[int] | None = None) -> list[Tensor]:
    """Sum over i < j within each of the symmetric matrices that lie one after the other, and over each stack.

    0 for one row. The entries on the diagonals must be finite: their gradient is 0, and 0 times infinity is NaN.
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
    """Smallest angle between two rows, in radians, from their `squared_distances`; resolved to about 2e-8 rad.

    One row has no pair: π, the largest angle there is. A row of zeros counts as orthogonal to all others.
    """
    count = len(squared_NN)
    diagonal_NN = _diagonals([count], squared_NN.device).view(count, count)
    return angles(squared_NN.masked_fill(diagonal_NN, 4.0).amin())
