"""Studies: what may be compared, in which order it is run, that nothing is done twice, and where a budget ends it."""

import json
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from gan_mhe.cli import study_runs
from gan_mhe.config.documents import PRESETS, load_document
from gan_mhe.config.run_config import RunConfig
from gan_mhe.errors import ConfigError, RunDirError
from gan_mhe.records.events import Started
from gan_mhe.records.run_dir import RunDir
from gan_mhe.study.definition import Arm, Study, load, load_saved, run_directory, runs, save, scores
from server.cli.app import main
from tests.support.forked import Piped, Start

Command = Callable[..., tuple[int, str, str]]
Write = Callable[..., Path]

HEAD = """
name = "energies"
question = "Does the energy help?"
config = "debug_cpu"
seeds = [3, 1]
reference = "plain"
"""
ARMS = """
[[arms]]
name = "plain"
variant = "none"

[[arms]]
name = "mhe-2"
variant = "mhe"
set = { constraints.mhe.lambda_hidden = 2.0 }
family = "mhe"
strength = 2
"""


@pytest.fixture
def write(tmp_path: Path, tiny_keys: tuple[str, ...]) -> Write:
    """Write a study whose runs are tiny, with further overrides of every arm, and return its path."""

    def study(*overrides: str, head: str = HEAD, arms: str = ARMS) -> Path:
        tables = "\n".join(key if '"' in key else _quoted(key) for key in (*tiny_keys, "training.steps=3", *overrides))
        path = tmp_path / "study.toml"
        path.write_text(f"{head}\n[set]\n{_last_of_each(tables)}\n{arms}")
        return path

    return study


def _quoted(assignment: str) -> str:
    key, _, value = assignment.partition("=")
    return f"{key} = {value if value[0].isdigit() else json.dumps(value)}"


def _last_of_each(lines: str) -> str:
    return "\n".join({line.split(" = ")[0]: line for line in lines.splitlines()}.values())


@pytest.fixture
def gan_mhe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run `gan-mhe` in `tmp_path` and return exit code, output and error output."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["gan-mhe", *arguments])
        with pytest.raises(SystemExit) as stopped:
            main()
        said = capsys.readouterr()
        return int(stopped.value.code or 0), said.out, said.err

    return run


def files(root: Path, *cells: str) -> dict[Path, tuple[bytes, int]]:
    """Contents and times of all files of some runs."""
    found = [path for cell in cells for path in (root / cell).rglob("*") if path.is_file()]
    assert found
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in found}


def statuses(root: Path) -> dict[str, str | None]:
    """Of every run that was begun."""
    places = {config.parent: RunDir(config.parent).read_result() for config in sorted(root.rglob("config.json"))}
    return {str(path.relative_to(root)): result and result["status"] for path, result in places.items()}


ALL = ["plain/seed_3", "mhe-2/seed_3", "plain/seed_1", "mhe-2/seed_1"]


