"""Compressive minimum hyperspherical energy (CoMHE, Lin et al. 2020): the energy of neurons after projection.

Random directions in many dimensions are nearly orthogonal, so the energy is nearly flat; in k dimensions their cosines
have variance 1/k. The projection P is random (RP-CoMHE), trained to preserve angles (AP-CoMHE), or trained to increase
the energy (adversarial CoMHE). The two trained forms take gradient steps P' = P ± lr dJ/dP, computed in closed form and
differentiable with respect to their arguments (unrolled); detach the arguments to treat P' as constant.

Shape letters: N neurons, D fan-in, C projections, K dimensions after projection. Arithmetic is float64, independent of
autocast and TF32, as in `energy`. A gradient has the dtype of its tensor; each contribution saturates at the largest
number of that dtype.
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

_CHUNK_ENTRIES = 2**16  # entries of the (C, N, N) matrices processed at once on a CPU, so that they stay in its cache
_SAME_COSINES = 1e-6  # root mean square; the gradient of the norm is 0/0 at 0, and dominated by rounding errors near it


def projected_energies(
    weights: Sequence[Tensor],
    projections: Sequence[Tensor],
    *,
    s: float = 0.0,
    distance: Distance = "euclidean",
    half_space: bool = False,
) -> Tensor:
    """RP-CoMHE: the mean over c of the mean pair energy of the projected neurons P_c w_i, for L >= 1 layers, (L,).

    Per layer: (1/C) Σ_c Σ_{i<j} f_s(z_ij(P_c)) divided by the number of pairs. s, distance, half space, degenerate rows
    and near duplicates as in `hyperspherical_energy`. The energy is invariant to P -> aP, and a square orthogonal P
    gives the energy without projection. Differentiable with respect to weights and projections. The authors' code adds
    1e-4 to norms, which is left out here; values differ by about 2e-6 and gradients by about 4e-5 of their size.

    weights: floating-point (N, D), all of one dtype and device. projections: floating-point (C, K, D), one per weight.
    The result is float64 for float64 weights, else float32.

    Costs 2 N D C K float64 operations per layer for the projection, and several passes over C N² elements of 8 bytes,
    some of which are kept for the gradient. Except on a CPU, every operation is one call for all layers.
    Raises ValueError for shapes that do not match, a number of projections other than L, and the cases of
    `hyperspherical_energy`.
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
    """Group CoMHE: the mean over groups of coordinates of the mean pair energy in each group, for L >= 1 layers, (L,).

    Our interpretation of "split the coordinates into groups by block-selection matrices and average the group
    energies"; the paper's formula was not available. One group of all coordinates is `hyperspherical_energies`.

    weights: floating-point (N, D), all of one dtype and device. orders: one per weight, see `groups_of`.
    Raises ValueError for a number of orders other than L, and as `groups_of` and `hyperspherical_energy`.
    """
    check_kind(s, distance)
    if len(orders) != len(weights):
        raise ValueError(f"orders: expected one for each of {len(weights)} weights, got {len(orders)}")
    stacks = [groups_of(weight, order, groups) for weight, order in zip(weights, orders, strict=True)]
    return _mean_energies(stacks, s=s, distance=distance, half_space=half_space)


