"""The comparison says what the seeds say: no more, no less, and never across protocols."""

import csv
import dataclasses
import io
import json
import math
import re
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from gan_mhe.comparison.compare import compare, find_runs, read_score, score_of
from gan_mhe.comparison.inference import bootstrap_interval
from gan_mhe.comparison.results import Comparison, Row, RunScore, View
from gan_mhe.comparison.table import HEADINGS, as_csv, as_json, as_markdown, as_rows, footnote, headings, table_cells
from gan_mhe.config.compose import parse
from gan_mhe.errors import ConfigError, ProtocolMismatchError, RunDirError
from gan_mhe.evaluation.metrics import METRICS
from gan_mhe.files import write_json
from gan_mhe.records.events import decode_number
from gan_mhe.records.inputs import Inputs
from gan_mhe.records.run_dir import RunDir
from tests.support.looped import looped

SCORES = st.lists(st.floats(0.5, 100.0), min_size=2, max_size=8)
OTHER = dict.fromkeys(METRICS, "0" * 64)
PINNED_KEYS = {"variant", "n", "mean", "std", "ci_low", "ci_high", "best_mean", "protocol", "jobs"}


def scored(variant: str, seed: int, score: float, rescored: float | None = None, **changes: Any) -> RunScore:
    values: dict[str, Any] = {
        "job": f"runs/{variant}/seed_{seed}",
        "variant": variant,
        "seed": seed,
        "digest_without_seed": f"digest of {variant}",
        "comparable_digest": "comparable",
        "status": "completed",
        "protocol": "digits-v1",
        "fingerprints": dict.fromkeys(METRICS, "f" * 64),
        "metric": "inception_score",
        "evaluations": 4,
        "final": dict.fromkeys(METRICS, score) | {"inception_score_split_std": 0.01 * (seed + 1)},  # no two seeds agree
        "best": dict.fromkeys(METRICS, score if rescored is None else rescored),
        "real": dict.fromkeys(METRICS, 9.71),
    }
    return RunScore(**values | changes)


def unscored(variant: str, seed: int, status: str = "diverged") -> RunScore:
    nothing: dict[str, Any] = dict.fromkeys(("protocol", "final", "best", "real"))
    return scored(variant, seed, 0.0, status=status, evaluations=0, fingerprints={}, **nothing)


def of_scores(scores: Mapping[str, list[float]], metric: str = "inception_score") -> dict[str, Row]:
    runs = [scored(variant, seed, score) for variant, row in scores.items() for seed, score in enumerate(row)]
    return {row.variant: row for row in compare(runs, metric=metric).rows}


class TestNumbers:
    @settings(deadline=None, derandomize=True, max_examples=50)
    @given(SCORES)
    def test_mean_and_deviation_are_numpys(self, scores: list[float]) -> None:
        row = of_scores({"mhe": scores})["mhe"]
        assert row.n == len(scores)
        assert row.mean == pytest.approx(np.mean(scores), rel=1e-12)
        assert row.std == pytest.approx(np.std(scores, ddof=1), rel=1e-9, abs=1e-12)

    @settings(deadline=None, derandomize=True, max_examples=50)
    @given(SCORES)
    def test_the_interval_is_scipys(self, scores: list[float]) -> None:
        row = of_scores({"mhe": scores})["mhe"]
        if np.ptp(scores) == 0:
            assert (row.ci_low, row.ci_high) == (None, None)
            return
        expected = stats.t.interval(0.95, len(scores) - 1, loc=np.mean(scores), scale=stats.sem(scores))
        assert (row.ci_low, row.ci_high) == pytest.approx(expected, rel=1e-9, abs=1e-9)

    def test_one_seed_has_a_mean_but_no_spread(self) -> None:
        row = of_scores({"mhe": [7.5]})["mhe"]
        assert (row.n, row.mean) == (1, 7.5)
        assert (row.std, row.ci_low, row.ci_high) == (None, None, None)

    def test_the_bootstrap_interval_stands_beside_the_t_interval(self) -> None:
        rows = of_scores({"mhe": [7.0, 7.5, 8.5], "none": [6.0, 7.0]})
        assert (rows["mhe"].boot_low, rows["mhe"].boot_high) == bootstrap_interval([7.0, 7.5, 8.5])
        assert (rows["none"].boot_low, rows["none"].boot_high) == (None, None)

    def test_equal_seeds_have_no_interval(self) -> None:
        row = of_scores({"mhe": [7.5, 7.5, 7.5]})["mhe"]
        assert (row.std, row.ci_low, row.ci_high, row.boot_low, row.boot_high) == (0.0, None, None, None, None)

    def test_final_and_best_stand_side_by_side(self) -> None:
        row = compare([scored("mhe", 0, 6.0, rescored=7.0), scored("mhe", 1, 7.0, rescored=7.5)]).rows[0]
        assert (row.mean, row.best_mean) == (6.5, 7.25)

    def test_a_best_that_was_not_kept_is_absent(self) -> None:
        assert compare([scored("mhe", 0, 6.0, best=None)]).rows[0].best_mean is None

    def test_the_metric_that_is_asked_for_is_compared(self) -> None:
        run = scored(
            "mhe", 0, 0.0, final={"inception_score": 7.0, "fid": 33.0}, best=None, real={"inception_score": 9.0}
        )
        comparison = compare([run], metric="fid")
        assert (comparison.metric, comparison.rows[0].mean, comparison.real) == ("fid", 33.0, None)


def against(reference: str, scores: Mapping[str, Mapping[int, float]], metric: str = "inception_score") -> Comparison:
    """The comparison of final scores by variant and seed, with differences to `reference`."""
    runs = [scored(variant, seed, score) for variant, row in scores.items() for seed, score in row.items()]
    return compare(runs, metric=metric, reference=reference)


def difference(comparison: Comparison, variant: str) -> tuple[float | None, float | None, float | None, int | None]:
    row = next(row for row in comparison.rows if row.variant == variant)
    return row.difference, row.difference_low, row.difference_high, row.pairs


PAIRED = st.lists(st.tuples(st.floats(0.5, 100.0), st.floats(0.5, 100.0)), min_size=2, max_size=8)
NOTHING = (None, None, None, None)