def test_a_study_whose_output_is_lost_completes_and_writes_its_report(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write("training.steps=1", head=HEAD.replace("[3, 1]", "[3]"))
    monkeypatch.setattr("sys.argv", ["gan-mhe", "study", str(path), "--out", str(tmp_path / "out"), "--jobs", "1"])
    with open("/dev/full", "w", encoding="utf-8") as full:
        monkeypatch.setattr("sys.stdout", full)
        with pytest.raises(SystemExit, match="0"):
            main()
    assert statuses(tmp_path / "out") == {"mhe-2/seed_3": "completed", "plain/seed_3": "completed"}
    assert (tmp_path / "out" / "report" / "report.md").exists()


# --- what a study is


def test_paths_are_relative_to_the_file_that_has_them(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bases").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "bases" / "mine.toml").write_text('[data]\nname = "synthetic"\nroot = "images"\n')
    path = write("evaluation.weights=w.safetensors", head=HEAD.replace("debug_cpu", "bases/mine.toml"))
    monkeypatch.chdir(tmp_path / "elsewhere")
    config = runs(load(path))[0].config
    assert config.data.root == tmp_path / "bases" / "images"
    assert config.evaluation.weights == tmp_path / "w.safetensors"


def test_at_a_service_a_path_is_a_name(write: Write) -> None:
    config = runs(load(write("evaluation.weights=mine"), at_service=True))[0].config
    assert config.evaluation.weights == Path("mine")


def test_a_study_is_read_whole(write: Write) -> None:
    study = load(write())
    assert (study.name, study.seeds, study.metric, study.wall_time_minutes) == (
        "energies",
        (3, 1),
        "inception_score",
        None,
    )
    assert [(arm.name, arm.variant, arm.family, arm.strength) for arm in study.arms] == [
        ("plain", "none", None, None),
        ("mhe-2", "mhe", "mhe", 2.0),
    ]
    assert study.base == load_document(PRESETS / "debug_cpu.toml")


def test_cells_come_seed_by_seed_with_all_arms_of_a_seed_together(write: Write) -> None:
    found = runs(load(write()))
    assert [str(run_directory(Path(), cell.arm.name, cell.seed)) for cell in found] == ALL
    assert [cell.title for cell in found][:2] == ["plain seed 3", "mhe-2 seed 3"]
    assert [cell.config.seed for cell in found] == [3, 3, 1, 1]


def test_an_arm_is_its_variant_with_the_studys_and_then_its_own_overrides(write: Write) -> None:
    plain, mhe = [cell.config for cell in runs(load(write("optimizer.beta1=0.25", "loss=hinge")))][:2]
    assert (plain.variant, plain.loss, plain.optimizer.beta1, plain.constraints.mhe) == ("none", "hinge", 0.25, None)
    assert mhe.constraints.mhe is not None and mhe.constraints.mhe.lambda_hidden == 2.0
    assert mhe.constraints.mhe.schedule.warmup_steps == 500  # of the variant, which the override does not touch


def test_an_arms_override_wins_over_the_studys(write: Write) -> None:
    arms = ARMS.replace("set = { constraints", 'set = { loss = "wasserstein", constraints')
    plain, mhe = [cell.config for cell in runs(load(write("loss=hinge", arms=arms)))][:2]
    assert (plain.loss, mhe.loss) == ("hinge", "wasserstein")


def test_dotted_keys_are_tables(write: Write) -> None:
    dotted = ARMS.replace("{ constraints.mhe.lambda_hidden = 2.0 }", '{ "constraints.mhe.lambda_hidden" = 2.0 }')
    assert [c.config for c in runs(load(write(arms=dotted)))] == [c.config for c in runs(load(write()))]


def test_a_configuration_is_found_beside_the_studys_file(write: Write, tmp_path: Path) -> None:
    (tmp_path / "bases").mkdir()
    (tmp_path / "bases" / "mine.toml").write_text('loss = "least_squares"\n[data]\nname = "synthetic"\n')
    study = load(write("evaluation.protocol=none", head=HEAD.replace("debug_cpu", "bases/mine.toml")))
    assert runs(study)[0].config.loss == "least_squares"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "debug_cpu",
            "debug_gpu",
            r"^config: cannot read configuration .*debug_gpu: there is no such file .*; presets: .*debug_cpu",
        ),
        ("seeds = [3, 1]", "seeds = [3, 1, 3]", "^seeds: expected each once, got 3 several times$"),
        ("seeds = [3, 1]", "seeds = []", "^seeds: expected at least one$"),
        ("seeds = [3, 1]", "seeds = [-1]", r"^seeds\.0: .*greater than or equal to 0, but it is -1$"),
        ('reference = "plain"', 'reference = "plane"', "^reference: unknown arm 'plane'; did you mean 'plain'"),
        ('reference = "plain"', "", "^reference: field required$"),
        ('reference = "plain"', 'reference = "plain"\nmetric = "fidd"', "^metric: unknown metric 'fidd'; did you"),
        ('reference = "plain"', 'reference = "plain"\nwall_time_minutes = 0', "^wall_time_minutes: .*, but it is 0$"),
        (
            'reference = "plain"',
            'reference = "plain"\nquestoin = ""',
            "^questoin: unknown key; did you mean 'question'",
        ),
        ('reference = "plain"', 'reference = "plain"\nbase = {}', "^base: unknown key"),
        ('name = "energies"', 'name = "../energies"', r"^name: .*, but it is '\.\./energies'$"),
        ('name = "mhe-2"', 'name = "plain"', "^arms: expected each once, got 'plain' several times$"),
        ('name = "mhe-2"', 'name = "a/b"', r"^arms\.1\.name: .*, but it is 'a/b'$"),
        (
            'variant = "mhe"',
            'variant = "weight_cliping"',
            r"^arms\.1\.variant: unknown variant 'weight_cliping'; did you mean 'weight_clipping'",
        ),
        ('family = "mhe"', "", r"^arms\.1: family is missing; expected the curve of which strength 2 is a point$"),
        ('family = "mhe"', 'famili = "mhe"', r"^arms\.1\.famili: unknown key; did you mean 'family'"),
        ("strength = 2", "strength = -1", r"^arms\.1\.strength: .*, but it is -1$"),
        ("lambda_hidden", "lambda_hiden", "^arm 'mhe-2': constraints.mhe.lambda_hiden: unknown key; did you mean"),
        ("constraints.mhe.lambda_hidden = 2.0", "seed = 4", "^arm 'mhe-2': set.seed: "),
        ("constraints.mhe.lambda_hidden = 2.0", 'variant = "sn"', "^arm 'mhe-2': set.variant: "),
        (
            "constraints.mhe.lambda_hidden = 2.0",
            "training.batch_size = 9",
            "^arm 'mhe-2' differs from arm 'plain' in more than variant, loss and constraints: "
            "training.batch_size is 4 in 'plain' and 9 in 'mhe-2'$",
        ),
    ],
)
def test_what_is_no_study_is_refused_with_the_place_and_what_was_expected(
    write: Write, old: str, new: str, message: str
) -> None:
    assert old in HEAD + ARMS
    with pytest.raises(ConfigError, match=message):
        load(write(head=HEAD.replace(old, new), arms=ARMS.replace(old, new)))


