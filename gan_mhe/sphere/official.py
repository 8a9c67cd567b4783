"""The energies of the authors' published code, with every difference from the definition as a named argument.

Sources: wy1iu/MHE, directories MHE-GAN (`libs/ops.py`) and the classification networks. Values are for one layer
counted once and lambda = 1. Arithmetic is float64; the result is float64 for float64 weights, else float32.
"""

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from gan_mhe.sphere.energy import check_weight, narrow
from gan_mhe.sphere.geometry import angles, chords, cosines, pair_count, pair_sums
from gan_mhe.sphere.precision import without_autocast

ClassifierKind = Literal["s0", "s1", "s2", "a0", "a1", "a2"]


def official_gan_energy(
    weight: Tensor,
    *,
    mirror_on_feature_axis: bool = True,
    norm_eps: float = 1e-4,
    log_eps: float = 1e-4,
    squared_distance: bool = True,
    average_over_all_entries: bool = True,
) -> Tensor:
    """MHE-GAN code, s = 0: -(1/N²) [Σ_{i<j} log(d_ij² + 1e-4) + N(N+1)/2 log 1e-4] for weight (N, D), a scalar.

    mirror_on_feature_axis: concatenate w and -w along the features instead of the neurons. Cosines do not change, no
        half-space term arises, and ||w||² doubles relative to norm_eps.
    norm_eps: added to ||w||² under the root, which reduces |cosine| of short filters and makes E depend on their norm.
    log_eps: added to d²; a duplicate pair contributes -log(log_eps).
    squared_distance: take the logarithm of d², which is twice f_0; if False, f_0.
    average_over_all_entries: average over all N² entries, where each entry on or below the diagonal contributes the
        constant -log(log_eps); if False, over the unordered pairs (0 for a single neuron).

    With all three flags False and both eps 0 this is hyperspherical_energy(weight, s=0) without its treatment of
    duplicates and zero rows. Raises ValueError for a weight of another rank, a negative eps, or log_eps = 0 with
    average_over_all_entries, whose constant would be infinite.
    """
    _check_gan(weight, norm_eps, log_eps, average_over_all_entries)
    count = len(weight)
    scale = 1.0 if squared_distance else 0.5
    with without_autocast(weight):
        cosine = cosines([weight], norm_eps / 2 if mirror_on_feature_axis else norm_eps)
        energy = -scale * pair_sums((chords(cosine, [count]) + log_eps).log(), [count])[0]
        if average_over_all_entries:
            constant = -scale * math.log(log_eps) * (count + pair_count(count))
            return narrow((energy + constant) / count**2, weight)
        return narrow(energy / max(pair_count(count), 1), weight)


def official_classifier_energy(weight: Tensor, *, kind: ClassifierKind, half_space: bool = False) -> Tensor:
    """Classification code: mean over unordered pairs for weight (N, D), a scalar, with ||w|| = sqrt(Σ w² + 1e-4).

    s0, s1, s2: -log d² (twice f_0), 1/d, 1/d². a0, a1, a2: f_0, f_1, f_2 of θ/π + 1e-4, with the angle divided by π.
    half_space: over the pairs of the 2N rows w and -w including the N pairs (w, -w), as in `hyperspherical_energy`.
    A single neuron gives 0 in full space. Raises ValueError for a weight of another rank or an unknown kind.
    """
    check_weight(weight)
    if kind not in get_args(ClassifierKind):
        raise ValueError(f"kind: expected one of {get_args(ClassifierKind)}, got {kind!r}")
    with without_autocast(weight):
        cosine_MM = cosines([weight], 1e-4).view(len(weight), len(weight))
        if half_space:
            cosine_MM = torch.cat([torch.cat([cosine_MM, -cosine_MM], 1), torch.cat([-cosine_MM, cosine_MM], 1)])
        count = len(cosine_MM)
        squared = chords(cosine_MM.flatten(), [count])
        distance = squared.sqrt() if kind.startswith("s") else angles(squared) / math.pi + 1e-4
        exponent = int(kind[1])
        scale = 2 if kind == "s0" else 1
        energy = distance.pow(-exponent) if exponent else -scale * distance.log()
        return narrow(pair_sums(energy, [count])[0] / max(pair_count(count), 1), weight)


def _check_gan(weight: Tensor, norm_eps: float, log_eps: float, average_over_all_entries: bool) -> None:
    check_weight(weight)
    if norm_eps < 0 or log_eps < 0:
        raise ValueError(f"norm_eps, log_eps: expected numbers >= 0, got {norm_eps} and {log_eps}")
    if average_over_all_entries and log_eps == 0:
        raise ValueError("log_eps: expected a number > 0 with average_over_all_entries, got 0 (its logarithm is added)")
