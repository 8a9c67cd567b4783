"""Minimum hyperspherical energy (Liu et al. 2018, MHE): any s, Euclidean and geodesic, full and half space."""

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
    """Energy of the directions u_i = w_i / ||w_i|| of N neurons, over unordered pairs: Σ_{i<j} f_s(z_ij), a scalar.

    f_s(z) = z^-s for s > 0 and log(1/z) for s = 0; z = ||u_i - u_j|| (Euclidean MHE) or the angle in radians
    (geodesic, A-MHE), Liu et al. 2018. "mean" divides by the number of pairs and so equals the papers'
    E_s / (N(N-1)), which counts every pair twice; "sum" is half the papers' E_s. Half space takes the 2N vectors w
    and -w, the N constant pairs (w, -w) included, from the N rows: a pair then counts 2 [f(u_i, u_j) + f(u_i, -u_j)].

    weight: floating, (N, D), rows are neurons, N >= 1. The result is float64 for float64 weights, else float32.
    One neuron has no pair and gives exactly 0 with gradient 0, in half space too. A row with ||w|| <= 1e-12 has no
    direction: it counts as orthogonal to all others and has gradient 0.

    One Gram product (see `gram`) and float64 from there on, whatever autocast or TF32 says: from float32 weights the
    relative error of d² is below 1e-12, 1e-10 and 1e-8 at 0.1, 0.01 and 0.001 rad, and below 2e-5 beyond 0.25 rad.
    The gradient is one product too, in the dtype of `weight`: the force of a float32 pair at angle θ has a relative
    error of about 1e-7 / θ. No host synchronisation on a device that has a queue.

    Distances below distance_floor(s) (1e-6 for s <= 1.5, 1e-5 for s = 2) would give infinite forces; there f
    continues on its tangent in d². Pairs beyond the floor are unaffected; within it value and gradient stay finite
    and near-duplicates still repel (exact ones have no direction to do so). A gradient too large for the dtype of
    `weight` saturates at its largest number, which only half precision can meet in practice.

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
    """`hyperspherical_energy` of each of L >= 1 layers, (L,), all of one dtype and device.

    Beyond the products, which differ in size, the layers go through every operation together.
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
    """`hyperspherical_energies` where a weight may be a stack (C, N, D), without checks.

    "mean" is over the pairs within each of the C weights and over these; "sum" is over all of both.
    """
    counts, kind = [weight.shape[-2] for weight in weights], weights[0]
    copies = [weight.shape[:-2].numel() for weight in weights]
    with without_autocast(kind):
        squared = chords(cosines(weights), counts, copies)
        values = pair_energies(squared, s, distance)
        if half_space:
            values = 2 * (values + pair_energies(4 - squared, s, distance))
        sums = pair_sums(values, counts, copies)
        # Number by number: a vector of them would have to come from the host, which a captured step must not wait for.
        if half_space:
            constants = [copy * _constant(count, s, distance) for copy, count in zip(copies, counts, strict=True)]
            sums = [energy + constant for energy, constant in zip(sums, constants, strict=True)]
        if reduction == "mean":
            pairs = [max(pair_count(2 * count if half_space else count), 1) for count in counts]
            sums = [energy / (copy * each) for energy, copy, each in zip(sums, copies, pairs, strict=True)]
        return narrow(torch.stack(sums), kind)


@torch.no_grad()
def energy_and_angle(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Of weight (N, D), N >= 2: `hyperspherical_energy` at s = 0, and the smallest angle between two rows in radians.

    Float64 scalars without gradient, from one Gram product for both.
    """
    check_weight(weight)
    squared_NN = squared_distances(weight)
    (total,) = pair_sums(pair_energies(squared_NN.flatten(), 0.0, "euclidean"), [len(weight)])
    return total / pair_count(len(weight)), closest_angle(squared_NN)


def _constant(count: int, s: float, distance: Distance) -> float:
    """What the N pairs (w, -w) of a layer add in half space; nothing where there is but one."""
    return count * riesz(2.0 if distance == "euclidean" else math.pi, s) if count > 1 else 0.0


def pair_energies(squared_distance: Tensor, s: float, distance: Distance) -> Tensor:
    """f_s of the distance or angle, elementwise from float64 d²; below the floor, its tangent in d²."""
    floor = distance_floor(s)
    clamped = squared_distance.clamp(min=floor**2)
    squared_z = clamped if distance == "euclidean" else angles(clamped).square()
    energy = -0.5 * squared_z.log() if s == 0 else squared_z.pow(-s / 2)
    # A clamp of its own: through q - clamped, the huge slope would cancel beyond the floor with rounding error only.
    return energy + _tangent_slope(floor, s, distance) * (squared_distance - floor**2).clamp(max=0)


def distance_floor(s: float) -> float:
    """Distance below which f_s continues on its tangent: max(1e-6, 10^(-15/(s+1))).

    The force of a pair, s / d^(s+1), then stays below s * 1e15, so that its square, which Adam forms, fits float32.
    Examples: 1e-6 for s = 0 and 1, 1e-5 for s = 2, 1e-3 for s = 4, 0.043 for s = 10. At 1e-6 a float64 Gram
    matrix knows d² to about 0.1 % only, so a smaller floor would be noise.
    """
    return max(1e-6, 10 ** (-15 / (s + 1)))


def riesz(z: float, s: float) -> float:
    """f_s(z) of one number z > 0."""
    return -math.log(z) if s == 0 else z**-s


def narrow(energy: Tensor, weight: Tensor) -> Tensor:
    """Float64 energies as the caller gets it: float64 if the weight was, else float32."""
    return energy if weight.dtype == torch.float64 else energy.float()


def check_weight(weight: Tensor) -> None:
    """Raise ValueError unless weight is a floating (N, D) matrix with at least one row and one column."""
    if weight.ndim != 2 or 0 in weight.shape or not weight.is_floating_point():
        raise ValueError(
            "weight: expected a floating-point tensor of shape (N, D) with N >= 1 and D >= 1, "
            f"got {weight.dtype} of shape {tuple(weight.shape)}"
        )


def check_kind(s: float, distance: str) -> None:
    """Raise ValueError unless s is finite and >= 0 and the distance has a known name."""
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
