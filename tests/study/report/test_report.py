"""A report says what its runs say: every number can be traced, gaps are named, and no result is made of noise."""

import json
import math
import re
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar
from xml.etree import ElementTree

import matplotlib
import pytest
from PIL import Image
from scipy import stats

from gan_mhe.errors import ProtocolMismatchError
from gan_mhe.evaluation.metrics import METRICS
from gan_mhe.files import write_json
from gan_mhe.records.events import Evaluated, Finished, Scalars, Started
from gan_mhe.study.report import write_report
from gan_mhe.study.report.answer import answer, incompleteness
from gan_mhe.study.report.data import StudyReport, read_study
from gan_mhe.study.report.document import document
from gan_mhe.study.report.plots import draw_all, scores
from gan_mhe.study.report.strips import sample_sheet
from gan_mhe.study.report.text import markdown

MHE = {"name": "mhe", "variant": "mhe"}
BETTER = {"none": (7.0, 7.1, 6.9), "mhe": (8.0, 8.11, 7.88), "gan_gp": (6.5, 6.6, 6.41)}
"""Final scores by arm and seed; mhe is better than none by 1 with little noise, gan_gp worse by half."""
FAMILY = [{"name": f"mhe_{s:g}", "variant": "mhe", "family": "lambda", "strength": s} for s in (0.0, 1.0, 10.0)]


def fill(made: Any, scores: dict[str, tuple[float, ...]], **how: Any) -> Any:
    """Complete the arms of the study that have scores, as many seeds as there are scores."""
    for arm in made.study.arms:
        for seed, score in zip(made.study.seeds, scores.get(arm.name, ()), strict=False):
            made.end(arm.name, seed, score, **how)
    return made


def read(made: Any) -> StudyReport:
    return read_study(made.study, made.root)


def text_of(made: Any) -> str:
    return markdown(read(made), ())


def table_numbers(text: str) -> Iterator[str]:
    """Numbers in the cells of the tables, without the first column and what follows a backtick or a letter."""
    for line in text.splitlines():
        if line.startswith("| ") and not line.startswith("| arm"):
            for cell in line.split(" | ")[1:]:
                yield from re.findall(r"< [\d.]+|[-+]?\d+(?:\.\d+)?", cell)


def leaves(value: Any) -> Iterator[float]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for entry in value:
            yield from leaves(entry)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield value


def is_among(shown: str, numbers: list[float]) -> bool:
    if shown.startswith("< "):
        return any(0 <= number < float(shown[2:]) for number in numbers)
    decimals = len(shown.partition(".")[2])
    return any(math.isclose(float(shown), number, abs_tol=0.5001 * 10**-decimals) for number in numbers)


@pytest.fixture(scope="module")
def report_folder(make_once: Any) -> Path:
    made = make_once(["none", *FAMILY, MHE], seeds=(0, 1))
    made.pictures = True
    scores = {arm.name: (7.0 + index, 7.1 + index) for index, arm in enumerate(made.study.arms)}
    return write_report(made.study, fill(made, scores).root).parent


class TestStrength:
    RATIO: ClassVar = {"constraints.mhe.ratio.target": 0.1}

    def position(self, make: Any, reached: float) -> float:
        made = make(["none", {"name": "held", "variant": "mhe", "family": "ratio", "strength": 0.1}], seeds=(0,))
        arm = made.study.arms[1].model_copy(update={"set": self.RATIO})
        made.study = made.study.model_copy(update={"arms": (made.study.arms[0], arm)})
        made.ratios = {"held": reached}
        return read(fill(made, {"none": (7.0,), "held": (8.0,)})).arm("held").position()

    def test_a_target_ratio_that_was_reached_is_the_position(self, make: Any) -> None:
        assert self.position(make, 0.09) == 0.1

    def test_a_target_ratio_that_was_not_reached_gives_way_to_the_one_that_was(self, make: Any) -> None:
        assert self.position(make, 0.0123456) == 0.0123

    def test_a_strength_that_is_no_target_is_the_position(self, make: Any) -> None:
        made = make(["none", FAMILY[2]], seeds=(0,))
        made.ratios = {"mhe_10": 0.5}
        assert read(fill(made, {"none": (7.0,), "mhe_10": (8.0,)})).arm("mhe_10").position() == 10.0