@pytest.mark.parametrize("variant", ["mhe", "none"])
def test_two_arms_of_the_same_configuration_are_refused_under_any_variants_name(write: Write, variant: str) -> None:
    same = "constraints.mhe = { lambda_hidden = 2.0, schedule.warmup_steps = 500 }"
    third = f'[[arms]]\nname = "again"\nvariant = "{variant}"\nset = {{ {same} }}\n'
    with pytest.raises(ConfigError, match=r"^arm 'again' has the same configuration as arm 'mhe-2'$"):
        load(write(arms=ARMS + third))


def test_arms_may_differ_in_how_they_are_executed(write: Write) -> None:
    arms = ARMS.replace("set = { constraints", 'set = { training.engine = "eager", constraints')
    assert [cell.config.training.engine for cell in runs(load(write(arms=arms)))][:2] == ["auto", "eager"]


# --- what a folder keeps of it


def test_a_folder_keeps_the_study_as_it_is(write: Write, tmp_path: Path) -> None:
    study = load(write())
    save(study, tmp_path / "out")
    assert load_saved(tmp_path / "out") == study
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["study.json"]


def test_another_configuration_of_the_same_cells_is_refused_with_what_changed(write: Write, tmp_path: Path) -> None:
    root = tmp_path / "out"
    save(load(write()), root)
    before = (root / "study.json").read_bytes()
    with pytest.raises(ConfigError, match=r"training\.steps was 3, is 4 \(arm plain, mhe-2\)$"):
        save(load(write("training.steps=4")), root)
    with pytest.raises(ConfigError, match=r"lambda_hidden was 2\.0, is 3\.0 \(arm mhe-2\)$"):
        save(load(write(arms=ARMS.replace("= 2.0", "= 3.0"))), root)
    assert (root / "study.json").read_bytes() == before


def test_arms_seeds_and_words_may_come_and_go(write: Write, tmp_path: Path) -> None:
    root, third = tmp_path / "out", '[[arms]]\nname = "sn"\nvariant = "spectral_norm"\n'
    save(load(write()), root)
    more = load(write(arms=ARMS + third, head=HEAD.replace("[3, 1]", "[1, 5]").replace("Does", "How much does")))
    save(more, root)
    assert load_saved(root) == more
    save(load(write()), root)


@pytest.mark.parametrize(("content", "message"), [(None, "holds no study"), ("{", "cannot be read")])
def test_a_folder_without_a_sound_study_is_refused(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "study.json").write_text(content)
    with pytest.raises(RunDirError, match=message):
        load_saved(tmp_path)


# --- the command


