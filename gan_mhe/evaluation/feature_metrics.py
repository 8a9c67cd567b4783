"""The mathematics of the metrics in torch, on the device of the features and without waiting for it.

Definitions and random draws are torch-fidelity's. Sums with cancellation are float64. Functions take float32 features
and return float64 scalars on the same device, which the caller reads back all at once.
"""

import itertools
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from gan_mhe.evaluation.protocol import Protocol

Scalar = Tensor
"""A float64 tensor without dimensions."""

# Elements of the largest temporary: large enough to fill a GPU, small enough for any memory.
_COVARIANCE_ROWS = 4096
_KERNEL_ELEMENTS = 2**22
_DISTANCE_ELEMENTS = 2**26


@dataclass(frozen=True)
class RealStatistics:
    """Statistics of the features of M real images, computed once and reused for every generator."""

    mean: Tensor
    """Mean feature, float64 (D,)."""
    factor: Tensor
    """A matrix F with F F^T the covariance, float64 (D, min(M, D))."""
    radii: Tensor
    """Distance of each image to its k-th neighbor, float32 (M,)."""

    @classmethod
    def of(cls, real_MD: Tensor, neighborhood: int) -> "RealStatistics":
        """Compute the statistics of features (M, D); neighborhood: the k of `radii`."""
        radii = neighbor_radii(real_MD, neighborhood)
        if len(real_MD) < real_MD.shape[1]:
            mean, scaled = _scaled(real_MD)
            return cls(mean, scaled.T, radii)
        mean, covariance = _moments(real_MD)
        eigenvalues, vectors = torch.linalg.eigh(covariance)
        # Rounding leaves eigenvalues of a singular matrix a little below zero.
        return cls(mean, vectors * eigenvalues.clamp(min=0).sqrt(), radii)

    def to(self, device: torch.device) -> "RealStatistics":
        """A copy on `device`."""
        return RealStatistics(self.mean.to(device), self.factor.to(device), self.radii.to(device))


@dataclass(frozen=True)
class ScoreInputs:
    """What metrics are computed from. All tensors are float32 on one device; results shared by metrics are cached."""

    logits_NC: Tensor
    """Logits of the N generated images."""
    fake_ND: Tensor
    """Features of the N generated images."""
    real_MD: Tensor
    """Features of the M real images."""
    statistics: RealStatistics
    """Statistics of `real_MD`."""
    protocol: Protocol
    """Settings of the metrics."""

    @cached_property
    def split_scores(self) -> Tensor:
        """The Inception score of each split (splits,)."""
        return inception_scores(self.logits_NC, splits=self.protocol.splits, seed=self.protocol.shuffle_seed)

    @cached_property
    def precision_recall(self) -> tuple[Scalar, Scalar]:
        """Precision and recall, which share their distances."""
        return precision_recall(self.fake_ND, self.real_MD, self.statistics, self.protocol.prc_neighborhood)