class TestStarts:
    def test_a_start_that_failed_is_reported_with_its_reason(self, make: Any) -> None:
        made = make(["none"], seeds=(0,))
        made.begin("none", 0, [Finished(0, "failed", "no such folder")]).config.unlink()
        [run] = read(made).runs()
        assert (run.status, run.message, run.score) == ("failed", "no such folder", None)


class TestNumbers:
    def test_every_number_of_the_tables_is_in_the_data(self, make: Any) -> None:
        made = fill(make(list(BETTER)), BETTER)
        made.ratios = {"mhe": 0.125}
        made.end("mhe", 0, BETTER["mhe"][0])
        data = document(read(made))
        arms = [{k: v for k, v in arm.items() if k.endswith("_mean")} for arm in data["arms"].values()]
        pool = list(leaves([data["comparison"], data["comparison_at_equal_wall_time"], arms]))
        shown = list(table_numbers(text_of(made)))
        assert len(shown) > 60
        assert [number for number in shown if not is_among(number, pool)] == []

    def test_the_curve_of_an_arm_is_the_mean_and_the_range_over_its_seeds(self, make: Any) -> None:
        made = fill(make(["none"]), BETTER)
        last = document(read(made))["arms"]["none"]["curve"][-1]
        assert last == pytest.approx({"step": 600, "mean": 7.0, "low": 6.9, "high": 7.1, "n": 3})

    def test_energy_and_angle_are_means_over_layers_and_then_over_seeds(self, make: Any) -> None:
        made = fill(make(["none", "mhe"]), BETTER)
        arm = document(read(made))["arms"]["mhe"]
        assert [point["mean"] for point in arm["energy"]] == pytest.approx([-0.25 - 0.02 * k / 6 for k in range(1, 7)])
        angles = [statistics.fmean([0.55, 0.7 + 0.01 * seed]) for seed in range(3)]
        assert arm["angle_radians"][-1]["mean"] == pytest.approx(statistics.fmean(angles))

    def test_a_gradient_ratio_is_that_of_all_parameters_and_not_of_a_layer(self, make: Any) -> None:
        made = make(["none", "mhe"])
        made.ratios = {"mhe": 0.125}
        fill(made, BETTER)
        arm = document(read(made))["arms"]["mhe"]
        assert (arm["gradient_ratio_mean"], arm["strength_mean"]) == ({"mhe": 0.125}, {"mhe": 0.25})

    def test_what_a_resume_made_void_is_not_counted(self, make: Any) -> None:
        made = make(["none"], seeds=(0,))
        scalars = [Scalars(step, {"energy/a": value}) for step, value in ((100, 1.0), (200, 5.0), (200, 3.0))]
        events = [Started(0, 600, False), *scalars[:2], Started(100, 600, True), scalars[2]]
        made.begin("none", 0, events)
        energies = document(read(made))["arms"]["none"]["energy"]
        assert [(point["step"], point["mean"]) for point in energies] == [(100, 1.0), (200, 3.0)]

    def test_a_best_generator_scored_again_is_no_point_of_the_curve(self, make: Any) -> None:
        made = make(["none"], seeds=(0,))
        scores = {"inception_score": 5.0}
        events = [
            Evaluated(100, purpose, scores, "digits-v1", {"fid": "f"}, 1.0)
            for purpose in ("scheduled", "best_rescored")
        ]
        made.begin("none", 0, events)
        assert [point["n"] for point in document(read(made))["arms"]["none"]["curve"]] == [1]

    def test_at_equal_training_time_a_slow_arm_stands_where_it_was_by_then(self, make: Any) -> None:
        made = make(["none", "mhe"], seeds=(0, 1))
        for seed, (fast, slow) in enumerate([(50.0, 110.0), (70.0, 130.0)]):
            made.end("none", seed, 7.0 + seed, train_seconds=fast)
            made.end("mhe", seed, 7.0 + seed, train_seconds=slow)
        comparison = document(read(made))["comparison_at_equal_wall_time"]
        rows = {row["variant"]: row for row in comparison["rows"]}
        halfway = 7.5 * (1 - math.exp(-2)) / (1 - math.exp(-4))
        assert comparison["budget_seconds"] == pytest.approx(60.0)
        assert (rows["mhe"]["step"], rows["mhe"]["mean"]) == (300, pytest.approx(halfway))
        assert (rows["none"]["step"], rows["none"]["mean"]) == (600, 7.5)
        said = text_of(made).split("## At equal training time")[1]
        assert "| arm | training, s | at step |" in said and "| mhe | 120.0 | 300 | 2 |" in said
        assert (
            "in 60 s, the training time of the fastest arm" in said
            and "only the fastest arm has completed the decay" in said
        )
        assert "not evaluated by then" not in said

    def test_an_arm_that_was_not_scored_by_then_is_explained(self, make: Any) -> None:
        made = fill(make(["none", "mhe"], seeds=(0,)), {"none": (7.0,)})
        made.end("mhe", 0, 7.0, train_seconds=6000.0)
        said = text_of(made).split("## At equal training time")[1]
        assert "| mhe | 6000.0 | 6 | 0 (+1 without score) |" in said
        assert "An arm with a step but no score was not evaluated by then." in said

    def test_the_real_data_heads_the_scores(self, make: Any) -> None:
        rows = text_of(fill(make(["none", "mhe"]), BETTER)).split("## Scores")[1].splitlines()
        assert [row.split(" | ")[0] for row in rows if row.startswith("| ")][:3] == ["| arm", "| real data", "| mhe"]

    def test_the_data_names_places_below_the_study_and_no_machine(self, make: Any, tmp_path: Path) -> None:
        made = fill(make(["none", "mhe"]), BETTER)
        assert str(tmp_path) not in json.dumps(document(read(made)))
        assert "command" not in document(read(made))["environment"]


