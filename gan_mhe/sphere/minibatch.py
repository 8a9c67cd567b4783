"""Mini-batch estimates of the mean pair energy, unbiased.

`label_energy` is the form of Liu et al. 2018 (SphereFace+). The paper proposes mini-batches for hidden layers too; its
text was not available, and the other two estimators are our own.

The expectation of each estimate over its random indices is `hyperspherical_energy` with the mean reduction, and the
expectation of its gradient is the gradient of that energy. In half space the full mean is
[(N-1) A + f_s(own)] / (2N-1), where A is the mean over unordered pairs of f_s(u_i, u_j) + f_s(u_i, -u_j), and own is
the constant distance between w and -w. The half-space mean of m neurons has m in place of N, which gives the constant
another weight; the estimators therefore estimate A and insert N.

Indices are not checked on the device, which would need a synchronization: the caller guarantees that they are in range
and distinct, or different from the row's own index (see `draw_subset`, `draw_partners`).
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from gan_mhe.sphere.energy import (
    Distance,
    check_kind,
    check_weight,
    hyperspherical_energies,
    narrow,
    pair_energies,
    riesz,
)
from gan_mhe.sphere.geometry import SMALLEST_NORM, directions
from gan_mhe.sphere.precision import without_autocast

_LARGEST_FORCE = 1e30  # as in `gram`: a larger force times a row would overflow float32


def subset_energies(
    weights: Sequence[Tensor],
    subsets: Sequence[Tensor],
    *,
    s: float = 0.0,
    distance: Distance = "euclidean",
    half_space: bool = False,
) -> Tensor:
    """Estimates (L,) of the mean pair energies of L layers (N, D), each from a subset of m of its neurons.

    subsets: int64 (m,) per layer, distinct indices, 2 <= m <= N (m = 1 where N = 1, which gives exactly 0). Unbiased if
    every subset is equally likely. Costs (m/N)² of the full energy. Dtype, precision and degenerate rows as in
    `hyperspherical_energies`; in half space the rounding error from float32 weights is about three times larger.

    Raises ValueError for indices of another shape or dtype, too few or too many indices, and the cases of
    `hyperspherical_energies`.
    """
    for weight, subset in zip(weights, subsets, strict=True):
        check_weight(weight)
        _check_indices("subsets", subset, (subset.numel(),))
        if not min(2, len(weight)) <= len(subset) <= len(weight):
            raise ValueError(f"subsets: expected 2 to {len(weight)} of {len(weight)} neurons, got {len(subset)}")
    rows = [weight.index_select(0, subset) for weight, subset in zip(weights, subsets, strict=True)]
    energies = hyperspherical_energies(rows, s=s, distance=distance, half_space=half_space)
    if not half_space:
        return energies
    own = _own_energy(s, distance)
    pairs = zip(energies.unbind(), map(len, subsets), map(len, weights), strict=True)
    return torch.stack([_reweighted(energy, size, count, own) for energy, size, count in pairs])


def partner_energies(
    weights: Sequence[Tensor],
    partners: Sequence[Tensor],
    *,
    s: float = 0.0,
    distance: Distance = "euclidean",
    half_space: bool = False,
) -> Tensor:
    """Estimates (L,) of the mean pair energies of L layers (N, D), N >= 2, from m partners per neuron.

    The estimate is the mean of f_s over all neurons i and their partners. partners: int64 (N, m) per layer; row i must
    not contain i and may contain repetitions. Unbiased if each partner is uniform over the N - 1 other neurons. Dtype,
    precision and degenerate rows as in `hyperspherical_energies`. The cost O(m N D) is bound by memory bandwidth,
    that of the full energy by arithmetic, so m must be far below N to save time. On CUDA the gradient is summed in
    nondeterministic order. Raises ValueError as `subset_energies`.
    """
    check_kind(s, distance)
    for weight, indices in zip(weights, partners, strict=True):
        check_weight(weight)
        _check_indices("partners", indices, (len(weight), *indices.shape[-1:]))
        if len(weight) == 1 or not indices.numel():
            raise ValueError(f"partners: expected m >= 1 and N >= 2, got m = {indices.shape[1]} and N = {len(weight)}")
    with without_autocast(weights[0]):
        cosines = [_partner_cosines(*pair).flatten() for pair in zip(weights, partners, strict=True)]
        squared = 2 - 2 * torch.cat(cosines)
        values = pair_energies(squared, s, distance)
        if half_space:
            values = values + pair_energies(4 - squared, s, distance)
        parts: tuple[Tensor, ...] = values.split([indices.numel() for indices in partners])  # type: ignore[no-untyped-call]
        means = [part.mean() for part in parts]
        if half_space:
            own = _own_energy(s, distance)
            means = [_half_space_mean(mean, len(weight), own) for mean, weight in zip(means, weights, strict=True)]
        return narrow(torch.stack(means), weights[0])


def label_energy(weight: Tensor, labels: Tensor, *, s: float = 0.0, distance: Distance = "euclidean") -> Tensor:
    """1/(m(N-1)) Σ_i Σ_{j != y_i} f_s(z(u_{y_i}, u_j)) for weight (N, D) and labels y, int64 (m,), m >= 1; a scalar.

    The data-dependent energy of an output layer, the term of SphereFace+. Labels may repeat; the expectation over
    uniform labels is the full mean. Costs m N D float64 operations. A single neuron gives exactly 0 with gradient 0.
    Dtype, distance floor and degenerate rows as in `hyperspherical_energy`. Raises ValueError for labels of another
    shape or dtype, no labels, and the cases of `hyperspherical_energy`.
    """
    check_weight(weight)
    check_kind(s, distance)
    _check_indices("labels", labels, (max(labels.numel(), 1),))
    with without_autocast(weight):
        unit_ND = directions(weight)
        own_mN = labels.unsqueeze(1) == torch.arange(len(weight), device=weight.device)
        squared_mN = (2 - 2 * unit_ND.index_select(0, labels) @ unit_ND.T).masked_fill(own_mN, 1.0)
        values_mN = pair_energies(squared_mN, s, distance).masked_fill(own_mN, 0.0)
        return narrow(values_mN.sum() / (len(labels) * max(len(weight) - 1, 1)), weight)


def draw_subset(count: int, size: int, generator: torch.Generator, out: Tensor) -> None:
    """Fill `out`, int64 (size,), with distinct integers in [0, count); every subset is equally likely, in random order.

    `out` is on the generator's device. Raises ValueError unless 1 <= size <= count and `out` has that shape and dtype.
    """
    if not 1 <= size <= count:
        raise ValueError(f"size: expected 1 to {count}, got {size}")
    _check_indices("out", out, (size,))
    out.copy_(torch.randperm(count, generator=generator, device=out.device)[:size])


def draw_partners(count: int, size: int, generator: torch.Generator, out: Tensor) -> None:
    """Fill row i of `out`, int64 (count, size), with independent uniform integers in [0, count) other than i.

    Drawn with replacement. `out` is on the generator's device. Raises ValueError unless count >= 2, size >= 1 and `out`
    has that shape and dtype.
    """
    if count < 2 or size < 1:
        raise ValueError(f"count, size: expected numbers >= 2 and >= 1, got {count} and {size}")
    _check_indices("out", out, (count, size))
    out.random_(0, count - 1, generator=generator)
    out += out >= torch.arange(count, device=out.device).unsqueeze(1)


@torch.library.custom_op("gan_mhe::partner_products", mutates_args=())
def partner_products(weight_ND: Tensor, partners_Nm: Tensor) -> Tensor:
    """Inner products of row i with its m partners and, in the last column, with itself: float64 (N, m + 1).

    Forward and backward loop over partners, so that the m N D gathered elements are never in memory at once. The
    gradient has the weight's dtype and is computed in that dtype, at least float32. Twice differentiable.
    """
    wide_ND = weight_ND.double()
    rows_N1D = wide_ND.unsqueeze(1)
    columns = [rows_N1D @ wide_ND.index_select(0, partner_N).unsqueeze(2) for partner_N in partners_Nm.unbind(1)]
    return torch.cat([*columns, rows_N1D @ wide_ND.unsqueeze(2)], 1).squeeze(2)


@partner_products.register_fake
def _(weight_ND: Tensor, partners_Nm: Tensor) -> Tensor:
    count, partners = partners_Nm.shape
    return weight_ND.new_empty((count, partners + 1), dtype=torch.float64)


def _keep_inputs(ctx: torch.autograd.function.FunctionCtx, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> tuple[Tensor, None]:
    weight_ND, partners_Nm = ctx.saved_tensors  # type: ignore[attr-defined]
    rows_ND = weight_ND.to(torch.promote_types(weight_ND.dtype, torch.float32))
    *forces, own_force_N = gradient.clamp(-_LARGEST_FORCE, _LARGEST_FORCE).to(rows_ND.dtype).unbind(1)
    total_ND = 2 * own_force_N.unsqueeze(1) * rows_ND
    for force_N, partner_N in zip(forces, partners_Nm.unbind(1), strict=True):
        force_N1 = force_N.unsqueeze(1)
        total_ND.addcmul_(force_N1, rows_ND.index_select(0, partner_N))
        total_ND.index_add_(0, partner_N, force_N1 * rows_ND)
    limit = torch.finfo(weight_ND.dtype).max  # saturates on overflow, as in `gram`
    return total_ND.clamp(-limit, limit).to(weight_ND.dtype), None


partner_products.register_autograd(_backward, setup_context=_keep_inputs)


def _partner_cosines(weight_ND: Tensor, partners_Nm: Tensor) -> Tensor:
    """u_i.u_j for each i and its partners j, float64 (N, m); 0 where either has no direction."""
    products = partner_products(weight_ND, partners_Nm)
    square_N = products[:, -1]
    no_direction_N = square_N <= SMALLEST_NORM**2
    # Replaced by 1 before rsqrt: rsqrt(0) = inf would make the backward pass compute 0 * inf = NaN.
    inverse_N = square_N.masked_fill(no_direction_N, 1.0).rsqrt().masked_fill(no_direction_N, 0.0)
    other_Nm = inverse_N.index_select(0, partners_Nm.flatten()).view_as(partners_Nm)
    cosine_Nm: Tensor = products[:, :-1] * inverse_N.unsqueeze(1) * other_Nm
    return cosine_Nm


def _reweighted(energy: Tensor, size: int, count: int, own: float) -> Tensor:
    """Convert the half-space mean of `size` neurons to an estimate of that of `count` neurons."""
    if size == count:
        return energy
    return _half_space_mean(((2 * size - 1) * energy - own) / (size - 1), count, own)


def _half_space_mean(mean_of_pairs: Tensor, count: int, own: float) -> Tensor:
    """[(N-1) A + f_s(own)] / (2N-1) of A = `mean_of_pairs` and N = `count`."""
    return ((count - 1) * mean_of_pairs + own) / (2 * count - 1)


def _own_energy(s: float, distance: Distance) -> float:
    """f_s of the pair (w, -w)."""
    return riesz(2.0 if distance == "euclidean" else math.pi, s)


def _check_indices(name: str, indices: Tensor, shape: tuple[int, ...]) -> None:
    if indices.shape != shape or indices.dtype != torch.int64:
        raise ValueError(f"{name}: expected torch.int64 of shape {shape}, got {indices.dtype}, {tuple(indices.shape)}")
