"""Hyperspherical energy (MHE, Liu et al. 2018): any s >= 0, Euclidean or geodesic distance, full or half space."""

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from gan_mhe.sphere.geometry import (
    angles,
    chords,
    closest_angle,
    cosines,
    pair_count,
    pair_sums,
    squared_distances,
)
from gan_mhe.sphere.precision import without_autocast

Distance = Literal["euclidean", "geodesic"]
Reduction = Literal["mean", "sum"]


def hyperspherical_energy(
    weight: Tensor,
    *,
    s: float = 0.0,
    distance: Distance = "euclidean",
    half_space: bool = False,
    reduction: Reduction = "mean",
) -> Tensor:
    """Hyperspherical energy of N neurons over unordered pairs: Σ_{i<j} f_s(z_ij) with u_i = w_i / ||w_i||, a scalar.

    f_s(z) = z^-s for s > 0 and log(1/z) for s = 0. z is the chord ||u_i - u_j|| (Euclidean, MHE) or the angle in
    radians (geodesic, A-MHE), Liu et al. 2018. "mean" divides by the number of unordered pairs, which equals the
    papers' E_s / (N(N-1)), where every pair is counted twice; "sum" is half the papers' E_s. `half_space` computes the
    energy of the 2N vectors w and -w, including the N constant pairs (w, -w), from the N rows: a pair contributes
    2 [f(u_i, u_j) + f(u_i, -u_j)].

    With angles and s = 0 the optimum is not an even spread: log(1/z) has a finite value at z = pi, its slope is still
    negative there, and opposite pairs at right angles win. For N = 4 in three dimensions these are two perpendicular
    pairs with -0.6826, against -0.6474 of the regular tetrahedron; 64 filters of 27 numbers end in 32 opposite pairs.

    weight: floating point, (N, D), rows are neurons, N >= 1. The result is float64 for float64 weights, else float32.
    A single neuron gives exactly 0 with gradient 0, in half space too. A row with ||w|| <= 1e-12 has no direction: it
    counts as orthogonal to all others and gets gradient 0.

    The energy takes one Gram product (see `gram`) and float64 arithmetic after it, independent of autocast and TF32.
    For float32 weights the relative error of d² is below 1e-12, 1e-10 and 1e-8 at 0.1, 0.01 and 0.001 rad, and below
    2e-5 beyond 0.25 rad. The gradient takes one product in the dtype of `weight`; the relative error of the force of a
    float32 pair at angle θ is about 1e-7 / θ. On a GPU there is no host synchronization.

    Below distance_floor(s) (1e-6 for s <= 1.5, 1e-5 for s = 2), where forces would diverge, f continues on its tangent
    in d². Pairs beyond the floor are unaffected; below it, value and gradient stay finite and near duplicates still
    repel (exact duplicates have no direction to separate in). A gradient beyond the range of the dtype of `weight`
    saturates at the largest number of that dtype; in practice this happens in half precision only.

    Raises ValueError for another rank, no neurons, integer weights, a negative or non-finite s, or unknown names.
    """
    return hyperspherical_energies([weight], s=s, distance=distance, half_space=half_space, reduction=reduction)[0]


def hyperspherical_energies(
    weights: Sequence[Tensor],
    *,
    s: float = 0.0,
    distance: Distance = "euclidean",
    half_space: bool = False,
    reduction: Reduction = "mean",
) -> Tensor:
    """`hyperspherical_energy` of each of L >= 1 layers, shape (L,); all weights share one dtype and device.

    The Gram products are taken layer by layer; every operation after them is one call for all layers.
    """
    for weight in weights:
        check_weight(weight)
    check_kind(s, distance)
    if reduction not in get_args(Reduction):
        raise ValueError(f"reduction: expected one of {get_args(Reduction)}, got {reduction!r}")
    return energies_of_stacks(weights, s=s, distance=distance, half_space=half_space, reduction=reduction)


def energies_of_stacks(
    weights: Sequence[Tensor], *, s: float, distance: Distance, half_space: bool, reduction: Reduction
) -> Tensor:
    """`hyperspherical_energies` where a weight may also be a stack (C, N, D); arguments are not checked.

    "mean" averages over the pairs of each weight and over the C weights; "sum" adds up all pairs of all C weights.
    """
    counts, kind = [weight.shape[-2] for weight in weights], weights[0]
    copies = [weight.shape[:-2].numel() for weight in weights]
    with without_autocast(kind):
        squared = chords(cosines(weights), counts, copies)
        values = pair_energies(squared, s, distance)
        if half_space:
            values = 2 * (values + pair_energies(4 - squared, s, distance))
        sums = pair_sums(values, counts, copies)
        # Scalar by scalar: a tensor of constants would need a copy from the host, which a CUDA graph cannot capture.
        if half_space:
            constants = [copy * _constant(count, s, distance) for copy, count in zip(copies, counts, strict=True)]
            sums = [energy + constant for energy, constant in zip(sums, constants, strict=True)]
        if reduction == "mean":
            pairs = [max(pair_count(2 * count if half_space else count), 1) for count in counts]
            sums = [energy / (copy * each) for energy, copy, each in zip(sums, copies, pairs, strict=True)]
        return narrow(torch.stack(sums), kind)