class TestAnswer:
    def test_arms_that_can_be_told_from_noise_are_named_with_their_differences(self, make: Any) -> None:
        said = answer(read(fill(make(list(BETTER)), BETTER)))
        paired = stats.ttest_rel(BETTER["mhe"], BETTER["none"])
        low, high = paired.confidence_interval(0.95)
        assert said.startswith("Compared with `none` (n = 3 seeds; Inception score, higher is better):")
        assert 0.0005 > 2 * paired.pvalue
        assert f"significantly better is `mhe` by +1.00 ({low:.2f} to {high:.2f}; Holm p < 0.001)" in said
        assert "significantly worse is `gan_gp` by -0.50" in said
        assert "not significantly different" not in said

    def test_a_lower_fid_is_better(self, make: Any) -> None:
        said = answer(read(fill(make(list(BETTER), metric="fid"), BETTER)))
        assert "better is `mhe` by -1.00" in said
        assert "worse is `gan_gp` by +0.50" in said

    def test_a_null_result_is_called_one(self, make: Any) -> None:
        noise = {"none": (7.0, 7.3, 6.9), "mhe": (7.2, 7.0, 7.1)}
        said = answer(read(fill(make(list(noise)), noise)))
        assert "no difference is significant (lowest Holm p = 0." in said
        assert "a difference that is not significant may still exist" in said
        assert "better is" not in said and "worse is" not in said

    def test_differences_without_spread_have_no_detectable_size_and_the_report_says_why(self, make: Any) -> None:
        equal = {"none": (7.0, 7.5, 6.0), "mhe": (7.5, 8.0, 6.5)}
        made = fill(make(list(equal)), equal)
        assert "these seeds detect a true difference" not in answer(read(made))
        assert "No interval and no detectable difference for mhe: the difference to none is the same" in text_of(made)

    def test_what_could_not_be_told_stands_beside_what_could(self, make: Any) -> None:
        scores = BETTER | {"mhe_sn": (7.2, 7.0, 7.1)}
        said = answer(read(fill(make(list(scores)), scores)))
        assert "better is `mhe`" in said
        assert "not significantly different: `mhe_sn`." in said

    def test_a_difference_is_told_by_the_corrected_p_alone(self, make: Any) -> None:
        names = ["none", "mhe", "mhe_sn", "gan_gp", "layer_norm", "weight_norm"]
        scores = dict.fromkeys(names, (7.0, 7.3, 6.9)) | {"mhe": (7.4, 7.9, 7.2)}
        report = read(fill(make(names), scores))
        row = next(row for row in report.rows() if row.variant == "mhe")
        assert row.p_value is not None and row.p_value < 0.05
        assert "no difference is significant" in answer(report)

    def test_one_seed_gives_no_verdict(self, make: Any) -> None:
        said = answer(read(fill(make(["none", "mhe"], seeds=(0,)), BETTER)))
        assert "n = 1 seed;" in said
        assert "one seed says nothing about the spread between seeds" in said
        assert "better is" not in said and "with probability" not in said

    def test_one_arm_is_compared_with_nothing(self, make: Any) -> None:
        made = fill(make(["none"]), BETTER)
        assert answer(read(made)).startswith("There is only one arm, `none`, so nothing is compared.")
        assert "## Differences" not in text_of(made) and "## Configurations" not in text_of(made)

    def test_without_a_score_nothing_is_answered(self, make: Any) -> None:
        made = make(["none", "mhe"])
        for arm in ("none", "mhe"):
            made.end(arm, 0, None)
        assert "No run has a final score" in answer(read(made))
        assert "## Scores" not in text_of(made) and "| nan" not in text_of(made)

    @pytest.mark.parametrize("ratios", [{"mhe": 0.125}, {}])
    def test_a_study_that_scores_nothing_says_so_and_where_its_numbers_are(self, make: Any, ratios: Any) -> None:
        made = make(["none", "mhe"], set={"evaluation.protocol": "none"})
        made.ratios = ratios
        for arm in ("none", "mhe"):
            made.end(arm, 0, None)
        where = "; its results are the gradient ratios of the penalties" if ratios else ""
        assert answer(read(made)) == f"This study has no scores{where}."
        assert ("## Strength of the penalties" in text_of(made)) == bool(ratios)

    def test_arms_with_seeds_that_have_no_score_are_named_with_the_cause(self, make: Any) -> None:
        made = fill(make(["none", "mhe", "gan_gp"], seeds=(0, 1, 2, 3)), BETTER | {"gan_gp": ()})
        made.end("mhe", 3, None, status="diverged")
        made.begin("none", 3)
        for seed in range(4):
            made.end("gan_gp", seed, None, status="diverged")
        said = answer(read(made))
        assert "`mhe`: 1 of 4 seeds has no score (1 diverged); its numbers are over the other seeds." in said
        assert "`none`: 1 of 4 seeds has no score (1 unfinished); its numbers are over the other seeds." in said
        assert said.endswith(" `gan_gp`: 4 of 4 seeds have no score (4 diverged).")
        assert "no score" not in answer(read(fill(make(["none", "mhe"]), BETTER)))

    def test_a_reference_that_diverged_on_every_seed_is_said_to_have(self, make: Any) -> None:
        made = fill(make(["none", "mhe"]), {"mhe": BETTER["mhe"]})
        for seed in range(3):
            made.end("none", seed, None, status="diverged")
        said = answer(read(made))
        assert said.startswith("The reference, `none`, has no final score")
        assert said.endswith("`none`: 3 of 3 seeds have no score (3 diverged).")

    def test_without_the_reference_nothing_is_compared(self, make: Any) -> None:
        made = fill(make(["none", "mhe"]), {"mhe": BETTER["mhe"]})
        assert "The reference, `none`, has no final score" in answer(read(made))
        assert "## Differences" not in text_of(made)

    def test_an_arm_with_a_seed_that_broke_down_says_how_many_seeds_its_numbers_rest_on(self, make: Any) -> None:
        scores = BETTER | {"gan_gp": (6.5, math.nan, 6.4)}
        made = fill(make(list(scores)), scores)
        assert "`gan_gp`: 1 of 3 seeds has no score (1 diverged); its numbers are over the other seeds." in answer(
            read(made)
        )
        assert "| gan_gp | 2 (+1 without score) | 6.45 |" in text_of(made)


