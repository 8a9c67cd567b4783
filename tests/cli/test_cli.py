"""The `gan-mhe` command as a new user meets it: what it prints, where, and with which exit code."""

import csv
import io
import json
import re
import shutil
import signal
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gan_mhe.records import checkpoint, events
from gan_mhe.records.run_dir import RunDir
from gan_mhe.variants import VARIANTS
from server.cli.app import main
from tests.support.forked import Piped, Start

COMMANDS = [
    *(
        "train",
        "sweep",
        "study",
        "sample",
        "score",
        "compare",
        "info",
        "metrics",
        "variants",
        "scorer",
        "scorer train",
        "demo",
    ),
    *("serve", "submit", "watch", "jobs", "cancel", "pause", "resume", "retry", "fetch"),
    *("keys", "keys create", "keys list", "keys revoke"),
    *("backup", "restore", "adopt", "doctor", "trash", "trash list", "trash restore", "trash empty"),
]
SCORED = ("training.steps=2", "evaluation.num_samples=100")


class Output:
    """The output of one command."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


Command = Callable[..., Output]


@pytest.fixture
def gan_mhe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tiny_keys: tuple[str, ...]
) -> Command:
    """Run `gan-mhe` in `tmp_path`; `keys` are `--set` overrides on top of those that make a run tiny."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, keys: tuple[str, ...] | None = None) -> Output:
        overrides = [] if keys is None else [part for key in (*tiny_keys, *keys) for part in ("--set", key)]
        monkeypatch.setattr("sys.argv", ["gan-mhe", *arguments, *overrides])
        with pytest.raises(SystemExit) as stopped:
            main()
        output = capsys.readouterr()
        return Output(int(stopped.value.code or 0), output.out, output.err)

    return run


@pytest.fixture(scope="module")
def sweep_root(tmp_path_factory: pytest.TempPathFactory, tiny_keys: tuple[str, ...]) -> Path:
    """Two variants with two seeds each, scored on the digits."""
    root = tmp_path_factory.mktemp("cli") / "sweep"
    overrides = [part for key in (*tiny_keys, *SCORED) for part in ("--set", key)]
    arguments = [
        "gan-mhe",
        "sweep",
        "digits_cnn",
        "--variants",
        "none,mhe",
        "--seeds",
        "0,1",
        "--jobs",
        "1",
        "--out",
        str(root),
    ]
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as stopped:
        patch.setattr("sys.argv", [*arguments, *overrides])
        main()
    assert not stopped.value.code
    return root


# --- help


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_every_command_explains_itself(gan_mhe: Command, command: str) -> None:
    output = gan_mhe(*command.split(), "--help")
    assert (output.code, output.err) == (0, "")
    assert re.match(rf"Usage: .*gan-mhe {command}{' ' if command else ''}\[OPTIONS\]", output.out)


def test_help_names_every_command(gan_mhe: Command) -> None:
    listed = re.findall(r"^  (\w+)  ", gan_mhe("--help").out, re.MULTILINE)
    assert set(listed) == {command.split()[0] for command in COMMANDS}


def test_variants_lists_every_variant(gan_mhe: Command) -> None:
    first_words = {line.split(" ")[0] for line in gan_mhe("variants").out.splitlines()}
    assert set(VARIANTS) <= first_words


# --- train


def test_train_says_what_happens_line_by_line_and_where_the_run_is(gan_mhe: Command) -> None:
    output = gan_mhe("train", "digits_cnn", "--seed", "3", "--variant", "mhe", keys=SCORED)
    assert (output.code, output.err) == (0, "")
    lines = output.out.splitlines()
    assert lines[0] == "mhe seed 3  started, 2 steps"
    assert any(line.startswith("mhe seed 3  step 2/2  ") and "images/s" in line for line in lines)
    assert any("inception_score" in line and "(digits-v1," in line for line in lines)
    assert lines[-1] == "completed at step 2; run directory: runs/digits_cnn/mhe/seed_3"
    assert RunDir(Path("runs/digits_cnn/mhe/seed_3")).read_config().seed == 3