class TestDifferences:
    @settings(deadline=None, derandomize=True, max_examples=50)
    @given(PAIRED)
    def test_a_difference_and_its_interval_are_scipys_paired_t_test(self, pairs: list[tuple[float, float]]) -> None:
        ours, base = np.array(pairs).T
        mean, low, high, count = difference(
            against("none", {"none": dict(enumerate(base)), "mhe": dict(enumerate(ours))}), "mhe"
        )
        assert (mean, count) == (pytest.approx(np.mean(ours) - np.mean(base), rel=1e-9, abs=1e-9), len(pairs))
        if np.ptp(ours - base) == 0:
            assert (low, high) == (None, None)
            return
        expected = stats.ttest_rel(ours, base).confidence_interval(0.95)
        assert (low, high) == pytest.approx((expected.low, expected.high), rel=1e-9, abs=1e-9)

    def test_seeds_are_paired_by_number_not_by_order(self) -> None:
        comparison = against("none", {"none": {0: 1.0, 1: 2.0, 2: 3.0}, "mhe": {2: 3.5, 0: 1.5, 1: 2.5}})
        assert difference(comparison, "mhe") == (0.5, None, None, 3)

    def test_a_seed_that_only_one_of_the_two_has_does_not_count(self) -> None:
        comparison = against("none", {"none": {0: 1.0, 1: 2.0, 7: 50.0}, "mhe": {0: 2.0, 1: 4.0, 9: 90.0}})
        mean, low, high, pairs = difference(comparison, "mhe")
        assert (mean, pairs) == (1.5, 2)
        assert (low, high) == pytest.approx(stats.t.interval(0.95, 1, loc=1.5, scale=0.5))

    def test_a_run_without_final_score_makes_no_pair(self) -> None:
        runs = [scored("none", 0, 1.0), scored("none", 1, 2.0), scored("mhe", 0, 2.0), unscored("mhe", 1)]
        assert difference(compare(runs, reference="none"), "mhe") == (1.0, None, None, 1)
        runs = [scored("none", 0, 1.0), unscored("none", 1), scored("mhe", 0, 2.0), scored("mhe", 1, 9.0)]
        assert difference(compare(runs, reference="none"), "mhe") == (1.0, None, None, 1)

    def test_without_common_seed_there_is_no_difference(self) -> None:
        assert difference(against("none", {"none": {0: 1.0}, "mhe": {1: 2.0}}), "mhe") == (None, None, None, 0)

    def test_the_reference_itself_has_none(self) -> None:
        comparison = against("none", {"none": {0: 1.0, 1: 2.0}, "mhe": {0: 2.0, 1: 3.0}})
        assert comparison.reference == "none"
        assert difference(comparison, "none") == NOTHING

    def test_without_reference_no_row_has_one(self) -> None:
        comparison = compare([scored("none", 0, 1.0), scored("mhe", 0, 2.0)])
        assert comparison.reference is None
        assert [difference(comparison, row.variant) for row in comparison.rows] == [NOTHING, NOTHING]

    @pytest.mark.parametrize("metric", METRICS)
    def test_the_sign_is_the_variants_minus_the_references_for_every_metric(self, metric: str) -> None:
        comparison = against("none", {"none": {0: 30.0}, "mhe": {0: 20.0}, "mhe_sn": {0: 45.0}}, metric)
        assert [difference(comparison, variant)[0] for variant in ("mhe", "mhe_sn")] == [-10.0, 15.0]

    @pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
    def test_a_seed_that_broke_down_makes_no_pair(self, broken: float) -> None:
        whole, torn = {0: 1.0, 1: 2.0}, {0: broken, 1: 2.0}
        for base, ours in ((whole, torn), (torn, whole), (torn, torn)):
            mean, low, high, pairs = difference(against("none", {"none": base, "mhe": ours}), "mhe")
            assert (mean, low, high, pairs) == (0.0, None, None, 1)

    def test_what_seeds_share_cancels(self) -> None:
        shared, gains = (5.0, 6.0, 7.0, 8.0), (0.30, 0.31, 0.29, 0.30)
        ours = {seed: score + gain for seed, (score, gain) in enumerate(zip(shared, gains, strict=True))}
        comparison = against("none", {"none": dict(enumerate(shared)), "mhe": ours})
        mean, low, high, _ = difference(comparison, "mhe")
        row = comparison.rows[0]
        assert mean is not None and low is not None and high is not None and row.ci_low and row.ci_high
        assert mean == pytest.approx(statistics.fmean(gains))
        assert high - low < 0.03 < 1.0 < row.ci_high - row.ci_low

    def test_a_reference_that_is_not_compared_names_the_nearest(self) -> None:
        with pytest.raises(
            ConfigError, match="reference 'nome' is not among the compared variants; did you mean 'none'"
        ):
            compare([scored("mhe", 0, 7.0), scored("none", 0, 7.0)], reference="nome")

    def test_the_order_of_rows_does_not_depend_on_the_reference(self) -> None:
        scores = {"none": {0: 1.0}, "mhe": {0: 3.0}, "mhe_sn": {0: 2.0}}
        orders = {tuple(row.variant for row in against(name, scores).rows) for name in scores}
        assert orders == {("mhe", "mhe_sn", "none")}


def the_tests(row: Row) -> tuple[float | None, float | None, float | None, float | None]:
    return row.p_value, row.p_holm, row.p_permutation, row.minimum_detectable_effect


class TestTests:
    """Of differences to a reference."""

    BASE: ClassVar = {0: 7.0, 1: 7.4, 2: 6.8, 3: 7.1, 4: 6.9}
    MHE: ClassVar = {0: 7.3, 1: 7.5, 2: 7.3, 3: 7.2, 4: 7.2}
    HALF: ClassVar = {0: 7.2, 1: 7.2, 2: 7.2, 3: 7.2, 4: 7.2}

    def rows(self, **scores: Mapping[int, float]) -> dict[str, Row]:
        return {row.variant: row for row in against("none", {"none": self.BASE, **scores}).rows}

    def test_p_is_scipys_paired_t_test(self) -> None:
        row = self.rows(mhe=self.MHE)["mhe"]
        assert row.p_value == pytest.approx(stats.ttest_rel([*self.MHE.values()], [*self.BASE.values()]).pvalue)

    def test_holm_adjusts_for_the_variants_that_were_tested(self) -> None:
        rows = self.rows(mhe=self.MHE, half_mhe=self.HALF, alone={9: 7.0}, single={0: 7.0})
        mhe, half = rows["mhe"], rows["half_mhe"]
        assert mhe.p_value is not None and half.p_value is not None and mhe.p_value < half.p_value
        assert (mhe.p_holm, half.p_holm) == (2 * mhe.p_value, max(half.p_value, 2 * mhe.p_value))

    def test_all_differences_of_one_sign_among_five_have_a_permutation_p_of_two_in_32(self) -> None:
        assert self.rows(mhe=self.MHE)["mhe"].p_permutation == 0.0625

    def test_the_detectable_difference_is_of_the_paired_differences(self) -> None:
        # The noncentral t with 4 degrees of freedom: 1.68200 standard deviations at n = 5.
        spread = statistics.stdev(self.MHE[seed] - self.BASE[seed] for seed in self.BASE)
        assert self.rows(mhe=self.MHE)["mhe"].minimum_detectable_effect == pytest.approx(1.681997 * spread, rel=1e-5)

    def test_equal_differences_have_no_detectable_effect_and_the_footnote_says_why(self) -> None:
        comparison = against("none", {"none": {0: 1.0, 1: 2.0, 2: 4.0}, "mhe": {0: 1.5, 1: 2.5, 2: 4.5}})
        row = next(row for row in comparison.rows if row.variant == "mhe")
        assert (row.difference, row.difference_low, row.minimum_detectable_effect) == (0.5, None, None)
        told = footnote(comparison)
        assert "No interval and no detectable difference for mhe: the difference to none is the same for all" in told
        assert "detects a true difference" not in told
        assert "+0.50, 3 pairs" in as_markdown(comparison)

    def test_equal_scores_have_no_interval_in_the_table_and_the_footnote_says_why(self) -> None:
        comparison = compare([scored("none", seed, 1.0) for seed in range(3)])
        assert "1.00 to 1.00" not in as_markdown(comparison)
        assert "No interval for none: all seeds have the same score" in footnote(comparison)

    def test_a_detectable_effect_too_small_to_print_is_printed_as_a_bound(self) -> None:
        comparison = against("none", {"none": {0: 1.0, 1: 2.0}, "mhe": {0: 1.5, 1: 2.5 + 1e-9}})
        assert "detects a true difference of <0.01 (mhe, n = 2)" in footnote(comparison)

    def test_nothing_is_tested_in_the_references_row_and_with_fewer_than_two_pairs(self) -> None:
        rows = self.rows(alone={9: 7.0}, single={0: 7.0})
        assert [the_tests(rows[name]) for name in ("none", "alone", "single")] == [NOTHING] * 3

    def test_without_reference_nothing_is_tested(self) -> None:
        assert the_tests(of_scores({"mhe": [7.0, 8.0], "none": [6.0, 7.0]})["mhe"]) == NOTHING

    def test_a_seed_that_broke_down_is_left_out_of_the_tests(self) -> None:
        others = {seed: score for seed, score in self.MHE.items() if seed != 3}
        assert the_tests(self.rows(mhe=self.MHE | {3: math.nan})["mhe"]) == the_tests(self.rows(mhe=others)["mhe"])