class TestGaps:
    def test_a_whole_study_lacks_nothing(self, make: Any) -> None:
        made = fill(make(list(BETTER)), BETTER)
        assert incompleteness(read(made)) is None
        assert "incomplete" not in text_of(made) and "So far" not in text_of(made)

    def test_an_incomplete_study_says_first_what_is_missing_and_why(self, make: Any) -> None:
        made = fill(make(list(BETTER)), {"none": BETTER["none"], "mhe": BETTER["mhe"][:1]})
        made.begin("mhe", 1, [Started(0, 600, False)])
        made.begin("gan_gp", 0, [Started(0, 600, False), Finished(5, "failed", "disk is full.")])
        made.end("gan_gp", 1, None, status="diverged", message="d_loss is\nnot finite")
        assert text_of(made).splitlines()[2] == (
            "> **This study is incomplete: 4 of 9 runs are completed; missing: `mhe` seed 2; `gan_gp` seed 2; "
            "unfinished: `mhe` seed 1; failed: `gan_gp` seed 0 (disk is full); "
            "diverged: `gan_gp` seed 1 (d_loss is not finite).**"
        )
        assert "So far, compared with `none`" in text_of(made)

    def test_a_study_without_any_run_can_be_reported(self, make: Any) -> None:
        made = make(["none", "mhe"])
        said = write_report(made.study, made.root).read_text()
        assert "0 of 6 runs are completed; missing: `none` seeds 0, 1, 2; `mhe` seeds 0, 1, 2" in said
        assert sorted(path.name for path in (made.root / "report").iterdir()) == ["data.json", "report.md"]

    def test_a_run_of_another_configuration_is_not_counted(self, make: Any) -> None:
        made = fill(make(["none"]), BETTER)
        place = made.place("none", 1)
        place.config.write_text(place.config.read_text().replace('"batch_size": 16', '"batch_size": 32'))
        report = read(made)
        assert report.rows()[0].n == 2
        assert "foreign: `none` seed 1 (its configuration is not the study's)" in str(incompleteness(report))

    def test_a_damaged_run_is_a_gap_and_no_error(self, make: Any, tmp_path: Path) -> None:
        made = fill(make(["none"]), BETTER)
        made.place("none", 1).result.write_text("{")
        said = str(incompleteness(read(made)))
        assert "unreadable: `none` seed 1 (none/seed_1/result.json cannot be read" in said
        assert str(tmp_path) not in said

    def test_runs_of_different_protocols_are_refused(self, make: Any) -> None:
        made = fill(make(["none"]), BETTER)
        made.end("none", 2, 7.0, fingerprints=dict.fromkeys(METRICS, "0" * 64))
        with pytest.raises(ProtocolMismatchError):
            write_report(made.study, made.root)
        assert not (made.root / "report").exists()