def groups_of(weight_ND: Tensor, order_D: Tensor, groups: int) -> Tensor:
    """Split the coordinates of weight (N, D), permuted by `order_D`, into equal blocks: (groups, N, D // groups).

    order_D: integer, a permutation of 0..D-1; this is not checked, because a check would synchronize with the device.
    The last D mod groups coordinates of the order are dropped; under random orders each is dropped equally often.
    Raises ValueError unless 1 <= groups <= D and the order is an integer tensor of shape (D,).
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
    """AP-CoMHE's inner step P' = P - lr dL/dP, L = ||cos(P Wᵀ) - cos(W)||_F + weight_decay/2 ||P||_F², (K, D).

    The Frobenius norm is not squared and covers all N x N cosines, as in the official code (with weight decay
    1e-3 * 5e-4); the authors' slides use squared differences of angles. With G = (cos(P Wᵀ) - cos(W)) / ||.||_F and
    unit rows ẑ_i of z_i = P w_i: dL/dz_i = (I - ẑ_i ẑ_iᵀ) 2 (G ẑ)_i / ||z_i||, dL/dP = (dL/dZ)ᵀ W.

    If the root mean square difference of the cosines is at most 1e-6, the angles count as preserved and the gradient of
    the norm, which is 0/0 at 0, is set to 0. Rows w_i or P w_i without direction have no gradient. lr: a number or a
    0-dimensional tensor. The result has the dtype of P and is differentiable with respect to P and W.
    Raises ValueError for shapes that do not match, and for a negative or non-finite lr or weight_decay.
    """
    _check_step(projection_KD, weight_ND, lr, weight_decay)
    with without_autocast(weight_ND):
        rows_ND, wide_KD = _widen(weight_ND), _widen(projection_KD)
        unit_NK, inverse_N = _directions(rows_ND @ wide_KD.T)
        difference_NN = unit_NK @ unit_NK.T - cosines([weight_ND]).view(len(weight_ND), -1)
        square = difference_NN.square().sum()
        preserved = square <= (_SAME_COSINES * len(weight_ND)) ** 2
        inverse_norm = square.masked_fill(preserved, 1.0).rsqrt().masked_fill(preserved, 0.0)
        gradient_KD = _projection_gradient(2 * inverse_norm * difference_NN, unit_NK, inverse_N, rows_ND)
        return (wide_KD - lr * (gradient_KD + weight_decay * wide_KD)).to(projection_KD.dtype)


def adversarial_step(
    projection_KD: Tensor, weight_ND: Tensor, *, lr: float | Tensor, weight_decay: float, s: float
) -> Tensor:
    """Adversarial CoMHE's inner step P' = P + lr dJ/dP, J = E_s(P w) - weight_decay/2 ||P||_F², (K, D).

    E_s is the mean pair energy, Euclidean and in full space (official code: s = 2). With unit rows ẑ_i of z_i = P w_i:
    dE/dz_i = (I - ẑ_i ẑ_iᵀ) Σ_{j != i} k_ij ẑ_j / (||z_i|| N(N-1)/2), k = s / d^(s+2), or 1 / d² for s = 0, with d
    clamped to at least distance_floor(s). Otherwise as `angle_preserving_step`; a negative or non-finite s raises
    ValueError too.
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
        gradient_KD = _projection_gradient(force_NN.masked_fill(own_NN, 0.0) / pairs, unit_NK, inverse_N, rows_ND)
        return (wide_KD + lr * (gradient_KD - weight_decay * wide_KD)).to(projection_KD.dtype)


def _project(weight_ND: Tensor, projection_CKD: Tensor) -> Tensor:
    """P_c w_i of all C projections, float64 (C, N, K), from one product."""
    copies, dim, _ = projection_CKD.shape
    projected_NM = _widen(weight_ND) @ _widen(projection_CKD).flatten(0, 1).T
    return projected_NM.view(len(weight_ND), copies, dim).transpose(0, 1)


def _mean_energies(stacks: Sequence[Tensor], *, s: float, distance: Distance, half_space: bool) -> Tensor:
    """Mean of the mean pair energies of each of L stacks (C, N, K), (L,).

    On a GPU, where kernel launches dominate, all stacks at once; on a CPU in chunks that stay in its cache.
    """

    def energies(chunks: Sequence[Tensor]) -> Tensor:
        return energies_of_stacks(chunks, s=s, distance=distance, half_space=half_space, reduction="mean")

    if stacks[0].device.type != "cpu":
        return energies(stacks)
    chunks = [torch.split(stack_CNK, max(_CHUNK_ENTRIES // stack_CNK.shape[1] ** 2, 1)) for stack_CNK in stacks]
    return torch.stack(
        [
            torch.cat([energies([chunk]) * (len(chunk) / len(stack_CNK)) for chunk in own_chunks]).sum()
            for stack_CNK, own_chunks in zip(stacks, chunks, strict=True)
        ]
    )


def _directions(rows_NK: Tensor) -> tuple[Tensor, Tensor]:
    """Unit rows and the inverse norms of the rows; both 0 for rows without direction."""
    inverse_N = inverse_norms(rows_NK.square().sum(dim=1))
    return rows_NK * inverse_N.unsqueeze(1), inverse_N


def _projection_gradient(slope_NN: Tensor, unit_NK: Tensor, inverse_N: Tensor, rows_ND: Tensor) -> Tensor:
    """dJ/dP from the symmetric matrix dJ/d(ẑ_i.ẑ_j), J as Σ_{i<j}: the chain rule through ẑ_i, z_i and Z = W Pᵀ."""
    unit_grad_NK = slope_NN @ unit_NK
    tangent_NK = unit_grad_NK - (unit_grad_NK * unit_NK).sum(dim=1, keepdim=True) * unit_NK
    return (tangent_NK * inverse_N.unsqueeze(1)).T @ rows_ND


def _widen(values: Tensor) -> Tensor:
    """Convert to float64; in the backward pass, gradients beyond the range of the original dtype saturate."""
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
