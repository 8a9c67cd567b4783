"""The comparison says what the seeds say: no more, no less, and never across protocols."""

import csv
import dataclasses
import io
import json
import math
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from gan_mhe.compare import (
    HEADINGS,
    Comparison,
    Row,
    RunScore,
    as_csv,
    as_json,
    as_markdown,
    as_rows,
    compare,
    find_runs,
    footnote,
    headings,
    read_score,
    score_of,
    t_interval,
    table_cells,
)
from gan_mhe.compose import parse
from gan_mhe.errors import ConfigError, ProtocolMismatchError, RunDirError
from gan_mhe.events import decode_number
from gan_mhe.files import write_json
from gan_mhe.metrics import METRICS
from gan_mhe.rundir import RunDir

SCORES = st.lists(st.floats(0.5, 100.0), min_size=2, max_size=8)
PINNED_KEYS = {"variant", "n", "mean", "std", "ci_low", "ci_high", "best_mean", "protocol", "jobs"}


def scored(variant: str, seed: int, score: float, rescored: float | None = None, **changes: Any) -> RunScore:
    values: dict[str, Any] = {
        "job": f"runs/{variant}/seed_{seed}",
        "variant": variant,
        "seed": seed,
        "recipe": f"recipe of {variant}",
        "budget": "budget",
        "status": "completed",
        "protocol": "digits-v1",
        "fingerprint": "f" * 64,
        "evaluations": 4,
        "final": dict.fromkeys(METRICS, score),
        "best": dict.fromkeys(METRICS, score if rescored is None else rescored),
        "real": dict.fromkeys(METRICS, 9.71),
    }
    return RunScore(**values | changes)


def unscored(variant: str, seed: int, status: str = "diverged") -> RunScore:
    nothing: dict[str, Any] = dict.fromkeys(("protocol", "fingerprint", "final", "best", "real"))
    return scored(variant, seed, 0.0, status=status, evaluations=0, **nothing)


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
            assert (row.ci_low, row.ci_high) == pytest.approx((row.mean, row.mean), rel=1e-12)
            return
        expected = stats.t.interval(0.95, len(scores) - 1, loc=np.mean(scores), scale=stats.sem(scores))
        assert (row.ci_low, row.ci_high) == pytest.approx(expected, rel=1e-9, abs=1e-9)

    def test_the_interval_of_a_textbook_example(self) -> None:
        # t(0.975, 4) = 2.776445 and s = sqrt(2.5): 3 +- 2.776445 * sqrt(2.5 / 5).
        assert t_interval([1.0, 2.0, 3.0, 4.0, 5.0]) == pytest.approx((1.0367568, 4.9632432), abs=1e-6)

    def test_the_interval_holds_the_true_mean_95_times_in_100(self) -> None:
        draws = np.random.default_rng(0).normal(7.0, 0.5, size=(2000, 3))
        held = np.mean([low < 7.0 < high for low, high in map(t_interval, draws.tolist())])
        # Four standard errors of a proportion of 0.95 in 2,000 trials.
        assert held == pytest.approx(0.95, abs=4 * math.sqrt(0.95 * 0.05 / 2000))

    def test_one_seed_has_a_mean_but_no_spread(self) -> None:
        row = of_scores({"mhe": [7.5]})["mhe"]
        assert (row.n, row.mean) == (1, 7.5)
        assert (row.std, row.ci_low, row.ci_high) == (None, None, None)

    def test_equal_seeds_have_no_width(self) -> None:
        row = of_scores({"mhe": [7.5, 7.5]})["mhe"]
        assert (row.std, row.ci_low, row.ci_high) == (0.0, 7.5, 7.5)

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
            assert (low, high) == pytest.approx((mean, mean), rel=1e-12)
            return
        expected = stats.ttest_rel(ours, base).confidence_interval(0.95)
        assert (low, high) == pytest.approx((expected.low, expected.high), rel=1e-9, abs=1e-9)

    def test_seeds_are_paired_by_number_not_by_order(self) -> None:
        comparison = against("none", {"none": {0: 1.0, 1: 2.0, 2: 3.0}, "mhe": {2: 3.5, 0: 1.5, 1: 2.5}})
        assert difference(comparison, "mhe") == (0.5, 0.5, 0.5, 3)

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
    def test_a_seed_that_broke_down_is_not_averaged_away(self, broken: float) -> None:
        whole, torn = {0: 1.0, 1: 2.0}, {0: broken, 1: 2.0}
        for base, ours in ((whole, torn), (torn, whole), (torn, torn)):
            mean, low, high, pairs = difference(against("none", {"none": base, "mhe": ours}), "mhe")
            assert (repr(mean), repr(low), repr(high), pairs) == ("nan", "nan", "nan", 2)

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