class TestCopies:
    FINAL: ClassVar = {"inception_score": 7.25, "fid": 31.5}

    def test_one_run_under_several_seeds_is_found_out(self) -> None:
        runs = [scored("mhe", seed, 0.0, final=self.FINAL) for seed in (0, 1)]
        with pytest.raises(ConfigError, match=r"mhe/seed_0 \(seed 0\) and runs/mhe/seed_1 \(seed 1\) .* copy"):
            compare(runs)

    def test_a_difference_in_the_last_digit_of_one_score_makes_two_trainings(self) -> None:
        other = self.FINAL | {"fid": math.nextafter(31.5, 32.0)}
        assert compare([scored("mhe", 0, 0.0, final=self.FINAL), scored("mhe", 1, 0.0, final=other)]).rows[0].n == 2

    def test_one_score_alone_may_be_equal(self) -> None:
        saturated = {"inception_score": 1.0}
        assert compare([scored("mhe", seed, 0.0, final=saturated, best=None) for seed in (0, 1)]).rows[0].n == 2

    def test_the_same_scores_at_other_steps_are_no_copy(self) -> None:
        curves = [((100, {"fid": 40.0}),), ((100, {"fid": 41.0}),)]
        runs = [scored("mhe", seed, 0.0, final=self.FINAL, curve=curve) for seed, curve in enumerate(curves)]
        assert compare(runs).rows[0].n == 2


class TestRanks:
    def test_ranks_are_taken_over_the_seeds_that_all_ranked_variants_have(self) -> None:
        scores = {"none": {0: 5.0, 1: 1.0, 2: 1.0, 3: 90.0}, "mhe": {0: 1.0, 1: 2.0, 2: 2.0}, "sn": {0: 0, 1: 0, 2: 0}}
        runs = [scored(name, seed, score) for name, row in scores.items() for seed, score in row.items()]
        comparison = compare([*runs, unscored("gan_gp", 0, "unfinished")])
        rows = {row.variant: row for row in comparison.rows}
        assert comparison.ranked_seeds == 3
        assert [rows[name].mean_rank for name in scores] == pytest.approx([5 / 3, 4 / 3, 3.0])
        assert (rows["gan_gp"].mean_rank, rows["gan_gp"].first_share) == (None, None)
        # none has the better mean unless seed 0 is not drawn: (2/3)^3; drawn once it is 7 to 5.
        shares = [rows[name].first_share for name in scores]
        assert shares == pytest.approx([19 / 27, 8 / 27, 0.0], abs=4 * math.sqrt(0.25 / 10_000))

    @pytest.mark.parametrize("metric", METRICS)
    def test_the_best_by_the_metrics_direction_ranks_first(self, metric: str) -> None:
        row = next(iter(of_scores({"a": [1.0, 2.0], "b": [3.0, 4.0]}, metric).values()))
        assert (row.mean_rank, row.first_share) == (1.0, 1.0)

    @pytest.mark.parametrize("scores", [{"mhe": {0: 7.0, 1: 7.5}}, {"mhe": {0: 7.0, 1: 8.0}, "none": {1: 7.0, 2: 7.0}}])
    def test_one_variant_or_one_common_seed_is_no_ranking(self, scores: Mapping[str, Mapping[int, float]]) -> None:
        comparison = against("mhe", scores)
        assert comparison.ranked_seeds == 0
        assert all((row.mean_rank, row.first_share) == (None, None) for row in comparison.rows)

    def test_a_variant_that_broke_down_on_a_seed_of_its_own_has_no_rank_and_costs_nobody_theirs(self) -> None:
        scores = {"torn": {0: 9.0, 1: 9.0, 2: math.nan}, "mhe": {0: 2.0, 1: 2.0}, "none": {0: 1.0, 1: 1.0}}
        rows = {row.variant: row for row in against("none", scores).rows}
        assert repr((rows["torn"].mean_rank, rows["torn"].first_share)) == "(nan, nan)"
        assert [(rows[name].mean_rank, rows[name].first_share) for name in ("mhe", "none")] == [(1.0, 1.0), (2.0, 0.0)]

    def test_a_variant_with_a_diverged_seed_stands_like_one_with_a_score_that_is_not_finite(self) -> None:
        runs = [scored(name, seed, seed) for name in ("torn", "mhe", "none") for seed in range(3)]
        torn = [scored("torn", 2, math.nan), unscored("torn", 2)]
        standings = []
        for last in torn:
            comparison = compare([*runs[:2], last, *runs[3:]])
            rows = {row.variant: row for row in comparison.rows}
            standings.append(repr([comparison.ranked_seeds, *((rows[n].mean_rank, rows[n].first_share) for n in rows)]))
            assert repr((rows["torn"].mean_rank, rows["torn"].first_share)) == "(nan, nan)"
        assert standings[0] == standings[1]

    def test_a_variant_that_diverged_on_its_only_seed_costs_the_others_no_seed(self) -> None:
        runs = [scored(name, seed, score) for name, score in (("mhe", 2.0), ("none", 1.0)) for seed in range(3)]
        comparison = compare([*runs, unscored("gan_gp", 0)])
        rows = {row.variant: row for row in comparison.rows}
        assert (comparison.ranked_seeds, rows["mhe"].mean_rank, rows["none"].mean_rank) == (3, 1.0, 2.0)
        assert repr(rows["gan_gp"].mean_rank) == "nan"


def timed(variant: str, seconds: float, curve: Mapping[int, float], seed: int = 0, steps: int = 1000) -> RunScore:
    """A run of 1,000 steps with a score at some of them; the final one is 9."""
    points = tuple((step, dict.fromkeys(METRICS, score)) for step, score in curve.items())
    return scored(variant, seed, 9.0, steps=steps, train_seconds=seconds, curve=points)