@torch.no_grad()
def energy_and_angle(weight: Tensor) -> tuple[Tensor, Tensor]:
    """`hyperspherical_energy` at s = 0 and the smallest angle between two rows in radians, of weight (N, D), N >= 2.

    Both are float64 scalars without gradient, computed from one Gram product.
    """
    check_weight(weight)
    squared_NN = squared_distances(weight)
    (total,) = pair_sums(pair_energies(squared_NN.flatten(), 0.0, "euclidean"), [len(weight)])
    return total / pair_count(len(weight)), closest_angle(squared_NN)


def _constant(count: int, s: float, distance: Distance) -> float:
    """Energy of the N pairs (w, -w) in half space; 0 for a single neuron, whose energy is 0 by definition."""
    return count * riesz(2.0 if distance == "euclidean" else math.pi, s) if count > 1 else 0.0


def pair_energies(squared_distance: Tensor, s: float, distance: Distance) -> Tensor:
    """f_s of the distance or angle, elementwise from float64 d²; below `distance_floor(s)`, its tangent in d²."""
    floor = distance_floor(s)
    clamped = squared_distance.clamp(min=floor**2)
    squared_z = clamped if distance == "euclidean" else angles(clamped).square()
    energy = -0.5 * squared_z.log() if s == 0 else squared_z.pow(-s / 2)
    # A second clamp instead of squared_distance - clamped: above the floor the steep tangent then adds exactly 0.
    return energy + _tangent_slope(floor, s, distance) * (squared_distance - floor**2).clamp(max=0)


def distance_floor(s: float) -> float:
    """Distance below which f_s continues on its tangent: max(1e-6, 10^(-15/(s+1))).

    The force of a pair, s / d^(s+1), then stays below s * 1e15, so that its square, which Adam computes, fits float32.
    Examples: 1e-6 for s = 0 and 1, 1e-5 for s = 2, 1e-3 for s = 4, 0.043 for s = 10. At 1e-6, d² from a float64 Gram
    matrix has a relative error of about 0.1 %, so a smaller floor would resolve rounding noise only.
    """
    return max(1e-6, 10 ** (-15 / (s + 1)))


def riesz(z: float, s: float) -> float:
    """The Riesz kernel f_s(z) of a number z > 0."""
    return -math.log(z) if s == 0 else z**-s


def narrow(energy: Tensor, weight: Tensor) -> Tensor:
    """Convert a float64 result to the returned dtype: float64 for float64 weights, else float32."""
    return energy if weight.dtype == torch.float64 else energy.float()


def check_weight(weight: Tensor) -> None:
    """Raise ValueError unless weight is a floating-point (N, D) matrix with N >= 1 and D >= 1."""
    if weight.ndim != 2 or 0 in weight.shape or not weight.is_floating_point():
        raise ValueError(
            "weight: expected a floating-point tensor of shape (N, D) with N >= 1 and D >= 1, "
            f"got {weight.dtype} of shape {tuple(weight.shape)}"
        )


def check_kind(s: float, distance: str) -> None:
    """Raise ValueError unless s is finite and >= 0 and `distance` is a known name."""
    if not (math.isfinite(s) and s >= 0):
        raise ValueError(f"s: expected a finite number >= 0, got {s}")
    if distance not in get_args(Distance):
        raise ValueError(f"distance: expected one of {get_args(Distance)}, got {distance!r}")


def _tangent_slope(floor: float, s: float, distance: Distance) -> float:
    """df/d(d²) at d = floor: f'(z) / (2 d) for z = d, f'(z) / (2 sin z) for the angle z = 2 asin(d/2)."""
    z, twice_stretch = (floor, 2 * floor)
    if distance == "geodesic":
        z = 2 * math.asin(floor / 2)
        twice_stretch = 2 * math.sin(z)
    derivative = -1 / z if s == 0 else -s * z ** (-s - 1)
    return derivative / twice_stretch