def test_train_ends_with_a_table_of_scores_beside_those_of_real_data(gan_mhe: Command) -> None:
    output = gan_mhe("train", "digits_cnn", keys=(*SCORED, "evaluation.every_steps=1"))
    assert re.search(r"^metric +final +best, rescored +real data *$", output.out, re.MULTILINE)
    assert re.search(r"^inception_score +[\d.]+ +[\d.]+ +5\.\d+ *$", output.out, re.MULTILINE)


def test_a_run_with_one_evaluation_has_no_best_that_was_scored_again(gan_mhe: Command) -> None:
    output = gan_mhe("train", "digits_cnn", keys=SCORED)
    assert re.search(r"^inception_score +[\d.]+ +- +5\.\d+ *$", output.out, re.MULTILINE)


def test_train_takes_a_file_and_its_name_names_the_runs(gan_mhe: Command) -> None:
    Path("mine.toml").write_text('[data]\nname = "synthetic"\n[evaluation]\nprotocol = "none"\n')
    assert gan_mhe("train", "mine.toml", keys=("training.steps=1",)).code == 0
    assert Path("runs/mine/none/seed_0/result.json").exists()


def test_train_into_a_run_that_has_started_needs_resume(gan_mhe: Command) -> None:
    train = ("train", "debug_cpu", "--run-dir", "run")
    assert gan_mhe(*train, keys=("training.steps=2",)).code == 0
    refused = gan_mhe(*train, keys=("training.steps=3",))
    assert (refused.code, refused.out) == (1, "")
    assert refused.err == ("error: run already contains a run; continue it with --resume or choose another --run-dir\n")
    resumed = gan_mhe(*train, "--resume", keys=("training.steps=3",))
    assert (resumed.code, resumed.err) == (0, "")
    assert resumed.out.startswith("none seed 0  resumed at step 2 of 3\n")


def test_resuming_a_finished_run_says_that_it_is_complete(gan_mhe: Command) -> None:
    train = ("train", "debug_cpu", "--run-dir", "run")
    gan_mhe(*train, keys=("training.steps=2",))
    again = gan_mhe(*train, "--resume", keys=("training.steps=2",))
    assert (again.code, again.out) == (0, "completed at step 2; run directory: run\n")


def test_resume_where_nothing_is_starts_a_run(gan_mhe: Command) -> None:
    output = gan_mhe("train", "debug_cpu", "--run-dir", "run", "--resume", keys=("training.steps=1",))
    assert (output.code, output.out.splitlines()[0]) == (0, "none seed 0  started, 1 steps")


# --- sample, score, info


@pytest.fixture(scope="module")
def run(sweep_root: Path) -> str:
    return str(sweep_root / "none" / "seed_0")


def test_sample_writes_the_files_it_reports(gan_mhe: Command, run: str) -> None:
    output = gan_mhe("sample", run, "--n", "3", "--seed", "5", "--out", "three.npz")
    assert (output.code, output.out, output.err) == (0, "3 images: three.npz\n", "")
    with np.load("three.npz", allow_pickle=False) as archive:
        assert archive["images"].shape == (3, 32, 32, 3)
    assert gan_mhe("sample", run, "--out", "folder").out == "64 images: folder\n"
    assert len(list(Path("folder").glob("*.png"))) == 64
    assert gan_mhe("sample", run, "--n", "2", "--interpolate", "4", "--out", "walk.png").out == "8 images: walk.png\n"
    assert Path("walk.png").exists()


def test_a_grid_has_the_columns_scale_and_padding_that_are_asked_for(gan_mhe: Command, run: str) -> None:
    layout = ("--columns", "2", "--scale", "3", "--padding", "1")
    gan_mhe("sample", run, "--n", "4", *layout, "--out", "grid.webp")
    with Image.open("grid.webp") as grid:
        assert (grid.format, grid.size) == ("WEBP", (2 * (3 * 32 + 1) + 1, 2 * (3 * 32 + 1) + 1))