class TestEqualTime:
    @staticmethod
    def means(*runs: RunScore, view: View = "wall_time") -> dict[str, float | None]:
        return {row.variant: row.mean for row in compare(runs, view=view).rows}

    def test_each_variant_is_shown_where_it_stands_when_the_fastest_is_done(self) -> None:
        curve = {250: 1.0, 500: 5.0, 750: 3.0, 1000: 9.0}
        runs = timed("fast", 100.0, curve), timed("exact", 200.0, curve), timed("slow", 250.0, curve)
        # The slow one has made 400 steps: 150 of the 250 between its scores 1 and 5.
        assert self.means(*runs) == {"fast": 9.0, "exact": 5.0, "slow": pytest.approx(3.4)}
        assert self.means(*runs, view="steps") == {"fast": 9.0, "exact": 9.0, "slow": 9.0}
        steps = {row.variant: row.step for row in compare(runs, view="wall_time").rows}
        assert steps == {"fast": 1000, "exact": 500, "slow": 400}

    def test_noise_in_the_seconds_of_equal_variants_makes_no_difference(self) -> None:
        """The same training under two names, timed with the noise of a shared machine."""
        curve = {250: 3.0, 500: 5.0, 750: 7.0}
        runs = [timed("a", seconds, curve, seed) for seed, seconds in enumerate((90.0, 100.0, 135.0))]
        runs += [timed("b", seconds, curve, seed) for seed, seconds in enumerate((140.0, 101.0, 95.0))]
        a, b = sorted(compare(runs, reference="a", view="wall_time").rows, key=lambda row: row.variant)
        assert (a.step, a.mean, b.step) == (1000, 9.0, 990)
        assert b.difference == pytest.approx(-2 / 250 * 1000 / 101)  # the last steps that it lacks, at 2 in 250

    def test_all_seeds_of_a_variant_share_the_median_of_their_seconds_a_step(self) -> None:
        runs = [timed("fast", 100.0, {}, seed) for seed in range(3)]
        runs += [timed("slow", seconds, {100: 1.0}, seed) for seed, seconds in enumerate((150.0, 200.0, 900.0))]
        row = compare(runs, view="wall_time").rows[-1]
        halfway = 1.0 + 8.0 * (500 - 100) / 900
        assert (row.variant, row.step, row.n, row.std) == ("slow", 500, 3, 0.0)
        assert row.mean == pytest.approx(halfway)

    def test_a_score_between_two_evaluations_is_numpys_interpolation(self) -> None:
        curve = {100: 1.0, 250: 7.0, 700: -2.0}
        steps, scores = [*curve, 1000], [*curve.values(), 9.0]
        for seconds in (110.0, 137.0, 333.0, 999.0):
            slow = self.means(timed("fast", 100.0, {}), timed("slow", seconds, curve))["slow"]
            assert slow == pytest.approx(np.interp(1000 * 100 / seconds, steps, scores))

    def test_a_score_that_is_not_finite_is_not_interpolated_away(self) -> None:
        runs = timed("fast", 100.0, {}), timed("slow", 200.0, {400: math.nan, 600: 5.0})
        comparison = compare(runs, view="wall_time")
        assert (comparison.rows[-1].mean, comparison.rows[-1].diverged) == (None, 1)
        assert "Not scored by then" not in footnote(comparison)
        hit = timed("slow", 200.0, {400: math.nan, 500: 4.0, 600: math.inf})
        assert self.means(runs[0], hit)["slow"] == 4.0

    @settings(deadline=None, derandomize=True, max_examples=200)
    @given(st.floats(1e-3, 1e6), st.integers(1, 10**6))
    def test_the_fastest_is_shown_by_its_final_generator_even_without_curve(self, seconds: float, steps: int) -> None:
        runs = [timed("fast", seconds, {}, steps=steps), timed("slow", 3 * seconds, {1: 4.0}, steps=steps)]
        comparison = compare(runs, view="wall_time")
        assert comparison.budget_seconds == pytest.approx(seconds, rel=1e-12)
        [fast] = [row for row in comparison.rows if row.variant == "fast"]
        assert (fast.mean, fast.step) == (9.0, steps)

    def test_variants_of_unequal_length_are_compared_at_the_shortest_whole_training(self) -> None:
        runs = timed("long", 100.0, {500: 3.0}), timed("short", 80.0, {}, steps=200)
        comparison = compare(runs, view="wall_time")
        assert comparison.budget_seconds == pytest.approx(80.0)
        assert {row.variant: row.step for row in comparison.rows} == {"long": 800, "short": 200}
        assert self.means(*runs)["long"] == pytest.approx(3.0 + 6.0 * 300 / 500)

    def test_at_equal_steps_a_row_tells_its_last_step_where_results_do(self) -> None:
        rows = compare([timed("mhe", 100.0, {}), scored("none", 0, 7.0), unscored("gan_gp", 0)]).rows
        assert {row.variant: row.step for row in rows} == {"mhe": 1000, "none": None, "gan_gp": None}

    def test_a_run_that_had_scored_nothing_by_then_counts_as_without_score(self) -> None:
        comparison = compare([timed("fast", 100.0, {}), timed("slow", 300.0, {500: 4.0})], view="wall_time")
        row = comparison.rows[-1]
        assert (row.variant, row.n, row.failed, row.mean, row.step) == ("slow", 0, 1, None, 333)
        assert "Not scored by then: slow (step 333); set evaluation.every_steps" in footnote(comparison)

    def test_a_score_that_is_not_finite_by_then_counts_as_diverged(self) -> None:
        slow = [timed("slow", 200.0, {500: score}, seed) for seed, score in enumerate((math.nan, 5.0))]
        row = compare([timed("fast", 100.0, {}), *slow], view="wall_time").rows[-1]
        assert (row.variant, row.mean, row.n, row.failed, row.diverged) == ("slow", 5.0, 1, 1, 1)

    def test_a_run_without_final_score_sets_no_budget_and_is_not_shown(self) -> None:
        stopped = unscored("mhe", 1, "stopped")
        stopped = dataclasses.replace(stopped, steps=10, train_seconds=1.0, curve=((5, dict.fromkeys(METRICS, 2.0)),))
        comparison = compare([timed("mhe", 100.0, {}), stopped], view="wall_time")
        assert (comparison.budget_seconds, comparison.rows[0].n, comparison.rows[0].failed) == (100.0, 1, 1)

    def test_a_best_of_the_whole_run_is_not_shown(self) -> None:
        comparison = compare([timed("mhe", 100.0, {500: 8.0})], view="wall_time")
        assert (comparison.rows[0].best_mean, comparison.rows[0].best_of) == (None, 0)
        assert "Best" not in footnote(comparison)

    def test_differences_are_between_the_generators_shown(self) -> None:
        runs = [timed("none", 100.0, {}, seed) for seed in range(2)]
        runs += [timed("mhe", 200.0, {500: 8.0 - seed}, seed) for seed in range(2)]
        row = next(row for row in compare(runs, reference="none", view="wall_time").rows if row.variant == "mhe")
        assert (row.difference, row.pairs) == (-1.5, 2)

    def test_a_result_that_tells_no_time_is_not_placed(self) -> None:
        rows = compare([timed("none", 100.0, {}), scored("mhe", 0, 7.0)], view="wall_time").rows
        assert [(row.variant, row.n, row.failed) for row in rows] == [("none", 1, 0), ("mhe", 0, 1)]
        with pytest.raises(
            ConfigError, match="'wall_time' needs train_seconds in the results; none of the 1 results has it"
        ):
            compare([scored("mhe", 0, 7.0)], view="wall_time")

    def test_the_footnote_states_the_protocol_of_equal_time(self) -> None:
        note = footnote(compare([timed("fast", 123.4, {}), timed("slow", 300.0, {250: 4.0})], view="wall_time"))
        for part in (
            "the step that it reaches in 123.4 s",
            "its median time per step over seeds",
            "Scores between evaluations are interpolated",
            "only the fastest variant has completed the decay",
            "Times measured on a shared machine are imprecise",
        ):
            assert part in note
        assert "of the compared generator" in note and "evaluation.every_steps" not in note

    def test_an_unknown_view_names_those_there_are(self) -> None:
        with pytest.raises(ConfigError, match="unknown view 'time'; expected one of steps, wall_time"):
            compare([scored("mhe", 0, 7.0)], view="time")  # type: ignore[arg-type]