def test_a_study_runs_every_cell_compares_the_arms_and_is_not_done_twice(
    gan_mhe: Command, write: Write, tmp_path: Path
) -> None:
    scored = ("training.steps=2", "data.name=digits", "evaluation.protocol=digits-v1")
    write(*scored)
    code, said, err = gan_mhe("study", "study.toml", "--jobs", "1")
    root = tmp_path / "runs" / "studies" / "energies"
    assert (code, err) == (0, "")
    assert statuses(root) == dict.fromkeys(sorted(ALL), "completed")
    lines = said.splitlines()
    assert lines[0] == "4 of 4 runs to do: one run at a time"
    assert [line.split("  ")[0] for line in lines if line.endswith("started, 2 steps")] == [
        "plain seed 3", "mhe-2 seed 3", "plain seed 1", "mhe-2 seed 1"
    ]  # fmt: skip
    assert {"mhe-2", "plain"} <= {line.split(" ")[0] for line in lines}
    assert "2 pairs" in said and "difference to plain" in " ".join(said.split())
    assert lines[-1] == "report: runs/studies/energies/report/report.md"
    before = files(root, *ALL)
    code, again, _ = gan_mhe("study", "study.toml", "--jobs", "1")
    assert code == 0 and "started" not in again
    assert again.splitlines() == lines[-len(again.splitlines()) :]
    assert files(root, *ALL) == before


def test_a_killed_study_goes_on_in_the_middle_of_a_run_and_repeats_none(
    gan_mhe: Command, start_command: Start, write: Write, tmp_path: Path
) -> None:
    write("training.steps=40", "checkpoint.every_steps=20", head=HEAD.replace("[3, 1]", "[3]"))
    process = start_command("study", "study.toml", "--out", "out", "--jobs", "1")
    root = tmp_path / "out"
    wait_for(root / "mhe-2" / "seed_3" / "checkpoints" / "step_00000020", process)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert statuses(root) == {"mhe-2/seed_3": None, "plain/seed_3": "completed"}
    before = files(root, "plain/seed_3")
    assert gan_mhe("study", "study.toml", "--out", "out", "--jobs", "1")[0] == 0
    assert files(root, "plain/seed_3") == before
    assert statuses(root) == dict.fromkeys(["mhe-2/seed_3", "plain/seed_3"], "completed")
    began = [event for event in RunDir(root / "mhe-2/seed_3").read_events() if isinstance(event, Started)]
    assert [event.resumed for event in began] == [False, True] and began[1].step == 20


def wait_for(path: Path, process: Piped) -> None:
    while not path.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)


def test_ctrl_c_saves_reports_and_says_that_it_can_go_on(start_command: Start, write: Write, tmp_path: Path) -> None:
    write("training.steps=5000")
    process = start_command("study", "study.toml", "--out", "out", "--jobs", "1")
    wait_for(tmp_path / "out" / "plain" / "seed_3" / "checkpoints" / "step_00000005", process)
    process.send_signal(signal.SIGINT)
    said, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "")
    lines = said.splitlines()
    assert "stopped; run the same command to continue" in lines
    assert lines[-2:] == ["no scores to compare", "report: out/report/report.md"]
    assert statuses(tmp_path / "out") == {"plain/seed_3": "stopped"}


def test_a_failing_arm_does_not_keep_the_others_from_being_finished(
    gan_mhe: Command, write: Write, tmp_path: Path
) -> None:
    write(arms=ARMS.replace("set = { constraints", 'set = { training.device = "cuda:99", constraints'))
    code, said, err = gan_mhe("study", "study.toml", "--out", "out", "--jobs", "1")
    assert code == 1
    assert [line.split(":")[0] for line in err.splitlines()] == ["mhe-2 seed 3", "mhe-2 seed 1"]
    assert statuses(tmp_path / "out") == {"plain/seed_1": "completed", "plain/seed_3": "completed"}
    assert "budget" not in said and "report: out/report/report.md" in said