class TestHonesty:
    def test_different_protocols_are_refused_with_both_named(self) -> None:
        runs = [
            scored("mhe", 0, 7.0),
            scored("none", 0, 6.0, protocol="inception-2015", fingerprint="0" * 64),
        ]
        with pytest.raises(ProtocolMismatchError) as refused:
            compare(runs)
        for part in ("digits-v1", "f" * 12, "inception-2015", "0" * 12, "runs/mhe/seed_0", "runs/none/seed_0"):
            assert part in str(refused.value)

    def test_one_name_with_two_fingerprints_is_two_protocols(self) -> None:
        with pytest.raises(ProtocolMismatchError, match="under 2 protocols"):
            compare([scored("mhe", 0, 7.0), scored("none", 0, 6.0, fingerprint="0" * 64)])

    def test_a_run_without_score_does_not_count_as_another_protocol(self) -> None:
        assert compare([scored("mhe", 0, 7.0), unscored("mhe", 1)]).protocol == "digits-v1"

    def test_runs_without_score_are_counted_not_dropped(self) -> None:
        runs = [scored("mhe", 0, 7.0), unscored("mhe", 1), unscored("mhe", 2, "unfinished"), unscored("none", 0)]
        mhe, none = compare(runs).rows
        assert (mhe.variant, mhe.n, mhe.failed, mhe.mean) == ("mhe", 1, 2, 7.0)
        assert (none.variant, none.n, none.failed, none.mean, none.best_mean) == ("none", 0, 1, None, None)
        assert mhe.jobs == ("runs/mhe/seed_0", "runs/mhe/seed_1", "runs/mhe/seed_2")
        assert table_cells(compare(runs))[1][1] == "1 (+2 without score)"

    def test_a_seed_that_occurs_twice_is_refused_with_both_runs_named(self) -> None:
        runs = [scored("mhe", 0, 7.0), scored("mhe", 0, 7.5, job="elsewhere"), scored("none", 0, 6.0)]
        with pytest.raises(ConfigError, match="'mhe' has seed 0 in several runs") as refused:
            compare(runs)
        assert "runs/mhe/seed_0, elsewhere" in str(refused.value)

    def test_a_failed_run_does_not_free_its_seed(self) -> None:
        with pytest.raises(ConfigError, match="seed 1"):
            compare([scored("mhe", 1, 7.0), unscored("mhe", 1)])

    def test_one_seed_in_two_variants_is_no_repetition(self) -> None:
        assert len(compare([scored("mhe", 0, 7.0), scored("none", 0, 6.0)]).rows) == 2

    def test_seeds_of_different_configurations_have_no_common_mean(self) -> None:
        runs = [scored("mhe", 0, 7.0), scored("mhe", 1, 7.1, recipe="more steps")]
        with pytest.raises(ConfigError, match=r"'mhe' has runs of 2 configurations.*runs/mhe/seed_0, runs/mhe/seed_1"):
            compare(runs)

    def test_a_table_of_unequal_budgets_says_so(self) -> None:
        equal = compare([scored("none", 0, 6.0), scored("mhe", 0, 7.0)])
        unequal = compare([scored("none", 0, 6.0), scored("mhe", 0, 7.0, budget="more steps")])
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

    def test_the_real_datas_score_comes_along(self) -> None:
        assert compare([scored("mhe", 0, 7.0, real=None), scored("mhe", 1, 7.0)]).real == 9.71

    def test_the_number_of_scores_a_best_was_chosen_from_is_the_largest(self) -> None:
        assert compare([scored("mhe", 0, 7.0), scored("mhe", 1, 7.0, evaluations=9)]).evaluations == 9