class TestEnvironment:
    @staticmethod
    def tell(made: Any, seed: int, **told: Any) -> None:
        write_json(made.place("none", seed).environment, {"python": "3.11.9", "command": ["x"]} | told)

    def test_a_study_of_one_machine_tells_it_once(self, make: Any) -> None:
        made = fill(make(["none"]), BETTER)
        for seed in range(3):
            self.tell(made, seed, source_revision="a" * 40, device="cpu", device_name="", packages={"torch": "2.11.0"})
        said = text_of(made)
        assert "- made with: Python 3.11.9, torch 2.11.0\n" in said
        assert f"- source: {'a' * 12}\n" in said and "- device: cpu\n" in said

    def test_every_revision_version_and_device_of_a_study_is_told(self, make: Any) -> None:
        made = fill(make(["none"]), BETTER)
        gpu = {"device": "cuda", "device_name": "A GPU"}
        self.tell(made, 0, source_revision="a" * 40, device="cpu", packages={"torch": "2.11.0", "numpy": "2.0"})
        self.tell(made, 1, source_revision="b" * 40 + "+", packages={"torch": "2.15.0", "numpy": "2.0"}, **gpu)
        self.tell(made, 2, source_revision="c" * 40, python="3.12.1", packages={"torch": "2.15.0"}, **gpu)
        said = text_of(made)
        assert f"- source: 3 revisions ({'a' * 12}, {'b' * 12}+, {'c' * 12})\n" in said
        assert "Python 2 versions (3.11.9, 3.12.1), torch 2 versions (2.11.0, 2.15.0)" in said
        assert "numpy 2 versions (2.0, unknown)" in said
        assert "- device: 2 devices (cpu; cuda, A GPU)\n" in said

    def test_the_data_has_the_revision_of_each_run_and_all_that_runs_tell(self, make: Any) -> None:
        made = fill(make(["none"]), BETTER)
        for seed, revision in enumerate(("a", "b+", "a")):
            self.tell(made, seed, source_revision=revision, packages={"torch": f"2.{seed}"})
        data = document(read(made))
        assert [run["source_revision"] for run in data["runs"]] == ["a", "b+", "a"]
        packages = {"torch": ["2.0", "2.1", "2.2"]}
        assert data["environment"] == {"python": ["3.11.9"], "source_revision": ["a", "b+"], "packages": packages}

    def test_a_run_of_another_configuration_tells_nothing(self, make: Any) -> None:
        made = fill(make(["none"]), BETTER)
        place = made.place("none", 1)
        place.config.write_text(place.config.read_text().replace('"batch_size": 16', '"batch_size": 32'))
        self.tell(made, 1, source_revision="foreign")
        made.place("none", 2).environment.write_text("{")
        assert document(read(made))["environment"] == {"python": ["3.11.9"], "packages": {"torch": ["2.11.0"]}}
        assert "source:" not in text_of(made) and "device:" not in text_of(made)