def test_sample_checks_the_output_name_before_it_computes(
    gan_mhe: Command, run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gan_mhe.run.sample.draw", lambda *_, **__: pytest.fail("computed"))
    output = gan_mhe("sample", run, "--out", "images.gif")
    assert (output.code, output.err) == (
        2,
        "error: --out images.gif: expected FILE.png, FILE.webp, FILE.npz, FILE.zip or a folder, got suffix '.gif'\n",
    )


def test_score_prints_a_table_or_json_of_the_same_numbers(gan_mhe: Command, run: str) -> None:
    table, document = gan_mhe("score", run), json.loads(gan_mhe("score", run, "--format", "json").out)
    assert table.out.startswith("step 2  digits-v1\n")
    row = re.search(r"^fid +([\d.]+) .* ([0-9a-f]{12})$", table.out, re.MULTILINE)
    assert row is not None and float(row[1]) == pytest.approx(document["scores"]["fid"], rel=1e-3)
    assert row[2] == document["fingerprints"]["fid"][:12]
    assert set(document) == {"step", "protocol", "fingerprints", "scores", "real"}


def test_score_follows_the_runs_own_choice_of_generator(gan_mhe: Command) -> None:
    keys = (*SCORED, "generator.ema_halflife_steps=2", "evaluation.ema=true")
    gan_mhe("train", "digits_cnn", "--run-dir", "averaged", keys=keys)
    stored = RunDir(Path("averaged")).read_result()
    document = json.loads(gan_mhe("score", "averaged", "--format", "json").out)
    assert stored is not None and document["fingerprints"] == stored["fingerprints"]


def test_score_refuses_a_format_it_does_not_have(gan_mhe: Command, run: str) -> None:
    output = gan_mhe("score", run, "--format", "csv")
    assert (output.code, output.out) == (2, "")
    assert output.err == "error: --format: expected table or json, got csv\n"


def test_info_shows_the_configuration_and_progress_of_a_run(gan_mhe: Command, run: str) -> None:
    output = gan_mhe("info", run)
    rows = dict(re.findall(r"^(\w[\w/ ]*?)  +(.*?) *$", output.out, re.MULTILINE))
    assert (rows["variant"], rows["seed"], rows["status"]) == ("none", "0", "completed")
    assert (rows["step"], rows["checkpoints"]) == ("2 of 2", "2")
    assert "inception_score " in rows["final 2"] and "fid " in rows["final 2"]
    assert rows["digest"] == RunDir(Path(run)).read_config().digest()


def test_metrics_writes_the_numbers_of_a_run_as_csv(gan_mhe: Command, run: str) -> None:
    output = gan_mhe("metrics", run, "--out", "numbers.csv")
    header, *rows = Path("numbers.csv").read_text().splitlines()
    assert (output.code, output.err) == (0, "")
    assert output.out == f"{len(rows)} rows, {len(header.split(','))} columns: numbers.csv\n"
    assert {"step", "d_loss", "score/fid"} <= set(header.split(","))
    assert gan_mhe("metrics", run).out == Path("numbers.csv").read_text()
    assert "is not a run directory" in gan_mhe("metrics", "numbers.csv").err


def test_metrics_that_go_to_a_file_need_no_output(gan_mhe: Command, run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with open("/dev/full", "w") as full, monkeypatch.context() as patch:
        patch.setattr("sys.stdout", full)
        assert gan_mhe("metrics", run, "--out", "numbers.csv").code == 0
    assert Path("numbers.csv").stat().st_size > 0


def test_info_shows_what_the_data_of_a_run_hold(gan_mhe: Command, run: str) -> None:
    held = RunDir(Path(run)).read_data()
    assert held is not None
    assert f"{held.line()} content {held.sha256}" in " ".join(gan_mhe("info", run).out.split())


# --- sweep, compare, demo


def test_sweep_skips_finished_runs_and_compares_again(
    gan_mhe: Command, sweep_root: Path, tiny_keys: tuple[str, ...]
) -> None:
    before = {path: path.read_bytes() for path in sweep_root.rglob("*") if path.is_file()}
    arguments = ("sweep", "digits_cnn", "--variants", "none,mhe", "--seeds", "0,1", "--out", str(sweep_root))
    output = gan_mhe(*arguments, keys=SCORED)
    assert (output.code, output.err) == (0, "")
    assert output.out.splitlines()[0].split()[:4] == ["variant", "n", "mean", "std"]
    assert output.out.rstrip().endswith(f"runs: {sweep_root}")
    assert {path: path.read_bytes() for path in sweep_root.rglob("*") if path.is_file()} == before


def test_a_refused_sweep_shows_no_scores_of_the_runs_that_it_refused(gan_mhe: Command, sweep_root: Path) -> None:
    arguments = ("sweep", "digits_cnn", "--variants", "none", "--seeds", "0", "--jobs", "1", "--out", str(sweep_root))
    output = gan_mhe(*arguments, keys=(*SCORED, "optimizer.beta1=0.25"))
    assert output.code == 1 and "holds a run of another configuration: optimizer.beta1 was" in output.err
    assert "no scores to compare" in output.out and "inception" not in output.out.lower()


def test_a_sweep_over_changed_data_shows_no_scores(gan_mhe: Command, sweep_root: Path) -> None:
    root = Path(shutil.copytree(sweep_root, "changed"))
    data = root / "none" / "seed_0" / "data.json"
    data.write_text(json.dumps(json.loads(data.read_text()) | {"sha256": "0" * 64}))
    arguments = ("sweep", "digits_cnn", "--variants", "none", "--seeds", "0", "--jobs", "1", "--out", str(root))
    output = gan_mhe(*arguments, keys=SCORED)
    assert (output.code, output.out) == (2, "")
    assert "the images of digits changed: expected SHA-256 000" in output.err


def test_info_names_a_run_that_is_not_its_variant(gan_mhe: Command) -> None:
    train = ("train", "debug_cpu", "--run-dir", "run")
    assert gan_mhe(*train, keys=("training.steps=1", "constraints.normalization=spectral")).code == 0
    assert "none + constraints.normalization=spectral" in gan_mhe("info", "run").out


def test_sweep_without_scores_says_that_there_is_nothing_to_compare(gan_mhe: Command) -> None:
    arguments = ("sweep", "debug_cpu", "--variants", "none, mhe,none", "--out", "sweep", "--jobs", "1")
    output = gan_mhe(*arguments, keys=("training.steps=1",))
    assert (output.code, output.err) == (0, "")
    assert output.out.startswith("2 of 2 runs to do: one run at a time\n")
    assert output.out.splitlines()[-2:] == ["no scores to compare", "runs: sweep"]
    assert output.out.count("started") == 2


def test_sweep_reports_failures_after_the_others_are_done(gan_mhe: Command) -> None:
    Path("sweep").mkdir()
    Path("sweep/none").write_text("in the way")
    arguments = ("sweep", "digits_cnn", "--variants", "none,mhe", "--out", "sweep", "--jobs", "1")
    output = gan_mhe(*arguments, keys=SCORED)
    assert output.code == 1
    assert output.err.startswith("none seed 0: cannot write to run directory") and output.err.count("\n") == 1
    assert re.search(r"^mhe +1 ", output.out, re.MULTILINE)


def test_sweep_with_nothing_but_failures_names_each_once(gan_mhe: Command) -> None:
    Path("sweep").mkdir()
    for variant in ("none", "mhe"):
        Path("sweep", variant).write_text("in the way")
    output = gan_mhe("sweep", "debug_cpu", "--variants", "none,mhe", "--out", "sweep", "--jobs", "1", keys=())
    assert output.code == 1
    assert [line.partition(":")[0] for line in output.err.splitlines()] == ["none seed 0", "mhe seed 0"]


def test_sweep_refuses_less_than_one_run_at_a_time(gan_mhe: Command) -> None:
    output = gan_mhe("sweep", "debug_cpu", "--variants", "none", "--jobs", "0", keys=())
    assert output.code == 2 and "'--jobs'" in output.err


def test_compare_prints_the_same_comparison_in_every_format(gan_mhe: Command, sweep_root: Path) -> None:
    output = {
        name: gan_mhe("compare", str(sweep_root), "--format", name)
        for name in ("table", "json", "csv", "markdown", "latex")
    }
    assert {(each.code, each.err) for each in output.values()} == {(0, "")}
    document = json.loads(output["json"].out)
    by_csv = {row["variant"]: row for row in csv.DictReader(io.StringIO(output["csv"].out))}
    assert {row["variant"] for row in document["rows"]} == set(by_csv) == {"none", "mhe"}
    for row in document["rows"]:
        assert row["n"] == int(by_csv[row["variant"]]["n"]) == 2
        assert row["mean"] == float(by_csv[row["variant"]]["mean"])
        assert re.search(rf"^{row['variant']} +2 +{row['mean']:.2f} ", output["table"].out, re.MULTILINE)
        assert f"| {row['variant']} | 2 | {row['mean']:.2f} |" in output["markdown"].out
        assert f"{row['variant']} & 2 & ${row['mean']:.2f}$" in output["latex"].out
    assert document["fingerprint"][:12] in output["table"].out


def test_compare_refuses_scores_of_different_protocols(gan_mhe: Command, sweep_root: Path) -> None:
    keys = (*SCORED, "evaluation.num_samples=150")
    gan_mhe("train", "digits_cnn", "--run-dir", "other", "--variant", "spectral_norm", keys=keys)
    output = gan_mhe("compare", str(sweep_root), "other")
    assert (output.code, output.out) == (1, "")
    assert output.err.startswith("error: the runs were scored under 2 protocols, whose scores do not compare: ")
    assert "other: digits-v1 (" in output.err


def test_compare_by_a_distance_puts_the_lowest_first(gan_mhe: Command, sweep_root: Path) -> None:
    rows = json.loads(gan_mhe("compare", str(sweep_root), "--metric", "fid", "--format", "json").out)["rows"]
    assert [row["mean"] for row in rows] == sorted(row["mean"] for row in rows)


def test_compare_after_equal_training_time_says_at_what_time(gan_mhe: Command, sweep_root: Path) -> None:
    output = gan_mhe("compare", str(sweep_root), "--view", "wall_time", "--format", "json")
    document = json.loads(output.out)
    seconds: dict[str, list[float]] = {}
    for path in sweep_root.rglob("result.json"):
        stored = json.loads(path.read_text())
        seconds.setdefault(stored["variant"], []).append(stored["train_seconds"])
    shortest = min(map(statistics.median, seconds.values()))
    assert (output.code, document["view"], document["budget_seconds"]) == (0, "wall_time", pytest.approx(shortest))
    # Scored at their ends alone, only the seeds of the variant that trains the shortest have a score there.
    assert sorted(row["n"] for row in document["rows"])[:-1] == [0] * (len(seconds) - 1)
    assert "set evaluation.every_steps so that" in gan_mhe("compare", str(sweep_root), "--view", "wall_time").out


def test_a_scorer_can_be_trained_and_used_by_name(gan_mhe: Command, cache_dir: Path) -> None:
    output = gan_mhe("scorer", "train", "mine", "--data", "synthetic", "--width", "0.05", "--epochs", "8")
    assert (output.code, output.err) == (0, "")
    assert output.out.startswith("data: synthetic: 512 images; 4 classes (one blob 128, ")
    assert re.search(r"\n(epoch \d of 8  loss [\d.]+\n){8}held-out accuracy [\d.]+, chance 0.2500: ", output.out)
    keys = ("training.steps=1", "evaluation.protocol=classifier:mine")
    assert "(classifier:mine, " in gan_mhe("train", "debug_cpu", keys=keys).out
    (cache_dir / "scorers" / "mine.safetensors").unlink()


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """A divided folder of images of unequal sizes in two classes."""
    for split, number in (("train", 4), ("test", 2)):
        for class_name in ("ant", "bee"):
            (tmp_path / "photographs" / split / class_name).mkdir(parents=True)
            for k in range(number):
                Image.new("RGB", (40 + k, 50), "red").save(tmp_path / "photographs" / split / class_name / f"{k}.png")
    return tmp_path / "photographs"


def test_a_scorer_reads_with_the_settings_of_the_data_section(
    gan_mhe: Command, photographs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gan_mhe.run.score.check_skill", lambda *_, **__: None)  # four photographs teach too little
    command = ("scorer", "train", "photographs", "--data", "image_folder", "--root", str(photographs))
    keys = ("data.resize=crop", "data.split=test", "data.image_size=48")
    small = ("--epochs", "1", "--width", "0.05", "--device", "cpu")
    output = gan_mhe(*command, *small, *(part for key in keys for part in ("--set", key)))
    assert (output.code, output.err) == (0, "")
    assert output.out.startswith("data: image_folder: 4 images; 2 classes (ant 2, bee 2); split test; ")


def test_a_scorer_names_only_options_that_it_has(gan_mhe: Command, photographs: Path) -> None:
    command = ("scorer", "train", "photographs", "--data", "image_folder", "--root", str(photographs))
    output = gan_mhe(*command)
    assert output.code == 1 and 'set data.resize = "crop"' in output.err
    output = gan_mhe(*command, "--set", "training.steps=3", "--set", "data.flip=true")
    assert (output.code, output.out) == (2, "")
    assert output.err == "error: --set: a scorer reads keys of the section data only; got training.steps\n"


# --- interruption


def wait_for_line(process: Piped, text: str) -> None:
    for line in process.stdout:
        if text in line:
            return
    pytest.fail(f"{text!r} was never output: {process.stderr.read() if process.stderr else ''}")


def train_arguments(keys: tuple[str, ...]) -> list[str]:
    return ["train", "debug_cpu", "--run-dir", "run", *(part for key in keys for part in ("--set", key))]


def test_ctrl_c_saves_exits_with_130_and_can_be_resumed(
    start_command: Start, tiny_keys: tuple[str, ...], tmp_path: Path
) -> None:
    process = start_command(*train_arguments((*tiny_keys, "training.steps=5000")))
    wait_for_line(process, "checkpoints/step_00000005")
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (130, "")
    assert output.rstrip().endswith("run the same command with --resume to continue")
    stopped = RunDir(tmp_path / "run").checkpoint_steps()[-1]
    again = start_command(*train_arguments((*tiny_keys, "training.steps=5000")), "--resume")
    wait_for_line(again, f"none seed 0  resumed at step {stopped} of 5000")


def test_ctrl_c_saves_and_ends_all_runs_of_a_sweep_at_once(
    start_command: Start, tiny_keys: tuple[str, ...], tmp_path: Path
) -> None:
    keys = (*tiny_keys, "training.steps=5000", "evaluation.protocol=none")
    arguments = ["sweep", "debug_cpu", "--variants", "none,mhe", "--out", "sweep", "--jobs", "2"]
    arguments += [part for key in keys for part in ("--set", key)]
    process = start_command(*arguments)
    run_dirs = [RunDir(tmp_path / "sweep" / variant / "seed_0") for variant in ("none", "mhe")]
    while not all(run_dir.checkpoint_steps() for run_dir in run_dirs):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (130, "")
    assert output.endswith("stopped; run the same command to continue\n")
    for run_dir in run_dirs:
        *_, last = run_dir.read_events()
        assert isinstance(last, events.Finished) and last.reason == "stopped"
        assert run_dir.checkpoint_steps()[-1] == last.step
        with run_dir.locked():  # nobody writes to it any more
            pass


SLOW_DISK = """
import time
from gan_mhe.records import checkpoint
save = checkpoint.save
def save_slowly(directory, content):
    if content.step != 5:
        time.sleep(120)
    return save(directory, content)
checkpoint.save = save_slowly
"""


def test_a_second_ctrl_c_quits_at_once_and_leaves_the_last_checkpoint(
    start_command: Start, tiny_keys: tuple[str, ...], tmp_path: Path
) -> None:
    keys = (*tiny_keys, "training.steps=5000", "checkpoint.every_steps=5", "checkpoint.keep_last=1")
    process = start_command(*train_arguments(keys), before=SLOW_DISK)
    wait_for_line(process, "checkpoints/step_00000005")
    process.send_signal(signal.SIGINT)
    wait_for_line(process, "stopping: finishing and saving this step first; repeat to quit without saving")
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert time.monotonic() - began < 30
    assert (process.returncode, errors) == (130, "")
    assert output.endswith("quitting without saving; the last checkpoint is intact\n")
    [step] = RunDir(tmp_path / "run").checkpoint_steps()
    assert checkpoint.load(RunDir(tmp_path / "run").checkpoint(step)).step == 5