class TestHonesty:
    def test_different_protocols_are_refused_with_both_named(self) -> None:
        runs = [
            scored("mhe", 0, 7.0),
            scored("none", 0, 6.0, protocol="inception-2015", fingerprints=OTHER),
        ]
        with pytest.raises(ProtocolMismatchError) as refused:
            compare(runs)
        for part in ("digits-v1", "f" * 12, "inception-2015", "0" * 12, "runs/mhe/seed_0", "runs/none/seed_0"):
            assert part in str(refused.value)

    def test_one_name_with_two_fingerprints_is_two_protocols(self) -> None:
        with pytest.raises(ProtocolMismatchError, match="under 2 protocols"):
            compare([scored("mhe", 0, 7.0), scored("none", 0, 6.0, fingerprints=OTHER)])

    def test_only_the_fingerprint_of_the_compared_metric_counts(self) -> None:
        mixed = [scored("mhe", 0, 7.0), scored("none", 0, 6.0, fingerprints={**OTHER, "fid": "f" * 64})]
        assert compare(mixed, metric="fid").fingerprint == "f" * 64
        with pytest.raises(ProtocolMismatchError, match="under 2 protocols"):
            compare(mixed, metric="kid")

    def test_runs_scored_before_a_metric_was_added_compare_by_the_others(self) -> None:
        before = {"inception_score": 6.0, "fid": 6.0}
        old = scored("none", 0, 6.0, final=before, best=before, fingerprints=dict.fromkeys(before, "f" * 64))
        assert len(compare([scored("mhe", 0, 7.0), old], metric="fid").rows) == 2
        with pytest.raises(ProtocolMismatchError, match="runs/none/seed_0: no 'kid' in the final scores"):
            compare([scored("mhe", 0, 7.0), old], metric="kid")

    def test_a_run_without_score_does_not_count_as_another_protocol(self) -> None:
        assert compare([scored("mhe", 0, 7.0), unscored("mhe", 1)]).protocol == "digits-v1"

    def test_runs_without_score_are_counted_not_dropped(self) -> None:
        runs = [scored("mhe", 0, 7.0), unscored("mhe", 1), unscored("mhe", 2, "unfinished"), unscored("none", 0)]
        mhe, none = compare(runs).rows
        assert (mhe.variant, mhe.n, mhe.failed, mhe.mean) == ("mhe", 1, 2, 7.0)
        assert (none.variant, none.n, none.failed, none.mean, none.best_mean) == ("none", 0, 1, None, None)
        assert mhe.jobs == ("runs/mhe/seed_0", "runs/mhe/seed_1", "runs/mhe/seed_2")
        assert table_cells(compare(runs))[1][1] == "1 (+2 without score)"

    def test_seeds_that_diverged_are_counted_apart_and_named_in_the_footnote(self) -> None:
        runs = [scored("mhe", 0, 7.0), scored("none", 0, 7.0), unscored("none", 1), unscored("gan_gp", 0)]
        runs += [unscored("mhe", seed) for seed in (1, 2)] + [unscored("mhe", 3, "unfinished")]
        comparison = compare(runs)
        found = {row.variant: (row.failed, row.diverged) for row in comparison.rows}
        assert found == {"mhe": (3, 2), "none": (1, 1), "gan_gp": (1, 1)}
        lines = footnote(comparison).splitlines()
        assert (
            "mhe: 3 of 4 seeds have no score (2 diverged, 1 unfinished); its numbers are over the other seeds." in lines
        )
        assert "none: 1 of 2 seeds has no score (1 diverged); its numbers are over the other seeds." in lines
        assert "gan_gp: 1 of 1 seed has no score (1 diverged)." in lines

    def test_where_every_seed_has_a_score_the_footnote_speaks_of_none_without(self) -> None:
        assert "no score" not in footnote(compare([scored("mhe", 0, 7.0)]))

    def test_a_seed_that_occurs_twice_is_refused_with_both_runs_named(self) -> None:
        runs = [scored("mhe", 0, 7.0), scored("mhe", 0, 7.5, job="elsewhere"), scored("none", 0, 6.0)]
        with pytest.raises(ConfigError, match="'mhe': expected one run per seed, got several of seed 0") as refused:
            compare(runs)
        assert "runs/mhe/seed_0, elsewhere" in str(refused.value)

    def test_a_failed_run_does_not_free_its_seed(self) -> None:
        with pytest.raises(ConfigError, match="seed 1"):
            compare([scored("mhe", 1, 7.0), unscored("mhe", 1)])

    def test_one_seed_in_two_variants_is_no_repetition(self) -> None:
        assert len(compare([scored("mhe", 0, 7.0), scored("none", 0, 6.0)]).rows) == 2

    def test_seeds_of_different_configurations_have_no_common_mean(self) -> None:
        runs = [scored("mhe", 0, 7.0), scored("mhe", 1, 7.1, digest_without_seed="more steps")]
        with pytest.raises(
            ConfigError, match=r"'mhe': expected runs of one configuration, got 2: runs/mhe/seed_0, runs/mhe/seed_1"
        ):
            compare(runs)

    @pytest.mark.parametrize(("key", "what"), [("data_sha256", "images"), ("weights_sha256", "weights of the scorer")])
    def test_runs_of_one_configuration_on_other_files_are_refused_by_name(self, key: str, what: str) -> None:
        one, other = (Inputs(**{key: digit * 64}) for digit in "12")
        runs = [scored("none", 0, 6.0, inputs=one), scored("mhe", 0, 7.0, inputs=other)]
        expected = f"{what} of SHA-256 {'1' * 12} in runs/none/seed_0 and {'2' * 12} in runs/mhe/seed_0"
        with pytest.raises(ProtocolMismatchError, match=expected):
            compare(runs)

    def test_runs_without_a_record_of_their_files_are_compared(self) -> None:
        runs = [scored("none", 0, 6.0, inputs=Inputs("1" * 64, None)), scored("mhe", 0, 7.0)]
        assert len(compare(runs).rows) == 2

    def test_a_run_without_a_record_does_not_hide_that_others_read_different_files(self) -> None:
        records = (Inputs(), Inputs("1" * 64), Inputs("2" * 64))
        runs = [scored("mhe", seed, 6.0 + seed, inputs=inputs) for seed, inputs in enumerate(records)]
        with pytest.raises(ProtocolMismatchError, match=r"in runs/mhe/seed_1 and 2+ in runs/mhe/seed_2"):
            compare(runs)

    def test_a_best_that_was_not_scored_again_has_no_mean(self) -> None:
        runs = [scored("none", 0, 6.0, 5.5), scored("mhe", 0, 7.0, evaluations=1)]
        assert {row.variant: row.best_mean for row in compare(runs).rows} == {"none": 5.5, "mhe": None}

    def test_a_reference_may_be_a_variant_that_has_one_row(self) -> None:
        runs = [scored("none + loss=hinge", 0, 6.0), scored("mhe", 0, 7.0)]
        assert compare(runs, reference="none").reference == "none + loss=hinge"
        with pytest.raises(
            ConfigError, match=r"'none' has several rows; expected one of none \+ a, none \+ loss=hinge"
        ):
            compare([*runs, scored("none + a", 0, 6.0)], reference="none")

    def test_a_table_of_unequal_budgets_says_so(self) -> None:
        equal = compare([scored("none", 0, 6.0), scored("mhe", 0, 7.0)])
        unequal = compare([scored("none", 0, 6.0), scored("mhe", 0, 7.0, comparable_digest="more steps")])
        assert equal.same_budget and "differ in more than the variant" not in footnote(equal)
        assert not unequal.same_budget and "differ in more than the variant" in footnote(unequal)

    def test_nothing_scored_is_nothing_to_compare(self) -> None:
        with pytest.raises(RunDirError, match="none of the 2 runs has a final score"):
            compare([unscored("mhe", 0), unscored("none", 0)])
        with pytest.raises(RunDirError, match="none of the 0 runs"):
            compare([])

    def test_an_unknown_metric_names_the_nearest(self) -> None:
        with pytest.raises(ConfigError, match="unknown metric 'inception'; did you mean 'inception_score'"):
            compare([scored("mhe", 0, 7.0)], metric="inception")

    def test_without_a_metric_the_runs_own_is_compared(self) -> None:
        runs = [scored("mhe", seed, 7.0, metric="fid") for seed in (0, 1)]
        assert compare(runs).metric == "fid"
        assert compare(runs, metric="kid").metric == "kid"

    def test_runs_that_rank_by_different_metrics_are_refused_unless_one_is_named(self) -> None:
        runs = [scored("mhe", 0, 7.0), scored("none", 0, 6.0, metric="fid"), unscored("none", 1)]
        expected = "metric: expected a name, .* inception_score; runs/none/seed_0: fid"
        with pytest.raises(ConfigError, match=expected):
            compare(runs)
        assert compare(runs, metric="fid").metric == "fid"

    def test_a_run_without_score_does_not_count_as_one_of_another_metric(self) -> None:
        assert compare([scored("mhe", 0, 7.0, metric="fid"), unscored("mhe", 1)]).metric == "fid"

    def test_the_real_datas_score_comes_along(self) -> None:
        assert compare([scored("mhe", 0, 7.0, real=None), scored("mhe", 1, 7.0)]).real == 9.71

    def test_the_number_of_scores_a_best_was_chosen_from_is_the_largest(self) -> None:
        comparison = compare([scored("mhe", 0, 7.0), scored("mhe", 1, 7.0, evaluations=9), scored("none", 0, 6.0)])
        assert comparison.evaluations == 9
        assert [row.best_of for row in comparison.rows] == [9, 4]
        assert "from up to 9 evaluations (mhe 9, none 4)" in footnote(comparison)

    def test_rows_are_grouped_by_a_label_that_a_caller_put_in_the_variants_place(self) -> None:
        runs = [dataclasses.replace(scored("mhe", 0, 7.0), variant=label) for label in ("low lambda", "high lambda")]
        assert [row.variant for row in compare(runs).rows] == ["low lambda", "high lambda"]