class TestFigures:
    def test_every_figure_is_there_and_shown(self, report_folder: Path) -> None:
        said = (report_folder / "report.md").read_text()
        shown = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", said)
        assert shown == ["score.svg", "strength.svg", "geometry.svg", "differences.svg", "samples.png"]
        assert {path.name for path in report_folder.iterdir()} == {*shown, "report.md", "data.json"}

    def test_charts_are_well_formed_and_carry_no_date(self, report_folder: Path) -> None:
        for path in report_folder.glob("*.svg"):
            assert ElementTree.parse(path).getroot().tag.endswith("svg")
            assert "dc:date" not in path.read_text()

    def test_the_same_study_gives_the_same_bytes(self, make: Any) -> None:
        made = fill(make(["none", *FAMILY]), {"none": (7.0, 7.1, 6.8), "mhe_1": (7.2, 7.7, 7.5)})
        folder = write_report(made.study, made.root).parent
        first = {path.name: path.read_bytes() for path in folder.iterdir()}
        write_report(made.study, made.root)
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == first

    def test_what_a_killed_report_left_is_cleared(self, make: Any) -> None:
        made = fill(make(["none"], seeds=(0,)), BETTER)
        left = made.root / ".report.0123.tmp"
        left.mkdir()
        (left / "score.svg").write_text("<svg/>")
        write_report(made.study, made.root)
        assert sorted(path.name for path in made.root.iterdir()) == ["none", "report"]

    def test_a_figure_without_data_is_left_out_and_an_older_one_goes(self, make: Any) -> None:
        made = fill(make(["none", "mhe"]), BETTER, events=False)
        folder = made.root / "report"
        folder.mkdir()
        (folder / "geometry.svg").write_text("<svg/>")
        said = write_report(made.study, made.root).read_text()
        assert re.findall(r"\]\((\w+\.svg)\)", said) == ["differences.svg"]
        assert [path.name for path in folder.glob("*.svg")] == ["differences.svg"]

    def test_how_hard_a_penalty_pulls_is_drawn_where_its_runs_tell_it(self, make: Any) -> None:
        made = make(["none", "mhe"])
        made.ratios = {"mhe": 0.125}
        report = read(fill(made, BETTER))
        assert [(spread.mean, spread.n) for spread in report.arm("mhe").ratio_curves()["mhe"]] == [(0.125, 3)] * 6
        assert "gradient_ratio.svg" in draw_all(report)

    def test_scores_that_are_not_finite_are_drawn_as_gaps(self, make: Any) -> None:
        made = fill(make(["none", "mhe"]), {"none": (7.0, 7.1), "mhe": (math.nan, 7.0)})
        report = read(made)
        assert set(draw_all(report)) == {"score.svg", "geometry.svg", "differences.svg"}
        figure = scores(report)
        assert figure is not None and [place.get_title("left") for place in figure.axes] == ["none", "mhe"]

    def test_a_single_seed_is_drawn_without_intervals(self, make: Any) -> None:
        made = fill(make(["none", *FAMILY], seeds=(0,)), {"none": (7.0,), "mhe_1": (7.5,)})
        assert {"differences.svg", "strength.svg"} <= set(draw_all(read(made)))

    def test_a_users_settings_of_matplotlib_change_nothing_and_are_left_alone(self, make: Any) -> None:
        report = read(fill(make(["none"], seeds=(0,)), BETTER))
        drawn = draw_all(report)
        with matplotlib.rc_context({"font.size": 31.0, "axes.facecolor": "red"}):
            before = dict(matplotlib.rcParams)
            assert draw_all(report) == drawn
            assert dict(matplotlib.rcParams) == before


