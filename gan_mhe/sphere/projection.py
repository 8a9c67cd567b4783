"""Compressive minimum hyperspherical energy (Lin et al. 2020, CoMHE): the energy of neurons after projection.

In many dimensions random directions are nearly orthogonal and the energy is nearly flat; in k dimensions cosines spread
with variance 1/k. P is drawn anew (RP), kept angle-preserving, or turned against the energy; the last two are one
gradient step each, P' = P ± lr dJ/dP in closed form, which gradients of P' pass through (unrolled), or do not if the
arguments are detached.

Letters: N neurons, D fan-in, C projections, K dimensions after projection. As in `energy`, everything is float64,
whatever autocast or TF32 says; gradients have the dtype of what they belong to, and what one use adds to them saturates
at its largest number.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from gan_mhe.sphere.energy import (
    Distance,
    check_kind,
    check_weight,
    distance_floor,
    energies_of_stacks,
    narrow,
)
from gan_mhe.sphere.geometry import chords, cosines, inverse_norms, pair_count
from gan_mhe.sphere.gram import saturated
from gan_mhe.sphere.precision import without_autocast

_CACHED = 2**16  # numbers of pairs in a piece of a stack on a CPU
_SAME_COSINES = 1e-6  # root mean square; the norm's gradient is 0/0 at 0, and rounding divided by rounding near it


def projected_energies(
    weights: Sequence[Tensor],
    projections: Sequence[Tensor],
    *,
    s: float = 0.0,
    distance: Distance = "euclidean",
    half_space: bool = False,
) -> Tensor:
    """Mean over c of the mean pair energy of the directions of P_c w_i, for each of L >= 1 layers, (L,).

    RP-CoMHE: (1/C) Σ_c Σ_{i<j} f_s(z_ij(P_c)) over the number of pairs; s, distance and half space, degenerate rows
    and near duplicates as in `hyperspherical_energy`. P -> aP changes nothing; a square orthogonal P gives the energy
    without projection. Differentiable with respect to weights and projections.

    weights: floating (N, D), all of one dtype and device. projections: floating (C, K, D), one for each weight. The
    result is float64 for float64 weights, else float32.

    Costs a product of 2 N D C K operations in float64 a layer, and passes over C N² numbers of 8 bytes, some of which
    are kept for the gradient. Except on a CPU, the layers go through every operation together.
    ValueError for shapes that do not match, a number of projections other than L, or as of the energy.
    """
    check_kind(s, distance)
    if len(projections) != len(weights):
        raise ValueError(f"projections: expected one for each of {len(weights)} weights, got {len(projections)}")
    for weight_ND, projection_CKD in zip(weights, projections, strict=True):
        check_weight(weight_ND)
        _check_projection("projections", projection_CKD, ("C", "K"), weight_ND.shape[1])
    with without_autocast(weights[0]):
        stacks = list(map(_project, weights, projections))
        return narrow(_mean_energies(stacks, s=s, distance=distance, half_space=half_space), weights[0])


def group_energies(
    weights: Sequence[Tensor],
    orders: Sequence[Tensor],
    *,
    groups: int,
    s: float = 0.0,
    distance: Distance = "euclidean",
    half_space: bool = False,
) -> Tensor:
    """Mean over groups of coordinates of the mean pair energy within each group, for each of L >= 1 layers, (L,).

    Group CoMHE by our reading, "split the coordinates into groups by block-selection matrices and average the group
    energies": the paper's own formula was not at hand. One group of all coordinates is `hyperspherical_energies`.

    weights: floating (N, D), all of one dtype and device. orders: one for each weight, see `groups_of`, which also
    tells what raises ValueError.
    """
    check_kind(s, distance)
    if len(orders) != len(weights):
        raise ValueError(f"orders: expected one for each of {len(weights)} weights, got {len(orders)}")
    stacks = [groups_of(weight, order, groups) for weight, order in zip(weights, orders, strict=True)]
    return _mean_energies(stacks, s=s, distance=distance, half_space=half_space)


def groups_of(weight_ND: Tensor, order_D: Tensor, groups: int) -> Tensor:
    """The coordinates of weight (N, D) in the given order, split into equal blocks: (groups, N, D // groups).

    order_D: a permutation of 0..D-1, integer; that it is one is not looked at, which would stop a device's queue. The
    last D mod groups coordinates of the order are left out: under orders drawn anew, each equally often.
    Raises ValueError unless 1 <= groups <= D and the order has shape (D,).
    """
    check_weight(weight_ND)
    count, dim = weight_ND.shape
    if not 1 <= groups <= dim:
        raise ValueError(f"groups: expected a number from 1 to D = {dim}, got {groups}")
    if order_D.shape != (dim,) or order_D.dtype not in (torch.int32, torch.int64):
        raise ValueError(
            f"order: expected an integer tensor of shape ({dim},), got {order_D.dtype} of shape {tuple(order_D.shape)}"
        )
    size = dim // groups
    return weight_ND.index_select(1, order_D[: groups * size]).view(count, groups, size).transpose(0, 1)


def angle_preserving_step(
    projection_KD: Tensor, weight_ND: Tensor, *, lr: float | Tensor, weight_decay: float
) -> Tensor:
    """P' = P - lr dL/dP, L = ||cos(P Wᵀ) - cos(W)||_F + weight_decay/2 ||P||_F²: AP-CoMHE's inner step, (K, D).

    The Frobenius norm, not squared, over all N x N cosines, as in the official code (its weight decay: 1e-3 * 5e-4);
    the authors' slides have squared differences of angles. With G = (cos(P Wᵀ) - cos(W)) / ||.||_F and unit rows ẑ_i of
    z_i = P w_i: dL/dz_i = (I - ẑ_i ẑ_iᵀ) 2 (G ẑ)_i / ||z_i||, dL/dP = (dL/dZ)ᵀ W.

    Where the cosines differ by 1e-6 or less, root mean square, they count as preserved: there the norm's gradient, 0/0
    at 0, is 0. Rows w_i or P w_i without direction have no gradient. lr: a number or a tensor of no dimensions.
    The result has the dtype of P. Differentiable with respect to P and W. ValueError for shapes that do not match.
    """
    _check_step(projection_KD, weight_ND, lr, weight_decay)
    with without_autocast(weight_ND):
        rows_ND, wide_KD = _widen(weight_ND), _widen(projection_KD)
        unit_NK, inverse_N = _directions(rows_ND @ wide_KD.T)
        difference_NN = unit_NK @ unit_NK.T - cosines([weight_ND]).view(len(weight_ND), -1)
        square = difference_NN.square().sum()
        preserved = square <= (_SAME_COSINES * len(weight_ND)) ** 2
        inverse_norm = square.masked_fill(preserved, 1.0).rsqrt().masked_fill(preserved, 0.0)
        gradient_KD = _pulled_back(2 * inverse_norm * difference_NN, unit_NK, inverse_N, rows_ND)
        return (wide_KD - lr * (gradient_KD + weight_decay * wide_KD)).to(projection_KD.dtype)


def adversarial_step(
    projection_KD: Tensor, weight_ND: Tensor, *, lr: float | Tensor, weight_decay: float, s: float
) -> Tensor:
    """P' = P + lr dJ/dP, J = E_s(P w) - weight_decay/2 ||P||_F²: the inner step of adversarial CoMHE, (K, D).

    E_s is the mean pair energy in full space, Euclidean (official code: s = 2). With unit rows ẑ_i of z_i = P w_i:
    dE/dz_i = (I - ẑ_i ẑ_iᵀ) Σ_{j != i} k_ij ẑ_j / (||z_i|| N(N-1)/2), k = s / d^(s+2), or 1 / d² for s = 0, with d
    not below distance_floor(s). Otherwise as `angle_preserving_step`; ValueError for a negative or non-finite s, too.
    """
    _check_step(projection_KD, weight_ND, lr, weight_decay)
    check_kind(s, "euclidean")
    with without_autocast(weight_ND):
        rows_ND, wide_KD = _widen(weight_ND), _widen(projection_KD)
        unit_NK, inverse_N = _directions(rows_ND @ wide_KD.T)
        squared_NN = chords((unit_NK @ unit_NK.T).flatten(), [len(weight_ND)]).view(len(weight_ND), -1)
        force_NN = (s or 1.0) * squared_NN.clamp(min=distance_floor(s) ** 2).pow(-s / 2 - 1)
        own_NN = torch.eye(len(weight_ND), dtype=torch.bool, device=weight_ND.device)
        pairs = max(pair_count(len(weight_ND)), 1)
        gradient_KD = _pulled_back(force_NN.masked_fill(own_NN, 0.0) / pairs, unit_NK, inverse_N, rows_ND)
        return (wide_KD + lr * (gradient_KD - weight_decay * wide_KD)).to(projection_KD.dtype)


def _project(weight_ND: Tensor, projection_CKD: Tensor) -> Tensor:
    """P_c w_i, float64 (C, N, K), of all projections from one product."""
    copies, dim, _ = projection_CKD.shape
    projected_NM = _widen(weight_ND) @ _widen(projection_CKD).flatten(0, 1).T
    return projected_NM.view(len(weight_ND), copies, dim).transpose(0, 1)


def _mean_energies(stacks: Sequence[Tensor], *, s: float, distance: Distance, half_space: bool) -> Tensor:
    """Mean of the mean pair energies of each stack (C, N, K), (L,).

    All at once where launching operations is what costs; on a CPU, in pieces that stay in its cache.
    """

    def energies(pieces: Sequence[Tensor]) -> Tensor:
        return energies_of_stacks(pieces, s=s, distance=distance, half_space=half_space, reduction="mean")

    if stacks[0].device.type != "cpu":
        return energies(stacks)
    pieces = [torch.split(stack_CNK, max(_CACHED // stack_CNK.shape[1] ** 2, 1)) for stack_CNK in stacks]
    return torch.stack(
        [
            torch.cat([energies([piece]) * (len(piece) / len(stack_CNK)) for piece in each]).sum()
            for stack_CNK, each in zip(stacks, pieces, strict=True)
        ]
    )


def _directions(rows_NK: Tensor) -> tuple[Tensor, Tensor]:
    """Unit rows, and 1 over the norms they had; 0 for rows without direction."""
    inverse_N = inverse_norms(rows_NK.square().sum(dim=1))
    return rows_NK * inverse_N.unsqueeze(1), inverse_N


def _pulled_back(slope_NN: Tensor, unit_NK: Tensor, inverse_N: Tensor, rows_ND: Tensor) -> Tensor:
    """dJ/dP from the symmetric dJ/d(ẑ_i.ẑ_j), counted as Σ_{i<j}: through unit rows, their norms and Z = W Pᵀ."""
    pull_NK = slope_NN @ unit_NK
    across_NK = pull_NK - (pull_NK * unit_NK).sum(dim=1, keepdim=True) * unit_NK
    return (across_NK * inverse_N.unsqueeze(1)).T @ rows_ND


def _widen(values: Tensor) -> Tensor:
    """The values in float64; a gradient beyond the range of their dtype saturates on the way back."""
    return values if values.dtype == torch.float64 else _to_float64(values)


@torch.library.custom_op("gan_mhe::to_float64", mutates_args=())
def _to_float64(values: Tensor) -> Tensor:
    return values.double()


@_to_float64.register_fake
def _(values: Tensor) -> Tensor:
    return values.to(torch.float64)


def _keep_dtype(ctx: torch.autograd.function.FunctionCtx, inputs: tuple[Tensor], output: Tensor) -> None:
    ctx.dtype = inputs[0].dtype  # type: ignore[attr-defined]


def _saturate(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> Tensor:
    return saturated(gradient, ctx.dtype)  # type: ignore[attr-defined]


_to_float64.register_autograd(_saturate, setup_context=_keep_dtype)


def _check_projection(name: str, projection: Tensor, letters: tuple[str, ...], dim: int) -> None:
    shape = tuple(projection.shape)
    if len(shape) != len(letters) + 1 or 0 in shape or shape[-1] != dim or not projection.is_floating_point():
        raise ValueError(
            f"{name}: expected a floating-point tensor of shape ({', '.join(letters)}, {dim}) with "
            f"{' and '.join(f'{letter} >= 1' for letter in letters)}, got {projection.dtype} of shape {shape}"
        )


def _check_step(projection_KD: Tensor, weight_ND: Tensor, lr: float | Tensor, weight_decay: float) -> None:
    check_weight(weight_ND)
    _check_projection("projection", projection_KD, ("K",), weight_ND.shape[1])
    for name, value in (("lr", lr), ("weight_decay", weight_decay)):
        if not isinstance(value, Tensor) and not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{name}: expected a finite number >= 0, got {value}")