class TestOrder:
    @pytest.mark.parametrize("metric", METRICS)
    def test_the_best_variant_by_the_metrics_direction_is_first(self, metric: str) -> None:
        rows = list(of_scores({"low": [1.0], "high": [3.0], "middle": [2.0]}, metric))
        ascending = ["low", "middle", "high"]
        assert rows == (ascending[::-1] if METRICS[metric].higher_is_better else ascending)

    @looped("metric", METRICS)
    @looped("broken", [[math.nan], [math.nan, 99.0], [1.0, math.nan, math.inf]])
    def test_a_variant_with_a_seed_that_broke_down_is_last_and_says_so(self, metric: str, broken: list[float]) -> None:
        rows = of_scores({"broken": broken, "fine": [2.0, 3.0], "poor": [50.0]}, metric)
        finite = [score for score in broken if math.isfinite(score)]
        assert list(rows)[-1] == "broken"
        assert (rows["broken"].n, rows["broken"].diverged) == (len(finite), len(broken) - len(finite))
        assert rows["broken"].mean == (statistics.fmean(finite) if finite else None)

    @looped("metric", METRICS)
    @looped("broken", [[math.inf], [-math.inf], [math.inf, -math.inf]])
    def test_an_infinite_score_wins_nothing(self, metric: str, broken: list[float]) -> None:
        assert list(of_scores({"broken": broken, "fine": [2.0]}, metric))[-1] == "broken"

    def test_a_variant_without_any_score_is_last(self) -> None:
        assert [row.variant for row in compare([unscored("none", 0), scored("mhe", 0, 1.0)]).rows] == ["mhe", "none"]


def markdown_table(comparison: Comparison) -> list[tuple[str, ...]]:
    lines = [line for line in as_markdown(comparison).splitlines() if line.startswith("|")]
    return [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in lines]


@pytest.fixture
def comparison() -> Comparison:
    """A row of every kind: several seeds, one seed, a broken seed, none at all."""
    runs = [scored("mhe", seed, 7 + seed / 2, rescored=7.5 + seed / 2, steps=1000) for seed in range(3)]
    runs += [scored("none", 0, 6.0), scored("wgan_gp", 0, math.nan), scored("wgan_gp", 1, 5.0), unscored("gan_gp", 0)]
    return compare(runs)


class TestForms:
    def test_json_rows_have_the_pinned_keys(self, comparison: Comparison) -> None:
        assert all(set(row) >= PINNED_KEYS for row in as_rows(comparison))

    def test_json_reads_back_as_the_rows(self, comparison: Comparison) -> None:
        document = json.loads(as_json(comparison), parse_constant=pytest.fail)
        for written, row in zip(document["rows"], comparison.rows, strict=True):
            read = {key: decode_number(value) for key, value in written.items()} | {"jobs": tuple(written["jobs"])}
            assert repr(Row(**read)) == repr(row)

    def test_json_says_under_what_protocol_and_how_sure(self, comparison: Comparison) -> None:
        document = json.loads(as_json(comparison))
        del document["rows"]
        assert document == {
            "metric": "inception_score",
            "view": "steps",
            "protocol": "digits-v1",
            "fingerprint": "f" * 64,
            "confidence": 0.95,
            "real": 9.71,
            "evaluations": 4,
            "same_budget": True,
            "ranked_seeds": 0,
        }

    def test_json_says_at_what_time_runs_are_compared(self) -> None:
        document = json.loads(as_json(compare([timed("mhe", 100.0, {})], view="wall_time")))
        assert (document["view"], document["budget_seconds"]) == ("wall_time", 100.0)

    def test_csv_reads_back_as_the_rows(self, comparison: Comparison) -> None:
        read = list(csv.DictReader(io.StringIO(as_csv(comparison))))
        assert [row["variant"] for row in read] == [row.variant for row in comparison.rows]
        for written, row in zip(read, comparison.rows, strict=True):
            for key in (
                *("mean", "std", "ci_low", "ci_high", "best_mean"),
                *("boot_low", "boot_high", "mean_rank", "first_share"),
            ):
                value = getattr(row, key)
                assert written[key] == "" if value is None else repr(float(written[key])) == repr(value)
            assert (int(written["n"]), int(written["failed"])) == (row.n, row.failed)
            assert (int(written["best_of"]), int(written["diverged"])) == (row.best_of, row.diverged)
            assert written["step"] == ("" if row.step is None else str(row.step))
            assert tuple(written["jobs"].split()) == row.jobs

    def test_markdown_has_the_cells_and_then_the_other_numbers(self, comparison: Comparison) -> None:
        table = markdown_table(comparison)
        assert table[0] == (*HEADINGS, "at step", "best of", "bootstrap interval", "mean rank", "ranked first")
        assert set(table[1]) == {"---"} and {len(row) for row in table} == {len(table[0])}
        assert [row[: len(HEADINGS)] for row in table[2:]] == table_cells(comparison)
        low, high = bootstrap_interval([7.0, 7.5, 8.0])
        assert [row[len(HEADINGS) :] for row in table[2:]] == [
            ("", "", "", "", ""),
            ("1000", "4", f"{low:.2f} to {high:.2f}", "-", "-"),
            *[("-", "4", "-", "-", "-")] * 2,
            ("-", "0", "-", "-", "-"),
        ]
        assert f"\n\n{footnote(comparison)}\n\nBest of: number of evaluations that" in as_markdown(comparison)

    def test_cells_show_the_real_data_first_and_a_dash_for_what_is_absent(self, comparison: Comparison) -> None:
        assert table_cells(comparison) == [
            ("real data", "", "9.71", "", "", ""),
            ("mhe", "3", "7.50", "0.50", "6.26 to 8.74", "8.00"),
            ("none", "1", "6.00", "-", "-", "6.00"),
            ("wgan_gp", "1 (+1 without score)", "5.00", "-", "-", "5.00"),
            ("gan_gp", "0 (+1 without score)", "-", "-", "-", "-"),
        ]

    def test_small_scores_are_printed_with_more_decimals(self) -> None:
        assert table_cells(compare([scored("mhe", 0, 0.01234, real=None)], metric="kid"))[0][2] == "0.0123"

    def test_the_footnote_names_direction_protocol_and_unit(self, comparison: Comparison) -> None:
        note = footnote(comparison)
        for part in (
            "Inception score (higher is better)",
            "digits-v1",
            "f" * 12,
            "training seeds",
            "up to 4 evaluations",
        ):
            assert part in note
        assert "FID (lower is better)" in footnote(compare([scored("mhe", 0, 7.0)], metric="fid"))

    def test_the_footnote_warns_of_a_single_seed(self) -> None:
        warning = "One seed says nothing about the spread"
        assert warning in footnote(compare([scored("mhe", 0, 7.0)]))
        assert warning not in footnote(compare([scored("mhe", 0, 7.0), scored("mhe", 1, 7.0)]))

    def test_the_footnote_speaks_of_the_best_only_where_there_was_a_choice(self) -> None:
        assert "Best" not in footnote(compare([scored("mhe", 0, 7.0, evaluations=1)]))


@pytest.fixture
def differences() -> Comparison:
    """Differences of every kind: several pairs, one, none, a broken one; the reference in the middle."""
    scores = {
        "mhe_sn": {0: 7.30, 1: 7.45, 2: 7.20},
        "mhe": {0: 7.10},
        "none": {0: 7.00, 1: 7.00, 2: 7.00},
        "half_mhe": {8: 6.00},
        "spectral_norm": {0: 6.50, 1: 6.40},
        "wgan_gp": {0: math.nan, 1: 7.0},
    }
    return against("none", scores)