class TestOrder:
    @pytest.mark.parametrize("metric", METRICS)
    def test_the_best_variant_by_the_metrics_direction_is_first(self, metric: str) -> None:
        rows = list(of_scores({"low": [1.0], "high": [3.0], "middle": [2.0]}, metric))
        ascending = ["low", "middle", "high"]
        assert rows == (ascending[::-1] if METRICS[metric].higher_is_better else ascending)

    @pytest.mark.parametrize("metric", METRICS)
    @pytest.mark.parametrize("broken", [[math.nan], [math.nan, 99.0], [1.0, math.nan, math.inf]])
    def test_a_variant_with_a_nan_score_is_last_and_says_so(self, metric: str, broken: list[float]) -> None:
        rows = of_scores({"broken": broken, "fine": [2.0, 3.0], "poor": [50.0]}, metric)
        assert list(rows)[-1] == "broken"
        assert rows["broken"].n == len(broken)
        assert rows["broken"].mean is not None and math.isnan(rows["broken"].mean)

    @pytest.mark.parametrize("metric", METRICS)
    @pytest.mark.parametrize("broken", [[math.inf], [-math.inf], [math.inf, -math.inf]])
    def test_an_infinite_score_wins_nothing(self, metric: str, broken: list[float]) -> None:
        assert list(of_scores({"broken": broken, "fine": [2.0]}, metric))[-1] == "broken"

    def test_a_variant_without_any_score_is_last(self) -> None:
        assert [row.variant for row in compare([unscored("none", 0), scored("mhe", 0, 1.0)]).rows] == ["mhe", "none"]