class TestSamples:
    def test_the_sheet_shows_the_first_ten_images_of_the_last_grid(self, make: Any, tile_colour: Any) -> None:
        made = make(["none", "mhe"], seeds=(0,))
        made.pictures = True
        sheet = sample_sheet(read(fill(made, BETTER)))
        assert sheet is not None
        middle = 6 + 33  # of the first strip, below the margin
        colours = [sheet.getpixel((sheet.width - 8 - 2 - 66 * (10 - index) + 33, middle)) for index in range(10)]
        assert colours == [tile_colour(index) for index in range(10)]

    def test_the_first_seed_that_has_a_picture_is_shown(self, make: Any) -> None:
        made = make(["none"])
        made.pictures = True
        fill(made, BETTER)
        for path in made.place("none", 0).samples.iterdir():
            path.write_bytes(b"no picture")
        assert isinstance(sample_sheet(read(made)), Image.Image)

    def test_without_pictures_there_is_no_sheet(self, make: Any) -> None:
        assert sample_sheet(read(fill(make(["none"]), BETTER))) is None


def test_the_keys_in_which_an_arm_differs_are_listed_with_the_references_value(make: Any) -> None:
    made = make(["none", {"name": "sn_hinge", "variant": "spectral_norm", "set": {"loss": "hinge"}}, MHE])
    said = text_of(made)
    assert "- `sn_hinge`: `constraints.normalization`: spectral (none); `loss`: hinge (non_saturating)\n" in said
    listed = next(line for line in said.splitlines() if line.startswith("- `mhe`"))
    assert "lambda_hidden 1," in listed and "schedule.warmup_steps 500" in listed and "absent" not in listed


def test_a_bar_in_a_message_or_question_breaks_no_table(make: Any) -> None:
    made = fill(make(["none", "mhe"], question="Is |a| > |b|?\nReally?"), BETTER)
    assert "**Question.** Is |a| > |b|? Really?" in text_of(made)
    rows = [line for line in text_of(made).splitlines() if line.startswith("| mhe")]
    assert [row.count("|") for row in rows] == [10, 9, 10]