class TestFormsOfDifferences:
    DIFFERENCE_KEYS: ClassVar = {
        *("difference", "difference_low", "difference_high", "pairs"),
        *("p_value", "p_holm", "p_permutation", "minimum_detectable_effect"),
    }

    def test_cells_show_sign_interval_and_number_of_pairs(self, differences: Comparison) -> None:
        # 0.3167 +- 4.302653 * 0.1258 / sqrt(3), and -0.55 +- 12.7062 * 0.0707 / sqrt(2), by the table of t. Two
        # tests were made: Holm takes 2 p of the smaller.
        assert {row[0]: row[-1] for row in table_cells(differences)} == {
            "real data": "",
            "mhe_sn": "+0.32 (0.00 to 0.63), 3 pairs, p 0.049 (Holm 0.098)",
            "mhe": "+0.10, 1 pair",
            "none": "",
            "spectral_norm": "-0.55 (-1.19 to 0.09), 2 pairs, p 0.058 (Holm 0.098)",
            "half_mhe": "-, 0 pairs",
            "wgan_gp": "+0.00, 1 pair",
        }

    def test_the_difference_follows_the_usual_cells(self, differences: Comparison) -> None:
        assert headings(differences) == (*HEADINGS, "difference to none")
        plain = dataclasses.replace(differences, reference=None)
        assert headings(plain) == HEADINGS
        assert [row[:-1] for row in table_cells(differences)] == table_cells(plain)

    def test_markdown_has_a_column_for_each_number(self, differences: Comparison) -> None:
        table = markdown_table(differences)
        titles = ("difference to none", "p", "p (Holm)", "p (sign flips)", "minimum detectable effect")
        assert table[0][-5:] == titles and {len(row) for row in table} == {len(table[0])}
        # Detectable: 1.682 standard deviations at n = 5, 3.264 at n = 3, 11.55 at n = 2.
        assert {row[0]: row[-5:] for row in table[2:]} == {
            "real data": ("", "", "", "", ""),
            "mhe_sn": ("+0.32 (0.00 to 0.63), 3 pairs", "0.049", "0.098", "0.25", "0.41"),
            "mhe": ("+0.10, 1 pair", "-", "-", "-", "-"),
            "none": ("", "", "", "", ""),
            "spectral_norm": ("-0.55 (-1.19 to 0.09), 2 pairs", "0.058", "0.098", "0.50", "0.82"),
            "half_mhe": ("-, 0 pairs", "-", "-", "-", "-"),
            "wgan_gp": ("+0.00, 1 pair", "-", "-", "-", "-"),
        }
        assert "with 5 pairs it cannot be below 0.0625" in as_markdown(differences)

    def test_json_reads_back_as_the_rows(self, differences: Comparison) -> None:
        document = json.loads(as_json(differences), parse_constant=pytest.fail)
        assert document["reference"] == "none"
        for written, row in zip(document["rows"], differences.rows, strict=True):
            read = {key: decode_number(value) for key, value in written.items()} | {"jobs": tuple(written["jobs"])}
            assert set(written) > self.DIFFERENCE_KEYS
            assert repr(Row(**read)) == repr(row)

    def test_csv_has_a_column_for_each_number(self, differences: Comparison) -> None:
        read = {row["variant"]: row for row in csv.DictReader(io.StringIO(as_csv(differences)))}
        assert [read[name]["pairs"] for name in ("mhe_sn", "mhe", "none", "half_mhe")] == ["3", "1", "", "0"]
        assert read["mhe"]["difference_low"] == read["half_mhe"]["difference"] == ""
        assert float(read["spectral_norm"]["difference"]) == pytest.approx(-0.55)

    def test_without_reference_no_form_speaks_of_differences(self, comparison: Comparison) -> None:
        assert all(self.DIFFERENCE_KEYS.isdisjoint(row) for row in as_rows(comparison))
        for form in (as_json, as_csv, as_markdown):
            assert "ifference" not in form(comparison) and "pairs" not in form(comparison)
        assert "reference" not in json.loads(as_json(comparison))

    @pytest.mark.parametrize(("metric", "better"), [("inception_score", "positive"), ("fid", "negative")])
    def test_the_footnote_says_what_a_difference_is_and_which_sign_is_good(self, metric: str, better: str) -> None:
        note = footnote(against("none", {"none": {0: 1.0}, "mhe": {0: 2.0}}, metric))
        assert "minus that of none with the same training seed" in note
        assert f"{better} is better" in note


class TestFootnoteOfDifferences:
    BASE: ClassVar = {0: 7.0, 1: 7.4, 2: 6.8, 3: 7.1, 4: 6.9}
    SURE: ClassVar = {0: 8.0, 1: 8.5, 2: 7.8, 3: 8.1, 4: 7.9}
    UNSURE: ClassVar = {0: 7.2, 1: 7.2, 2: 7.2, 3: 7.2, 4: 7.2}

    def note(self, **scores: Mapping[int, float]) -> str:
        return footnote(against("none", {"none": self.BASE, **scores}))

    def test_it_says_plainly_that_no_difference_could_be_shown(self) -> None:
        p = stats.ttest_rel([*self.UNSURE.values()], [*self.BASE.values()]).pvalue
        found = (
            f"No significant difference to none at the 5 % level (smallest Holm-corrected p {p:.2f}, 5 pairs of seeds)."
        )
        assert found in self.note(mhe=self.UNSURE)

    def test_it_names_the_variants_that_differ_and_no_other(self) -> None:
        note = self.note(mhe=self.SURE, half_mhe=self.UNSURE)
        assert (
            "Significantly different from none at the 5 % level: mhe (Holm-corrected p <0.001, 5 pairs of seeds)."
            in note
        )
        assert "No difference" not in note and "Not tested" not in note

    def test_it_says_what_difference_these_seeds_can_show(self) -> None:
        # 1.682 standard deviations of the differences, 0.05 * sqrt(0.8) and 0.2302.
        assert (
            "detects a true difference of 0.08 (mhe, n = 5) to 0.39 (half_mhe, n = 5) with probability 0.8"
            in self.note(mhe=self.SURE, half_mhe=self.UNSURE)
        )

    def test_variants_that_could_not_be_tested_are_named_with_the_reason(self) -> None:
        few = {"one": {0: 7.0}, "other": {9: 7.0}}
        note = self.note(mhe=self.SURE, **few)
        reasons = ("one, other (fewer than two common seeds)",)
        [line] = [line for line in note.splitlines() if line.startswith("Not tested against none: ")]
        assert sorted(line.removeprefix("Not tested against none: ").removesuffix(".").split("; ")) == sorted(reasons)

    def test_where_nothing_could_be_tested_there_is_no_verdict(self) -> None:
        note = self.note(mhe={0: 7.0})
        assert "Not tested against none: mhe (fewer than two common seeds)." in note
        assert "ignificant" not in note and "with probability" not in note

    @pytest.mark.parametrize("broken", [math.nan, math.inf, None])
    def test_the_verdict_says_on_how_many_seeds_it_rests_however_the_others_ended(self, broken: float | None) -> None:
        runs = [scored("none", seed, score) for seed, score in self.BASE.items()]
        runs += [scored("mhe", seed, score) for seed, score in self.SURE.items() if seed > 1]
        runs += [unscored("mhe", seed) if broken is None else scored("mhe", seed, broken) for seed in (0, 1)]
        note = footnote(compare(runs, reference="none"))
        assert re.search(
            r"different from none .*: mhe \(Holm-corrected p [<0-9.]+, 3 pairs of seeds, 2 diverged\)", note
        )
        assert "mhe: 2 of 5 seeds have no score (2 diverged); its numbers are over the other seeds." in note

    def test_a_difference_in_more_than_the_variant_is_said_before_the_verdict_and_in_every_format(self) -> None:
        runs = [scored("none", seed, score) for seed, score in self.BASE.items()]
        runs += [scored("mhe", seed, score, comparable_digest="other") for seed, score in self.SURE.items()]
        unequal = compare(runs, reference="none")
        for text in (footnote(unequal), as_markdown(unequal)):
            assert text.index("differ in more than the variant") < text.index("ignificantly different")
        assert json.loads(as_json(unequal))["same_budget"] is False
        assert {row["same_budget"] for row in csv.DictReader(io.StringIO(as_csv(unequal)))} == {"false"}

    def test_a_reference_alone_leaves_nothing_untested(self) -> None:
        assert "Not tested" not in self.note()

    def test_it_says_how_firm_the_first_place_is(self) -> None:
        assert "In 100 % of resamples of the 5 seeds that all ranked variants have, mhe has the best mean." in (
            self.note(mhe=self.SURE)
        )