@pytest.fixture
def comparison() -> Comparison:
    """A row of every kind: several seeds, one seed, a broken seed, none at all."""
    runs = [scored("mhe", seed, score, rescored=score + 0.5) for seed, score in enumerate((7.0, 7.5, 8.0))]
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
            "protocol": "digits-v1",
            "fingerprint": "f" * 64,
            "confidence": 0.95,
            "real": 9.71,
            "evaluations": 4,
            "same_budget": True,
        }

    def test_csv_reads_back_as_the_rows(self, comparison: Comparison) -> None:
        read = list(csv.DictReader(io.StringIO(as_csv(comparison))))
        assert [row["variant"] for row in read] == [row.variant for row in comparison.rows]
        for written, row in zip(read, comparison.rows, strict=True):
            for key in ("mean", "std", "ci_low", "ci_high", "best_mean"):
                value = getattr(row, key)
                assert written[key] == "" if value is None else repr(float(written[key])) == repr(value)
            assert (int(written["n"]), int(written["failed"])) == (row.n, row.failed)
            assert tuple(written["jobs"].split()) == row.jobs

    def test_markdown_reads_back_as_the_cells(self, comparison: Comparison) -> None:
        lines = as_markdown(comparison).splitlines()
        table = [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in lines if line.startswith("|")]
        assert table[0] == HEADINGS
        assert set(table[1]) == {"---"} and len(table[1]) == len(HEADINGS)
        assert table[2:] == table_cells(comparison)
        assert lines[-1] == footnote(comparison)

    def test_cells_show_the_real_data_first_and_a_dash_for_what_is_absent(self, comparison: Comparison) -> None:
        assert table_cells(comparison) == [
            ("real data", "", "9.71", "", "", ""),
            ("mhe", "3", "7.50", "0.50", "6.26 to 8.74", "8.00"),
            ("none", "1", "6.00", "-", "-", "6.00"),
            ("wgan_gp", "2", "nan", "nan", "nan to nan", "nan"),
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
    DIFFERENCE_KEYS: ClassVar = {"difference", "difference_low", "difference_high", "pairs"}

    def test_cells_show_sign_interval_and_number_of_pairs(self, differences: Comparison) -> None:
        # 0.3167 +- 4.302653 * 0.1258 / sqrt(3), and -0.55 +- 12.7062 * 0.0707 / sqrt(2), by the table of t.
        assert {row[0]: row[-1] for row in table_cells(differences)} == {
            "real data": "",
            "mhe_sn": "+0.32 (0.00 to 0.63), 3 pairs",
            "mhe": "+0.10, 1 pair",
            "none": "",
            "spectral_norm": "-0.55 (-1.19 to 0.09), 2 pairs",
            "half_mhe": "-, 0 pairs",
            "wgan_gp": "nan (nan to nan), 2 pairs",
        }

    def test_the_difference_follows_the_usual_cells(self, differences: Comparison) -> None:
        assert headings(differences) == (*HEADINGS, "difference to none")
        plain = dataclasses.replace(differences, reference=None)
        assert headings(plain) == HEADINGS
        assert [row[:-1] for row in table_cells(differences)] == table_cells(plain)

    def test_markdown_reads_back_as_the_cells(self, differences: Comparison) -> None:
        lines = [line for line in as_markdown(differences).splitlines() if line.startswith("|")]
        table = [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in lines]
        assert table[0] == headings(differences)
        assert set(table[1]) == {"---"} and len(table[1]) == len(headings(differences))
        assert table[2:] == table_cells(differences)

    def test_json_reads_back_as_the_rows(self, differences: Comparison) -> None:
        document = json.loads(as_json(differences), parse_constant=pytest.fail)
        assert document["reference"] == "none"
        for written, row in zip(document["rows"], differences.rows, strict=True):
            read = {key: decode_number(value) for key, value in written.items()} | {"jobs": tuple(written["jobs"])}
            assert self.DIFFERENCE_KEYS < set(written)
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


class TestReading:
    @staticmethod
    def begin(root: Path, **result: Any) -> RunDir:
        run = RunDir(root)
        write_json(run.config, parse({"variant": "mhe_sn", "seed": 4}).document())
        if result:
            final = {"step": 1000, "scores": {"inception_score": 7.5, "fid": "NaN"}}
            real = {"inception_score": 9.71, "fid": "Infinity"}
            written = {
                "status": "completed",
                "variant": "mhe_sn",
                "seed": 4,
                "protocol": "digits-v1",
                "fingerprint": "ab",
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
        assert (score.protocol, score.fingerprint, score.evaluations, score.best) == ("digits-v1", "ab", 4, None)

    def test_numbers_that_json_lacks_are_numbers_again(self, tmp_path: Path) -> None:
        score = read_score(self.begin(tmp_path, status="completed"))
        assert repr(score.final) == "{'inception_score': 7.5, 'fid': nan}"
        assert score.real == {"inception_score": 9.71, "fid": math.inf}
        assert "nan" in as_markdown(compare([score], metric="fid"))

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

    def test_runs_are_found_at_and_below_a_path(self, tmp_path: Path) -> None:
        for name in ("b/seed_0", "a/seed_1", "a/seed_0"):
            self.begin(tmp_path / name)
        below = [run.root for run in find_runs([tmp_path])]
        assert below == [tmp_path / name for name in ("a/seed_0", "a/seed_1", "b/seed_0")]
        assert [run.root for run in find_runs([tmp_path / "b" / "seed_0"])] == [tmp_path / "b" / "seed_0"]

    def test_a_path_that_holds_no_run_is_refused(self, tmp_path: Path) -> None:
        self.begin(tmp_path / "run")
        (tmp_path / "empty").mkdir()
        for path in (tmp_path / "empty", tmp_path / "absent", tmp_path / "run" / "config.json"):
            with pytest.raises(RunDirError, match=f"{path.name} is not a run directory and holds none"):
                find_runs([tmp_path / "run", path])
