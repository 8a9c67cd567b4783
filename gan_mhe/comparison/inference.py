"""Statistics of few training seeds: intervals, paired tests, power, and the stability of a ranking.

Functions of plain numbers, one per training seed. Everything computed from a non-finite value, which belongs to a
failed seed, is NaN. Random draws are the same in every call. Loads no torch; scipy.stats takes most of a second to load
and is imported by the first bootstrap interval.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ncfdtr, stdtr, stdtrit

from gan_mhe.errors import ConfigError

CONFIDENCE = 0.95
ALPHA = 1 - CONFIDENCE
POWER = 0.8

Interval = tuple[float | None, float | None]

_RESAMPLES = 10_000
_EXACT_FLIPS_UP_TO = 20  # 2^19 sums by symmetry: 4 MB and a few milliseconds
_TIES = 1e-12  # relative; sums of the same numbers in another order differ by less


class Standing(NamedTuple):
    """How a variant ranks."""

    mean_rank: float
    """Mean over seeds; 1 is the best, and ties share their ranks."""
    first_share: float
    """Share of the resamples in which the variant has the best mean."""


def mean(values: Sequence[float]) -> float:
    """Mean of one or more values."""
    return statistics.fmean(values) if _finite(values) else math.nan


def std(values: Sequence[float]) -> float:
    """Sample standard deviation (n - 1) of two or more values."""
    return statistics.stdev(values) if _finite(values) else math.nan


def t_interval(values: Sequence[float]) -> Interval:
    """The 95 % t-interval of the mean; (None, None) for fewer than two values.

    For normal values it covers the true mean with probability 0.95 at any n.
    """
    if len(values) < 2:
        return None, None
    half = stdtrit(len(values) - 1, (1 + CONFIDENCE) / 2) * std(values) / len(values) ** 0.5
    return float(mean(values) - half), float(mean(values) + half)


def bootstrap_interval(values: Sequence[float]) -> Interval:
    """The 95 % BCa bootstrap interval of the mean (Efron 1987); (None, None) for fewer than three values.

    It adapts to skewness, which the t-interval does not, but is too narrow for few values: for normal values it covers
    the true mean in 73 % of cases at n = 3, 84 % at n = 5, 89 % at n = 10 and 92 % at n = 20. Read it together with the
    t-interval, not instead of it.
    """
    if len(values) < 3:
        return None, None
    centre, scale = mean(values), std(values)
    if math.isnan(centre) or scale == 0:
        return centre, centre
    from scipy.stats import bootstrap

    # Standardized, because BCa is dominated by rounding errors if the spread is tiny compared to the mean.
    standard = [(value - centre) / scale for value in values]
    found = bootstrap(
        (standard,), _rounded_mean, confidence_level=CONFIDENCE, n_resamples=_RESAMPLES, method="BCa", rng=_generator()
    ).confidence_interval
    return float(centre + scale * found.low), float(centre + scale * found.high)


def _rounded_mean(values: NDArray[Any], axis: int) -> NDArray[Any]:
    """The mean, rounded: BCa counts the resamples below the mean, and with few values many equal it up to rounding."""
    return np.asarray(values.mean(axis=axis)).round(9)


def paired_t(differences: Sequence[float]) -> float | None:
    """Two-sided p-value of the paired t-test for a zero mean difference; None for fewer than two differences.

    It is 0 if all differences are equal, and 1 if they are zero. A rank test (Wilcoxon) would add nothing to
    `sign_flip`: both count sign patterns, and at n = 5 neither can go below 2/32 = 0.0625.
    """
    if len(differences) < 2:
        return None
    centre, scale = mean(differences), std(differences)
    if scale == 0:
        return 1.0 if centre == 0 else 0.0
    return float(2 * stdtr(len(differences) - 1, -abs(centre) / (scale / len(differences) ** 0.5)))


def sign_flip(differences: Sequence[float]) -> float | None:
    """Two-sided p-value of the sign-flip permutation test over all 2^n patterns; None for fewer than two differences.

    Exact if the differences are symmetric about zero under the null hypothesis, normal or not. It cannot go below
    2/2^n: 0.0625 at n = 5, 0.03125 at n = 6. Above n = 20 it uses 10,000 random patterns besides the observed one.
    """
    if len(differences) < 2:
        return None
    if not _finite(differences):
        return math.nan
    values = np.asarray(differences, dtype=np.float64)
    least = abs(values.sum()) - _TIES * np.abs(values).sum()
    if len(values) > _EXACT_FLIPS_UP_TO:
        signs = 2 * _generator().integers(0, 2, size=(_RESAMPLES, len(values)), dtype=np.int8) - 1
        return float((np.count_nonzero(np.abs(signs @ values) >= least) + 1) / (_RESAMPLES + 1))
    sums = values[:1]  # the first keeps its sign, because opposite patterns have equal absolute sums
    for value in values[1:]:
        sums = np.concatenate([sums + value, sums - value])
    return float(np.mean(np.abs(sums) >= least))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """p-values adjusted for multiple tests (Holm 1979), in the given order: max over j <= i of (m - j + 1) p_(j).

    Adjusted values are compared with the unadjusted level. None means no test and does not count in m; NaN is a test
    that failed, counts, and stays NaN.
    """
    ordered = sorted((p, index) for index, p in enumerate(p_values) if p is not None and not math.isnan(p))
    tests = sum(p is not None for p in p_values)
    adjusted, largest = list(p_values), 0.0
    for rank, (p, index) in enumerate(ordered):
        largest = max(largest, min(1.0, (tests - rank) * p))
        adjusted[index] = largest
    return adjusted


def minimum_detectable_effect(std: float, n: int, *, power: float = POWER, alpha: float = ALPHA) -> float | None:
    """The true mean difference that a two-sided paired t-test at level `alpha` detects with probability `power`.

    std: standard deviation of the differences. It is usually estimated from the same n pairs and is then uncertain: at
    n = 5 the true value lies between 0.6 and 2.9 times the estimate. n: number of pairs; the effect is None for fewer
    than two.

    The effect is std * nc / sqrt(n), where |T| of the noncentral t distribution with n - 1 degrees of freedom and
    noncentrality nc exceeds the critical value with probability `power`. T^2 has the noncentral F(1, n - 1, nc^2)
    distribution, whose one tail covers both tails of T. ConfigError unless 0 < alpha < power < 1.
    """
    if not 0 < alpha < power < 1:
        raise ConfigError(f"expected 0 < alpha < power < 1; got alpha {alpha:g} and power {power:g}")
    if n < 2:
        return None
    from scipy.optimize import brentq

    critical = stdtrit(n - 1, 1 - alpha / 2) ** 2

    def missed(noncentrality: float) -> float:
        return float(ncfdtr(1, n - 1, noncentrality**2, critical)) - (1 - power)

    above = 1.0
    while missed(above) > 0:
        above *= 2
    return float(std * brentq(missed, 0.0, above, xtol=1e-12) / n**0.5)


def rank_stability(scores: Mapping[str, Sequence[float]], *, higher_is_better: bool) -> dict[str, Standing]:
    """The rank of each variant, and how much it depends on the seeds; empty for fewer than two variants or seeds.

    scores: by variant, one per seed, for the same seeds in the same order. The share of first ranks is over 10,000
    resamples of the seeds; ties are split. A variant with a non-finite score ranks behind all others and gets NaN.
    ValueError if the variants have different numbers of scores.
    """
    seeds = {len(row) for row in scores.values()}
    if len(seeds) > 1:
        raise ValueError(f"scores: expected equally many for every variant, got {sorted(seeds)}")
    if len(scores) < 2 or max(seeds) < 2:
        return {}
    finite = [name for name, row in scores.items() if _finite(row)]
    standings = dict.fromkeys(scores, Standing(math.nan, math.nan))
    if finite:
        table = np.array([scores[name] for name in finite], dtype=np.float64) * (1 if higher_is_better else -1)
        found = zip(_mean_ranks(table), _first_shares(table), strict=True)
        standings |= {name: Standing(*numbers) for name, numbers in zip(finite, found, strict=True)}
    return standings


def _mean_ranks(table: NDArray[Any]) -> list[float]:
    """Mean rank of each row over the columns; the largest value of a column has rank 1."""
    better = (table[None] > table[:, None]).sum(axis=1)
    equal = (table[None] == table[:, None]).sum(axis=1)
    ranks: list[float] = (better + (equal + 1) / 2).mean(axis=1).tolist()
    return ranks


def _first_shares(table: NDArray[Any]) -> list[float]:
    """Share of the resamples of the columns in which each row has the largest sum."""
    count = table.shape[1]
    drawn = _generator().multinomial(count, np.full(count, 1 / count), size=_RESAMPLES)
    sums = table @ drawn.T
    first = sums >= sums.max(axis=0) - _TIES * count * np.abs(table).max()
    shares: list[float] = (first / first.sum(axis=0)).mean(axis=1).tolist()
    return shares


def _finite(values: Sequence[float]) -> bool:
    return all(map(math.isfinite, values))


def _generator() -> np.random.Generator:
    return np.random.default_rng(0)