class TestReading:
    @staticmethod
    def begin(root: Path, **result: Any) -> RunDir:
        run = RunDir(root)
        write_json(run.config, parse({"variant": "mhe_sn", "seed": 4}).document())
        run.events.touch()
        if result:
            final = {"step": 1000, "scores": {"inception_score": 7.5, "fid": "NaN"}}
            real = {"inception_score": 9.71, "fid": "Infinity"}
            written = {
                "status": "completed",
                "variant": "mhe_sn",
                "seed": 4,
                "protocol": "digits-v1",
                "fingerprints": {"inception_score": "ab", "fid": "cd"},
                "evaluations": 4,
                "final": final,
                "best": None,
                "real": real,
            }
            write_json(run.result, written | result)
        return run

    def test_a_finished_run_is_read_from_its_result(self, tmp_path: Path) -> None:
        score = read_score(self.begin(tmp_path, status="completed"))
        assert (score.job, score.variant, score.seed, score.status) == (str(tmp_path), "mhe_sn", 4, "completed")
        assert (score.protocol, score.evaluations, score.best) == ("digits-v1", 4, None)
        assert (score.steps, score.train_seconds, score.curve) == (0, 0.0, ())

    def test_each_score_has_its_own_fingerprint(self, tmp_path: Path) -> None:
        assert read_score(self.begin(tmp_path, status="completed")).fingerprints == {
            "inception_score": "ab",
            "fid": "cd",
        }

    def test_the_one_fingerprint_of_an_older_result_counts_for_each_of_its_scores(self, tmp_path: Path) -> None:
        run = self.begin(tmp_path, status="completed")
        document = run.read_result() or {}
        del document["fingerprints"]
        write_json(run.result, document | {"fingerprint": "ab"})
        assert read_score(run).fingerprints == {"inception_score": "ab", "fid": "ab"}

    def test_steps_seconds_and_curve_are_read(self, tmp_path: Path) -> None:
        curve = [{"step": 500, "scores": {"fid": "Infinity"}}, {"step": 1000, "scores": {"fid": 30.0}}]
        score = read_score(self.begin(tmp_path, step=1000, train_seconds=12.5, curve=curve))
        assert (score.steps, score.train_seconds) == (1000, 12.5)
        assert score.curve == ((500, {"fid": math.inf}), (1000, {"fid": 30.0}))

    def test_numbers_that_json_lacks_are_numbers_again(self, tmp_path: Path) -> None:
        score = read_score(self.begin(tmp_path, status="completed"))
        assert repr(score.final) == "{'inception_score': 7.5, 'fid': nan}"
        assert score.real == {"inception_score": 9.71, "fid": math.inf}
        assert "nan" in as_markdown(compare([score], metric="fid"))

    @pytest.mark.parametrize("damage", [{"final": [1]}, {"final": {"step": 1}}, {"curve": 3}, {"real": "9"}])
    def test_a_result_of_another_shape_is_named(self, tmp_path: Path, damage: dict[str, Any]) -> None:
        with pytest.raises(RunDirError, match=r"result\.json is not the result of a run"):
            read_score(self.begin(tmp_path, status="completed", **damage))

    def test_a_diverged_run_has_no_score(self, tmp_path: Path) -> None:
        score = read_score(self.begin(tmp_path, status="diverged", final=None, real=None))
        assert (score.status, score.final, score.real) == ("diverged", None, None)

    def test_a_run_without_result_is_unfinished(self, tmp_path: Path) -> None:
        score = read_score(self.begin(tmp_path))
        assert (score.variant, score.seed, score.status, score.final) == ("mhe_sn", 4, "unfinished", None)

    def test_documents_give_the_score_that_their_run_directory_gives(self, tmp_path: Path) -> None:
        run = self.begin(tmp_path, status="completed")
        score = score_of("job_1", run.read_config(), run.read_result())
        assert repr(score) == repr(dataclasses.replace(read_score(run), job="job_1"))

    def test_a_configuration_alone_gives_an_unfinished_run(self) -> None:
        score = score_of("job_1", parse({"variant": "mhe", "seed": 2}), None)
        assert (score.job, score.variant, score.seed, score.status) == ("job_1", "mhe", 2, "unfinished")
        assert (score.final, score.best, score.real, score.protocol, score.evaluations) == (None, None, None, None, 0)
        assert score.metric == "inception_score"

    def test_the_metric_is_the_one_of_the_result(self) -> None:
        assert score_of("job_1", parse({}), {"metric": "fid"}).metric == "fid"

    def test_a_run_is_found_once_however_often_it_is_named(self, tmp_path: Path) -> None:
        run = self.begin(tmp_path / "run")
        (tmp_path / "link").symlink_to(run.root)
        paths = [tmp_path / "run", tmp_path, tmp_path / "link", tmp_path / "run" / ".." / "run"]
        assert [found.root for found in find_runs(paths)] == [run.root]

    def test_runs_are_found_at_and_below_a_path(self, tmp_path: Path) -> None:
        for name in ("b/seed_0", "a/seed_1", "a/seed_0"):
            self.begin(tmp_path / name)
        below = [run.root for run in find_runs([tmp_path])]
        assert below == [tmp_path / name for name in ("a/seed_0", "a/seed_1", "b/seed_0")]
        assert [run.root for run in find_runs([tmp_path / "b" / "seed_0"])] == [tmp_path / "b" / "seed_0"]

    @pytest.mark.parametrize("content", ['{"architectures": ["GPT2Model"], "n_layer": 12}', "[]", "3"])
    def test_the_configuration_of_another_program_is_left_out_and_named(self, tmp_path: Path, content: str) -> None:
        self.begin(tmp_path / "ours")
        (tmp_path / "other").mkdir()
        (tmp_path / "other" / "config.json").write_text(content)
        notices: list[str] = []
        assert [run.root for run in find_runs([tmp_path], notices.append)] == [tmp_path / "ours"]
        assert notices == [f"{tmp_path / 'other' / 'config.json'} is not the configuration of a run; left out"]

    @pytest.mark.parametrize("content", ['{"variant": "mhe", "trai', '{"training": {"steps": 0}}', "[]"])
    def test_a_damaged_configuration_of_a_run_is_an_error_of_one_line(self, tmp_path: Path, content: str) -> None:
        run = self.begin(tmp_path / "ours")
        run.events.touch()
        run.config.write_text(content)
        [found] = find_runs([tmp_path])
        with pytest.raises(RunDirError, match=r"ours/config\.json cannot be read: ") as refused:
            read_score(found)
        assert "\n" not in str(refused.value) and "http" not in str(refused.value)

    @pytest.mark.parametrize(("key", "value"), [("seed", 5), ("variant", "mhe"), ("digest", "0" * 64), ("step", 40)])
    def test_a_result_of_another_configuration_is_refused(self, tmp_path: Path, key: str, value: Any) -> None:
        run = self.begin(tmp_path, **{"status": "completed", key: value})
        with pytest.raises(RunDirError, match=f"{key} is {value!r} in the result, .* in the configuration"):
            read_score(run)

    def test_a_run_that_is_not_its_variant_is_a_row_of_its_own(self) -> None:
        changed = {"variant": "none", "constraints": {"normalization": "spectral"}}
        result = {"final": {"scores": {"inception_score": 1.0}}, "protocol": "digits-v1"}
        runs = [score_of("a", parse({"variant": "none"}), result), score_of("b", parse(changed), result)]
        assert {row.variant for row in compare(runs).rows} == {"none", "none + constraints.normalization=spectral"}

    def test_networks_are_named_where_runs_differ_in_them(self) -> None:
        result = {"final": {"scores": {"inception_score": 1.0}}, "protocol": "digits-v1"}
        whole = {"generator": {"width": 0.5}}
        narrow = whole | {"discriminator": {"width": 0.25}}
        both = [score_of(name, parse(config), result) for name, config in (("a", whole), ("b", narrow))]
        assert {row.variant for row in compare(both).rows} == {"none", "none + discriminator.width=0.25"}
        assert [row.variant for row in compare(both[1:]).rows] == ["none"]

    def test_a_path_that_holds_no_run_is_refused(self, tmp_path: Path) -> None:
        self.begin(tmp_path / "run")
        (tmp_path / "empty").mkdir()
        for path in (tmp_path / "empty", tmp_path / "absent", tmp_path / "run" / "config.json"):
            with pytest.raises(RunDirError, match=f"{path.name} is not a run directory and contains none"):
                find_runs([tmp_path / "run", path])