def _moments(features_ND: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (D,) and covariance (D, D), normalized by N - 1, in float64."""
    mean = features_ND.mean(dim=0, dtype=torch.float64)
    scatter = torch.zeros(len(mean), len(mean), dtype=torch.float64, device=mean.device)
    for rows in torch.split(features_ND, _COVARIANCE_ROWS):
        centred = rows.double() - mean
        scatter.addmm_(centred.T, centred)
    return mean, scatter / (len(features_ND) - 1)


def _scaled(features_ND: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (D,) and X = (features - mean) / sqrt(N - 1) (N, D) in float64: the covariance is X^T X."""
    mean = features_ND.mean(dim=0, dtype=torch.float64)
    return mean, (features_ND.double() - mean) / (len(features_ND) - 1) ** 0.5


def inception_scores(logits_NC: Tensor, *, splits: int, seed: int) -> Tensor:
    """exp of the mean KL(p(y|x) || p(y)) of each split (splits,), after a shuffle by numpy's RandomState(seed).

    Computed as exp(E[sum p log p] - sum q log q) with q = E[p], so a class of zero probability contributes zero.
    """
    order = torch.from_numpy(np.random.RandomState(seed).permutation(len(logits_NC))).to(logits_NC.device)
    bounds = [i * len(order) // splits for i in range(splits + 1)]
    scores = []
    for first, end in itertools.pairwise(bounds):
        log_p = logits_NC[order[first:end]].double().log_softmax(dim=1)
        p = log_p.exp()
        q = p.mean(dim=0)
        scores.append(((p * log_p).sum(dim=1).mean() - torch.xlogy(q, q).sum()).exp())
    return torch.stack(scores)


def frechet_distance(fake_ND: Tensor, real: RealStatistics) -> Scalar:
    """|m - m_r|^2 + tr(S + S_r - 2 (S S_r)^1/2) (Heusel et al. 2017), both S normalized by N - 1.

    With F F^T = S_r, the nonzero eigenvalues of S S_r are those of F^T S F, which is symmetric, so they are real and
    cheap. With X^T X = S they are also those of (X F)(X F)^T, which is smaller if there are few images.
    """
    factor = real.factor
    if len(fake_ND) < len(factor):
        mean, scaled = _scaled(fake_ND)
        trace, image = scaled.square().sum(), scaled @ factor
        product = image @ image.T if image.shape[0] < image.shape[1] else image.T @ image
    else:
        mean, covariance = _moments(fake_ND)
        trace, product = covariance.trace(), factor.T @ covariance @ factor
    overlap = torch.linalg.eigvalsh(product).clamp(min=0).sqrt().sum()
    distance: Scalar = (mean - real.mean).square().sum() + trace + factor.square().sum() - 2 * overlap
    return distance


def kernel_distance(fake_ND: Tensor, real_MD: Tensor, *, subsets: int, size: int, degree: int, seed: int) -> Scalar:
    """Mean unbiased MMD^2 over `subsets` pairs of `size` samples (Binkowski et al. 2018), kernel (x.y/D + 1)^degree.

    Subsets are drawn from numpy's RandomState(seed), generated and real in turn.
    """
    random_state = np.random.RandomState(seed)
    counts = (len(fake_ND), len(real_MD))
    drawn = [random_state.choice(count, size, replace=False) for _ in range(subsets) for count in counts]
    indices = torch.from_numpy(np.stack(drawn)).to(fake_ND.device).view(subsets, 2, size)
    of_fake_SK, of_real_SK = indices.unbind(dim=1)
    within = _off_diagonal_sums(fake_ND, of_fake_SK, degree) + _off_diagonal_sums(real_MD, of_real_SK, degree)
    between = _kernel_sums(fake_ND, of_fake_SK, real_MD, of_real_SK, degree)
    return (within / (size * (size - 1)) - 2 * between / size**2).mean()


def _off_diagonal_sums(x_ND: Tensor, chosen_SK: Tensor, degree: int) -> Tensor:
    diagonal_N = (x_ND.double().square().mean(dim=1) + 1).pow(degree)
    return _kernel_sums(x_ND, chosen_SK, x_ND, chosen_SK, degree) - diagonal_N[chosen_SK].sum(dim=1)


def _kernel_sums(x_ND: Tensor, of_x_SK: Tensor, y_MD: Tensor, of_y_SK: Tensor, degree: int) -> Tensor:
    """Sum of the kernel over all pairs of a subset of x and one of y, for each of S pairs of subsets (S,)."""
    subsets, size = of_x_SK.shape
    if len(x_ND) * len(y_MD) > subsets * size**2:
        at_once = max(1, _KERNEL_ELEMENTS // size**2)
        parts = zip(torch.split(of_x_SK, at_once), torch.split(of_y_SK, at_once), strict=True)
        return torch.cat([_kernel(x_ND[i], y_MD[j], degree).sum(dim=(1, 2), dtype=torch.float64) for i, j in parts])
    # The subsets overlap so much that the kernel of all pairs of images is less work than that of each subset.
    in_x_SN, in_y_SM = _membership(of_x_SK, len(x_ND)), _membership(of_y_SK, len(y_MD))
    column_sums_SM = torch.zeros_like(in_y_SM)
    rows = max(1, _KERNEL_ELEMENTS // len(y_MD))
    for x_part, in_part in zip(torch.split(x_ND, rows), torch.split(in_x_SN, rows, dim=1), strict=True):
        column_sums_SM.addmm_(in_part, _kernel(x_part[None], y_MD[None], degree)[0].double())
    return (column_sums_SM * in_y_SM).sum(dim=1)


def _kernel(x_SND: Tensor, y_SMD: Tensor, degree: int) -> Tensor:
    return torch.bmm(x_SND, y_SMD.mT).div_(x_SND.shape[2]).add_(1).pow_(degree)


def _membership(chosen_SK: Tensor, count: int) -> Tensor:
    """Float64 (S, count): 1 where an index was chosen, 0 elsewhere."""
    absent = torch.zeros(len(chosen_SK), count, dtype=torch.float64, device=chosen_SK.device)
    return absent.scatter_(1, chosen_SK, 1.0)


def neighbor_radii(features_ND: Tensor, neighborhood: int) -> Tensor:
    """Distance of each image to its `neighborhood`-th neighbor (N,), itself not counted; N > neighborhood."""
    parts = torch.split(features_ND, max(1, _DISTANCE_ELEMENTS // len(features_ND)))
    # The nearest feature to each image is its own.
    return torch.cat([torch.cdist(rows, features_ND).kthvalue(neighborhood + 1).values for rows in parts])


def precision_recall(
    fake_ND: Tensor, real_MD: Tensor, real: RealStatistics, neighborhood: int
) -> tuple[Scalar, Scalar]:
    """Precision and recall (Kynkaanniemi et al. 2019).

    Precision is the share of generated images within the radius of a real image, recall the share of real images within
    the radius of a generated one.
    """
    fake_radii = neighbor_radii(fake_ND, neighborhood)
    precise_N = torch.zeros(len(fake_ND), dtype=torch.bool, device=fake_ND.device)
    recalled = []
    rows = max(1, _DISTANCE_ELEMENTS // len(fake_ND))
    for part, radii in zip(torch.split(real_MD, rows), torch.split(real.radii, rows), strict=True):
        distances = torch.cdist(part, fake_ND)
        recalled.append((distances <= fake_radii).any(dim=1))
        precise_N |= (distances <= radii[:, None]).any(dim=0)
    return precise_N.double().mean(), torch.cat(recalled).double().mean()
