"""Statistics of a handful of numbers against scipy, tables, enumeration and simulation."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from gan_mhe.comparison.inference import (
    bootstrap_interval,
    holm,
    mean,
    minimum_detectable_effect,
    paired_t,
    rank_stability,
    sign_flip,
    std,
    t_interval,
)
from gan_mhe.errors import ConfigError

NUMBER = st.floats(-100.0, 100.0).map(lambda value: round(value, 3))
VALUES = st.lists(NUMBER, min_size=3, max_size=8)
P_VALUES = st.lists(st.none() | st.floats(0.0, 1.0), max_size=8)
BROKEN = [math.nan, math.inf, -math.inf]
quickly = settings(deadline=None, derandomize=True, max_examples=50)


def four_errors(share: float, trials: int) -> float:
    """Four standard errors of a proportion."""
    return 4 * math.sqrt(share * (1 - share) / trials)


# --- intervals


def test_the_t_interval_of_a_textbook_example() -> None:
    # t(0.975, 4) = 2.776445 and s = sqrt(2.5): 3 +- 2.776445 * sqrt(2.5 / 5).
    assert t_interval([1.0, 2.0, 3.0, 4.0, 5.0]) == pytest.approx((1.0367568, 4.9632432), abs=1e-6)


def test_the_t_interval_of_two_values_takes_the_quantile_of_the_table() -> None:
    # t(0.975, 1) = 12.7062; the standard error of 1 and 3 is 1.
    assert t_interval([1.0, 3.0]) == pytest.approx((2 - 12.7062, 2 + 12.7062), abs=1e-4)


@pytest.mark.parametrize("n", [2, 3, 5])
def test_the_t_interval_holds_the_true_mean_95_times_in_100(n: int) -> None:
    draws = np.random.default_rng(n).normal(7.0, 0.5, size=(2000, n)).tolist()
    held = [low < 7.0 < high for low, high in map(t_interval, draws) if low is not None and high is not None]
    assert np.mean(held) == pytest.approx(0.95, abs=four_errors(0.95, 2000))


@pytest.mark.parametrize(("n", "told"), [(3, 0.73), (5, 0.84)])
def test_the_bootstrap_interval_holds_the_true_mean_as_often_as_it_says(n: int, told: float) -> None:
    draws = np.random.default_rng(n).normal(7.0, 0.5, size=(400, n)).tolist()
    held = [low < 7.0 < high for low, high in map(bootstrap_interval, draws) if low is not None and high is not None]
    assert np.mean(held) == pytest.approx(told, abs=four_errors(told, 400))


def test_the_bootstrap_interval_is_efrons_by_hand() -> None:
    values = np.array([1.0, 1.2, 1.1, 3.0, 1.4])
    every = np.array([np.mean(drawn) for drawn in itertools.product(values, repeat=5)])  # all 5^5 resamples
    centre = values.mean()
    bias = stats.norm.ppf((np.mean(every < centre) + np.mean(every <= centre)) / 2)
    jackknife = np.array([np.delete(values, at).mean() for at in range(5)])
    pulls = jackknife.mean() - jackknife
    skew = (pulls**3).sum() / (6 * (pulls**2).sum() ** 1.5)
    levels = [stats.norm.cdf(bias + (bias + z) / (1 - skew * (bias + z))) for z in stats.norm.ppf([0.025, 0.975])]
    # The quantiles of 10,000 random resamples scatter.
    assert bootstrap_interval(values.tolist()) == pytest.approx(tuple(np.quantile(every, levels)), abs=0.05)


def test_the_bootstrap_interval_follows_skewness() -> None:
    values = [0.0, 0.1, 0.0, 0.2, 0.1, 4.0]
    low, high = bootstrap_interval(values)
    assert low is not None and high is not None
    assert high - mean(values) > 1.5 * (mean(values) - low)


def test_equal_input_gives_equal_bootstrap_intervals() -> None:
    assert bootstrap_interval([1.0, 2.0, 4.0]) == bootstrap_interval([1.0, 2.0, 4.0])


@quickly
@given(VALUES)
def test_intervals_hold_the_mean(values: list[float]) -> None:
    for low, high in (t_interval(values), bootstrap_interval(values)):
        assert low is not None and high is not None
        assert low - 1e-9 <= np.mean(values) <= high + 1e-9


@quickly
@given(VALUES, NUMBER, st.floats(0.1, 10.0))
def test_intervals_move_and_stretch_with_the_values(values: list[float], shift: float, factor: float) -> None:
    moved = [shift + factor * value for value in values]
    for interval in (t_interval, bootstrap_interval):
        expected = [shift + factor * bound for bound in interval(values) if bound is not None]
        assert interval(moved) == pytest.approx(tuple(expected), abs=1e-6)


@pytest.mark.parametrize("spread", [0.0, 1e-200, 1e-12])
def test_intervals_of_values_that_hardly_differ_are_hardly_wide(spread: float) -> None:
    for low, high in (t_interval([0.0, 0.0, spread]), bootstrap_interval([0.0, 0.0, spread])):
        assert low is not None and high is not None
        assert -5 * spread <= low <= high <= 5 * spread


def test_too_few_values_have_no_interval() -> None:
    assert t_interval([]) == t_interval([7.0]) == (None, None)
    assert bootstrap_interval([]) == bootstrap_interval([7.0, 8.0]) == (None, None)


# --- tests


@quickly
@given(VALUES)
def test_paired_t_is_scipys(differences: list[float]) -> None:
    assume(np.ptp(differences) > 0)
    base = np.linspace(1.0, 2.0, len(differences))
    expected = stats.ttest_rel(base + differences, base).pvalue
    assert paired_t(differences) == pytest.approx(expected, rel=1e-6)


def test_paired_t_at_the_tables_quantile_is_at_its_level() -> None:
    # Mean 1 and standard error 1 / 2.776445, the 97.5 % quantile with 4 degrees of freedom.
    spread = math.sqrt(5) / 2.776445
    unit = np.array([-2.0, -1.0, 0.0, 1.0, 2.0]) / math.sqrt(2.5)
    assert paired_t((1 + spread * unit).tolist()) == pytest.approx(0.05, abs=1e-6)


@pytest.mark.parametrize(("differences", "p"), [([0.5] * 3, 0.0), ([-0.5] * 3, 0.0), ([0.0] * 3, 1.0)])
def test_paired_t_of_equal_differences_is_certain(differences: list[float], p: float) -> None:
    assert paired_t(differences) == p


@quickly
@given(st.lists(NUMBER, min_size=2, max_size=8))
def test_sign_flip_counts_every_pattern_of_signs(differences: list[float]) -> None:
    patterns = itertools.product((1, -1), repeat=len(differences))
    means = np.array([math.fsum(s * d for s, d in zip(signs, differences, strict=True)) for signs in patterns])
    assert sign_flip(differences) == np.mean(np.abs(means) >= abs(math.fsum(differences)) - 1e-9)


def test_sign_flip_is_scipys_permutation_test() -> None:
    differences = np.random.default_rng(1).normal(0.4, 1.0, size=10)
    expected = stats.permutation_test((differences,), np.mean, permutation_type="samples", n_resamples=np.inf).pvalue
    assert sign_flip(differences.tolist()) == pytest.approx(expected)


@pytest.mark.parametrize(("n", "least"), [(2, 0.5), (5, 0.0625), (6, 0.03125), (20, 2 / 2**20)])
def test_sign_flip_of_differences_of_one_sign_is_two_patterns_of_all(n: int, least: float) -> None:
    assert sign_flip([1.0 + 0.1 * i for i in range(n)]) == least


@quickly
@given(st.lists(NUMBER, min_size=2, max_size=25))
def test_sign_flip_does_not_depend_on_the_sign_of_all(differences: list[float]) -> None:
    assert sign_flip(differences) == sign_flip([-difference for difference in differences])


def test_sign_flip_counts_ties_that_rounding_would_hide() -> None:
    # 0.1 + 0.2 - 0.3 is not 0 in binary: all eight patterns are at least as large as 0.
    assert sign_flip([0.1, 0.2, -0.3]) == 1.0


def test_sign_flip_of_many_differences_is_close_to_the_t_test_and_never_zero() -> None:
    differences = np.random.default_rng(2).normal(0.25, 1.0, size=60).tolist()
    p = stats.ttest_1samp(differences, 0.0).pvalue
    assert sign_flip(differences) == sign_flip(differences) == pytest.approx(p, abs=0.01)
    assert sign_flip([1.0] * 60) == pytest.approx(1 / 10_001)


@pytest.mark.parametrize("test", [paired_t, sign_flip])
@pytest.mark.parametrize("broken", BROKEN)
def test_fewer_than_two_differences_and_broken_ones_test_nothing(test: object, broken: float) -> None:
    assert callable(test)
    assert test([]) is None and test([0.5]) is None
    assert math.isnan(test([0.5, broken, 0.7]))


# --- several tests


def test_holm_of_an_example_by_hand() -> None:
    # Sorted 0.01, 0.02, 0.03, 0.04, times 4, 3, 2, 1: 0.04, 0.06, 0.06, 0.04, which is raised to 0.06.
    assert holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])


def test_holm_of_one_test_changes_nothing() -> None:
    assert holm([0.2]) == [0.2]


def test_holm_does_not_count_what_was_not_tested_and_counts_what_broke_down() -> None:
    assert holm([None, 0.01, None, 0.03]) == pytest.approx([None, 0.02, None, 0.03])
    adjusted = holm([math.nan, 0.01, 0.03])
    assert repr(adjusted[0]) == "nan" and adjusted[1:] == pytest.approx([0.03, 0.06])


@quickly
@given(P_VALUES)
def test_holm_keeps_the_order_and_never_lowers_a_p(p_values: list[float | None]) -> None:
    adjusted = holm(p_values)
    assert [p is None for p in adjusted] == [p is None for p in p_values]
    made = [(raw, new) for raw, new in zip(p_values, adjusted, strict=True) if raw is not None and new is not None]
    assert all(raw <= new <= 1 for raw, new in made)
    assert [new for _, new in sorted(made)] == sorted(new for _, new in made)
    # Nor raises it beyond Bonferroni's.
    assert all(new <= min(1.0, len(made) * raw) for raw, new in made)


# --- power


# By integrating the noncentral t density numerically, to four digits as printed in tables of sample size.
@pytest.mark.parametrize(("n", "power", "effect"), [(5, 0.8, 1.6820), (10, 0.8, 0.9960), (34, 0.8, 0.4951)])
def test_the_detectable_effect_is_that_of_the_tables(n: int, power: float, effect: float) -> None:
    assert minimum_detectable_effect(1.0, n, power=power) == pytest.approx(effect, abs=1e-4)


@pytest.mark.parametrize(("n", "power", "alpha"), [(2, 0.8, 0.05), (3, 0.5, 0.1), (5, 0.8, 0.05), (20, 0.95, 0.01)])
def test_a_true_difference_of_the_detectable_size_is_found_as_often_as_claimed(
    n: int, power: float, alpha: float
) -> None:
    effect = minimum_detectable_effect(2.0, n, power=power, alpha=alpha)
    assert effect is not None
    draws = np.random.default_rng(n).normal(effect, 2.0, size=(4000, n))
    found = np.mean(stats.ttest_1samp(draws, 0.0, axis=1).pvalue < alpha)
    assert found == pytest.approx(power, abs=four_errors(power, 4000))


def test_weak_power_counts_both_tails() -> None:
    # At effects near zero the wrong tail matters: the power of noncentrality 0.3 with 2 degrees of freedom.
    nct, critical = stats.nct(2, 0.3), stats.t(2).ppf(0.975)
    power = float(nct.sf(critical) + nct.cdf(-critical))
    assert minimum_detectable_effect(1.0, 3, power=power) == pytest.approx(0.3 / math.sqrt(3), rel=1e-6)


def test_the_detectable_effect_grows_with_the_spread_and_falls_with_the_pairs() -> None:
    effects = [minimum_detectable_effect(1.0, n) for n in range(2, 30)]
    assert effects == sorted(effects, key=lambda effect: -(effect or 0))
    assert minimum_detectable_effect(3.0, 5) == pytest.approx(3 * (minimum_detectable_effect(1.0, 5) or 0))
    assert minimum_detectable_effect(0.0, 5) == 0


def test_one_pair_detects_nothing_and_a_broken_spread_is_not_a_number() -> None:
    assert minimum_detectable_effect(1.0, 1) is None
    assert repr(minimum_detectable_effect(math.nan, 5)) == "nan"


@pytest.mark.parametrize(("power", "alpha"), [(0.05, 0.05), (1.0, 0.05), (0.8, 0.0), (0.8, 0.9)])
def test_impossible_powers_and_levels_are_refused(power: float, alpha: float) -> None:
    with pytest.raises(ConfigError, match=f"expected 0 < alpha < power < 1; got alpha {alpha:g} and power {power:g}"):
        minimum_detectable_effect(1.0, 5, power=power, alpha=alpha)


# --- ranks


def test_mean_ranks_are_scipys() -> None:
    table = np.random.default_rng(3).integers(0, 4, size=(5, 7)).astype(float)  # with ties
    scores = {str(place): row.tolist() for place, row in enumerate(table)}
    for higher, sign in ((True, -1), (False, 1)):
        expected = stats.rankdata(sign * table, axis=0).mean(axis=1)
        found = [standing.mean_rank for standing in rank_stability(scores, higher_is_better=higher).values()]
        assert found == pytest.approx(expected)


def test_the_share_of_first_places_is_that_of_all_resamples() -> None:
    scores = {"a": [3.0, 1.0, 1.0, 2.0], "b": [1.0, 2.5, 2.0, 1.0], "c": [1.0, 1.0, 1.0, 4.0]}
    table = np.array([*scores.values()])
    drawn = np.array([*itertools.product(range(4), repeat=4)])
    sums = table[:, drawn].sum(axis=-1)
    first = sums == sums.max(axis=0)
    expected = (first / first.sum(axis=0)).mean(axis=1)
    found = rank_stability(scores, higher_is_better=True)
    assert [found[name].first_share for name in scores] == pytest.approx(expected, abs=four_errors(0.5, 10_000))
    assert sum(standing.first_share for standing in found.values()) == pytest.approx(1)


@pytest.mark.parametrize("other", [[0.1, 0.2, 0.3], [0.3, 0.2, 0.1]])
def test_equal_variants_share_the_first_place(other: list[float]) -> None:
    found = rank_stability({"a": [0.1, 0.2, 0.3], "b": other}, higher_is_better=True)
    assert [*found.values()] == [pytest.approx((1.5, 0.5), abs=four_errors(0.5, 10_000))] * 2


@quickly
@given(st.lists(st.tuples(NUMBER, NUMBER, NUMBER), min_size=2, max_size=6))
def test_ranks_add_up_and_turn_around_with_the_direction(table: list[tuple[float, float, float]]) -> None:
    scores = dict(zip("abc", map(list, zip(*table, strict=True)), strict=True))
    up, down = (rank_stability(scores, higher_is_better=higher) for higher in (True, False))
    assert sum(standing.mean_rank for standing in up.values()) == pytest.approx(6)
    assert [up[name].mean_rank + down[name].mean_rank for name in scores] == pytest.approx([4, 4, 4])


@pytest.mark.parametrize("broken", BROKEN)
@pytest.mark.parametrize("higher", [True, False])
def test_a_variant_with_a_broken_seed_is_behind_all_others_and_has_no_rank(broken: float, higher: bool) -> None:
    scores = {"broken": [broken, 5.0, 5.0], "a": [1.0, 1.0, 1.0], "b": [2.0, 2.0, 2.0]}
    found = rank_stability(scores, higher_is_better=higher)
    assert repr(tuple(found["broken"])) == "(nan, nan)"
    best, other = ("b", "a") if higher else ("a", "b")
    assert (found[best], found[other]) == ((1.0, 1.0), (2.0, 0.0))


def test_a_single_variant_or_seed_is_no_ranking() -> None:
    for scores in ({}, {"a": [1.0, 2.0]}, {"a": [1.0], "b": [2.0]}, {"a": [], "b": []}):
        assert rank_stability(scores, higher_is_better=True) == {}


def test_only_broken_variants_have_no_ranks() -> None:
    found = rank_stability({"a": [math.nan, 1.0], "b": [1.0, math.inf]}, higher_is_better=True)
    assert repr([tuple(standing) for standing in found.values()]) == "[(nan, nan), (nan, nan)]"


def test_variants_with_unequal_numbers_of_scores_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected equally many for every variant, got \[1, 2\]"):
        rank_stability({"a": [1.0, 2.0], "b": [1.0]}, higher_is_better=True)


# --- seeds that broke down


@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_seed_is_never_averaged_away(broken: float) -> None:
    values = [1.0, broken, 2.0, 3.0]
    assert math.isnan(mean(values)) and math.isnan(std(values))
    assert repr((*t_interval(values), *bootstrap_interval(values))) == "(nan, nan, nan, nan)"