def test_a_report_alone_runs_nothing_and_takes_what_is_there(
    gan_mhe: Command, write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = load(write())
    assert gan_mhe("study", "study.toml", "--out", "out", "--report-only") == (
        1, "", "error: out holds no study: it has no study.json\n"
    )  # fmt: skip
    assert run_for(study, tmp_path / "out", minutes=1.0, seconds=[30.0, 31.0]) == 0
    save(study, tmp_path / "out")
    before = files(tmp_path / "out", *ALL[:2])
    capsys.readouterr()
    code, said, err = gan_mhe("study", "study.toml", "--out", "out", "--report-only")
    assert (code, said.splitlines(), err) == (0, ["no scores to compare", "report: out/report/report.md"], "")
    assert files(tmp_path / "out", *ALL[:2]) == before
    assert list(statuses(tmp_path / "out")) == sorted(ALL[:2])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--server", "http://127.0.0.1:9", "--budget", "5"), "--jobs, --budget and --report-only apply to local runs"),
        (("--server", "http://127.0.0.1:9", "--report-only"), "--jobs, --budget and --report-only apply to local runs"),
        (("--budget", "0"), "--budget: expected minutes, more than 0; got 0"),
        (("--budget", "nan"), "--budget: expected minutes, more than 0; got nan"),
    ],
)
def test_options_that_contradict_each_other_are_refused_before_anything_is_written(
    gan_mhe: Command, write: Write, tmp_path: Path, arguments: Sequence[str], message: str
) -> None:
    write()
    code, said, err = gan_mhe("study", "study.toml", *arguments)
    assert (code, said) == (2, "") and message in err
    assert [path.name for path in tmp_path.iterdir()] == ["study.toml"]


# --- the budget


def run_for(study: Study, root: Path, *, minutes: float, seconds: Sequence[float]) -> int:
    """The exit code, on a clock that only runs go on by, each by so many seconds."""

    def clock() -> float:
        return 50.0 + sum(seconds[: list(statuses(root).values()).count("completed")])

    return study_runs.run(study, root, jobs=1, minutes=minutes, clock=clock)


def test_a_budget_ends_after_whole_seeds_and_the_same_command_goes_on(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = load(write(head=HEAD.replace("[3, 1]", "[3, 1, 4]")))
    assert run_for(study, tmp_path, minutes=2.5, seconds=[30.0] * 6) == 0
    assert list(statuses(tmp_path)) == sorted(ALL)
    end = "time budget used up: 2 of 3 seeds are complete; run the same command to continue"
    assert capsys.readouterr().out.splitlines()[-1] == end
    assert run_for(study, tmp_path, minutes=2.5, seconds=[0.0] * 4 + [30.0] * 2) == 0
    assert len(statuses(tmp_path)) == 6
    assert "budget" not in capsys.readouterr().out


def test_a_study_whose_data_have_changed_is_refused_before_anything_is_trained(write: Write, tmp_path: Path) -> None:
    study = load(write("training.steps=1", head=HEAD.replace("[3, 1]", "[3]")))
    assert study_runs.run(study, tmp_path, jobs=1) == 0
    data = tmp_path / "plain" / "seed_3" / "data.json"
    data.write_text(json.dumps(json.loads(data.read_text()) | {"sha256": "0" * 64}))
    shutil.rmtree(tmp_path / "mhe-2")
    with pytest.raises(ConfigError, match=f"plain/seed_3 was made with other files: .*expected SHA-256 {'0' * 64}"):
        study_runs.run(study, tmp_path, jobs=1)
    assert not (tmp_path / "mhe-2").exists()


def test_the_files_budget_holds_unless_another_is_given(
    gan_mhe: Command, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[Any] = []
    monkeypatch.setattr(study_runs, "run", lambda *_, minutes, **__: taken.append(minutes) or 0)
    write(head=HEAD + "wall_time_minutes = 7.5\n")
    gan_mhe("study", "study.toml")
    gan_mhe("study", "study.toml", "--budget", "2")
    write()
    gan_mhe("study", "study.toml")
    assert taken == [7.5, 2.0, None]


# --- scores


def test_scores_go_by_arm_and_leave_out_runs_of_anything_else(write: Write, tmp_path: Path) -> None:
    study = load(write())
    plain, mhe = runs(study)[:2]
    for cell, config in ((plain, plain.config), (mhe, _longer(mhe.config))):
        place = run_directory(tmp_path, cell.arm.name, cell.seed)
        place.mkdir(parents=True)
        (place / "config.json").write_text(config.model_dump_json())
    damaged = run_directory(tmp_path, "plain", 1)
    damaged.mkdir()
    (damaged / "config.json").write_text("{")
    assert [(score.variant, score.seed) for score in scores(study, tmp_path)] == [("plain", 3)]


def _longer(config: RunConfig) -> RunConfig:
    return config.model_copy(update={"training": config.training.model_copy(update={"steps": 99})})


def test_an_arm_needs_no_strength(write: Write) -> None:
    assert Arm(name="a", variant="mhe", family="mhe").strength is None
