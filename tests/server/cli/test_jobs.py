"""The commands that use a service, and the client, with a real service and a fake worker."""

import json
import logging
import re
import signal
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import structlog
import uvicorn

from server import startup
from server.cli.app import main
from server.client import Client, Conflict, NotFound, Rejected, TaskFailed
from server.settings import Settings
from tests.support.app import make_app
from tests.support.paths import FAKE_WORKER

WORKER_COMMAND = (sys.executable, str(FAKE_WORKER))
MAIN = "from server.cli.app import main; main()"
LIMIT_SECONDS = 20.0
QUICK = {
    "training.steps": 12,
    "training.report_every_steps": 4,
    "sampling.every_steps": 6,
    "evaluation.every_steps": 6,
    "checkpoint.every_steps": 6,
}
QUICK_KEYS = [part for key, value in QUICK.items() for part in ("--set", f"{key}={value}")]
ENDLESS = QUICK | {"training.steps": 1_000_000}
ENDLESS_KEYS = [*QUICK_KEYS, "--set", "training.steps=1000000"]

STATES = ("queued", "starting", "running", "succeeded")

Output = tuple[int, str, str]
Command = Callable[..., Output]


class Live:
    """A service in threads of this process."""

    def __init__(self, data_dir: Path) -> None:
        settings = Settings(
            data_dir=data_dir,
            cpu_slots=2,
            cuda_slots_per_device=0,
            worker_command=WORKER_COMMAND,
            grace_seconds=2,
            lease_ttl_seconds=5,
            program_retries=0,
            retry_backoff_seconds=0.05,
            disk_reserve_bytes=0,
        )
        self.service = startup.open_service(settings)
        config = uvicorn.Config(make_app(self.service), port=0, log_config=None, timeout_graceful_shutdown=2)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run)
        self._thread.start()
        until(lambda: self._server.started)
        port = self._server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"

    def stop(self) -> None:
        with Client(self.url) as client:
            cancel_all(client)
        self.service.broker.shutdown()
        self._server.should_exit = True
        self._thread.join()


def cancel_all(client: Client) -> None:
    for job in client.jobs():
        if not job.terminal:
            with suppress(Conflict):  # it has ended meanwhile
                client.cancel(job.id, mode="now")
    until(lambda: all(job.terminal for job in client.jobs()))


def until(happened: Callable[[], Any], what: str = "it") -> Any:
    limit = time.monotonic() + LIMIT_SECONDS
    while not (found := happened()):
        assert time.monotonic() < limit, f"{what} did not happen within {LIMIT_SECONDS} s"
        time.sleep(0.02)
    return found


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    # Otherwise its log would be part of the commands' output.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FAKE_WORKER_STEP_SECONDS", "0.005")
        service = Live(tmp_path_factory.mktemp("commands") / "data")
        yield service
        service.stop()
    structlog.reset_defaults()


@pytest.fixture
def client(live: Live) -> Iterator[Client]:
    with Client(live.url) as client:
        yield client


@pytest.fixture
def gan_mhe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> Command:
    """Run `gan-mhe` in an empty directory and return exit code, output and error output."""
    monkeypatch.chdir(tmp_path)
    for name in ("GAN_MHE_KEY", "GAN_MHE_SERVER"):
        monkeypatch.delenv(name, raising=False)
    if "live" in request.fixturenames:
        monkeypatch.setenv("GAN_MHE_SERVER", request.getfixturevalue("live").url)

    def run(*arguments: str) -> Output:
        monkeypatch.setattr("sys.argv", ["gan-mhe", *arguments])
        with pytest.raises(SystemExit) as stopped:
            main()
        captured = capsys.readouterr()
        return int(stopped.value.code or 0), captured.out, captured.err

    return run


@pytest.fixture(scope="module")
def done(live: Live) -> str:
    """A job that has succeeded."""
    with Client(live.url) as client:
        job = client.submit(preset="digits_cnn", variant="mhe_sn", seed=3, overrides=QUICK)
        assert client.wait(job.id, timeout=LIMIT_SECONDS).state == "succeeded"
        return job.id


@pytest.fixture(scope="module")
def experiment(live: Live) -> str:
    """Two variants with two seeds, all succeeded."""
    with Client(live.url) as client:
        matrix = {"variant": ["none", "mhe"], "seed": [0, 1]}
        made = client.submit_experiment(preset="digits_cnn", matrix=matrix, overrides=QUICK, name="pairs")
        for job_id in made.job_ids:
            assert client.wait(job_id, timeout=LIMIT_SECONDS).state == "succeeded"
        return made.id


# --- submit


def test_submit_prints_the_id_of_the_requested_job(gan_mhe: Command, client: Client, live: Live) -> None:
    metadata = ("--name", "mine", "--label", "paper=mhe", "--label", "empty=", "--priority", "3")
    code, printed, err = gan_mhe("submit", "digits_cnn", "--variant", "mhe", "--seed", "5", *QUICK_KEYS, *metadata)
    assert (code, err) == (0, "")
    job = client.job(printed.strip())
    assert (job.name, job.variant, job.seed, job.priority) == ("mine", "mhe", 5, 3)
    assert job.labels == {"paper": "mhe", "empty": ""}
    assert job.config["training"]["steps"] == 12
    assert client.wait(job.id, timeout=LIMIT_SECONDS).state == "succeeded"


def test_a_dry_run_prints_the_configuration_and_submits_nothing(gan_mhe: Command, client: Client, live: Live) -> None:
    before = [job.id for job in client.jobs()]
    code, printed, err = gan_mhe(
        "submit", "digits_cnn", "--variant", "half_mhe", "--seed", "7", *QUICK_KEYS, "--dry-run"
    )
    assert (code, err) == (0, "")
    document, end = json.JSONDecoder().raw_decode(printed)
    assert (document["variant"], document["seed"], document["training"]["steps"]) == ("half_mhe", 7, 12)
    assert re.search(r"digest sha256:[0-9a-f]{64}\n12 generator steps ", printed[end:])
    assert [job.id for job in client.jobs()] == before


def test_a_dry_run_of_a_matrix_prints_its_cost_and_submits_nothing(
    gan_mhe: Command, client: Client, live: Live
) -> None:
    before = [job.id for job in client.jobs()]
    matrix = ("--variants", "none,mhe", "--seeds", "0,1", "--vary", "training.batch_size=[8, 16]")
    code, printed, err = gan_mhe("submit", "digits_cnn", *matrix, *QUICK_KEYS, "--dry-run")
    assert (code, err) == (0, "")
    assert printed.startswith("8 jobs with 96 generator steps on 1,152 real images in all")
    assert [job.id for job in client.jobs()] == before


def test_vary_combines_the_values_of_any_key(gan_mhe: Command, client: Client, live: Live) -> None:
    keys = ("--vary", "training.batch_size=[8, 16]", "--vary", 'loss=["hinge"]', "--wall-seconds-limit", "50")
    code, printed, err = gan_mhe("submit", "digits_cnn", *keys, *QUICK_KEYS)
    assert (code, err) == (0, "")
    made = client.experiment(printed.strip())
    assert made.matrix == {"training.batch_size": [8, 16], "loss": ["hinge"]}
    assert [client.job(job_id).config["training"]["batch_size"] for job_id in made.job_ids] == [8, 16]


def test_a_local_file_is_sent_as_a_configuration(gan_mhe: Command, client: Client, live: Live) -> None:
    Path("mine.toml").write_text('variant = "mhe"\n[data]\nname = "synthetic"\n[training]\nsteps = 9\n')
    code, printed, err = gan_mhe("submit", "mine.toml", "--set", "evaluation.protocol=none", "--seed", "2")
    assert (code, err) == (0, "")
    config = client.job(printed.strip()).config
    sent = tomllib.loads(Path("mine.toml").read_text())
    assert (config["variant"], config["data"]["name"]) == (sent["variant"], sent["data"]["name"])
    assert (config["training"]["steps"], config["seed"], config["evaluation"]["protocol"]) == (9, 2, "none")


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_nothing_local_hides_a_preset(gan_mhe: Command, live: Live, kind: str) -> None:
    if kind == "file":
        Path("debug_cpu").write_text("seed = 3\n")
    else:
        Path("debug_cpu").mkdir()
    code, printed, err = gan_mhe("submit", "debug_cpu", "--dry-run")
    assert (code, err) == (0, "")
    assert json.JSONDecoder().raw_decode(printed)[0]["data"]["name"] == "synthetic"


def test_a_name_that_looks_like_a_date_is_sent_as_text(gan_mhe: Command, live: Live) -> None:
    keys = ("data.name=image_folder", "data.root=2024-05-01", "evaluation.protocol=none")
    code, _, err = gan_mhe("submit", "digits_cnn", *(part for key in keys for part in ("--set", key)))
    assert code == 2
    assert err.startswith("error: data.root: unknown name '2024-05-01'")


def test_a_path_in_a_file_is_refused_by_the_service(gan_mhe: Command, live: Live) -> None:
    Path("mine.toml").write_text('[data]\nname = "image_folder"\nroot = "/data/images"\n')
    code, printed, err = gan_mhe("submit", "mine.toml", "--set", "evaluation.protocol=none")
    assert (code, printed) == (2, "")
    assert err.startswith("error: data.root: unknown name '/data/images'")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("digits_cn",), "error: preset: unknown preset 'digits_cn'; did you mean 'digits_cnn'?"),
        (("missing.toml",), "error: cannot read configuration missing.toml: No such file or directory"),
        (("digits_cnn", "--set", "training.stepz=3"), "error: training.stepz: unknown key; did you mean 'steps'?"),
        (
            ("digits_cnn", "--set", "optimizer.generator_lr=nan"),
            "error: overrides.optimizer.generator_lr: expected a value that JSON has, got nan",
        ),
        (("digits_cnn", "--set", "steps"), "error: --set 'steps': expected key=value"),
        (("digits_cnn", "--label", "paper"), "error: --label 'paper': expected key=value"),
        (("digits_cnn", "--seeds", "0,x"), "error: --seeds '0,x': expected comma-separated integers"),
        (("digits_cnn", "--seeds", "0,1", "--variant", "mhe"), "error: --variants, --seeds and --vary create"),
        (("digits_cnn", "--vary", "seed=3"), "error: --vary 'seed=3': expected key=[value, ...], such as"),
        (("digits_cnn", "--seeds", "1", "--vary", "seed=[2]"), "error: --vary 'seed=[2]': seed is varied twice"),
    ],
)
def test_a_wrong_request_is_one_line_and_exit_code_2(
    gan_mhe: Command, live: Live, arguments: tuple[str, ...], expected: str
) -> None:
    code, printed, err = gan_mhe("submit", *arguments)
    assert (code, printed) == (2, "")
    assert err.startswith(expected) and err.count("\n") == 1


def test_without_a_service_every_command_explains_how_to_start_one(
    gan_mhe: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.client.connection.FIRST_WAIT_SECONDS", 0.001)
    commands = [
        ("submit", "digits_cnn"),
        ("watch", "job_1"),
        ("jobs",),
        ("cancel", "job_1"),
        ("fetch", "job_1", "--out", "x"),
        ("compare", "job_1"),
    ]
    for command in commands:
        code, printed, err = gan_mhe(*command, "--server", "http://127.0.0.1:9")
        assert (code, printed) == (1, "")
        assert err == "error: no server at http://127.0.0.1:9; start one with `gan-mhe serve`\n"


# --- watch


def test_submit_with_watch_prints_every_event(gan_mhe: Command, live: Live) -> None:
    code, printed, err = gan_mhe("submit", "digits_cnn", "--variant", "mhe", "--seed", "9", *QUICK_KEYS, "--watch")
    assert (code, err) == (0, "")
    lines = printed.splitlines()
    assert re.fullmatch(r"job_[0-9a-z]{26}", lines[0])
    shown = [line.removeprefix("mhe seed 9  ") for line in lines[1:]]
    assert [line for line in shown if line in STATES] == ["queued", "starting", "running", "succeeded", "succeeded"]
    for pattern in (
        r"started, 12 steps",
        r"step \d+/12  .* images/s .*",
        r"step 12  d_loss .*",
        r"step 6  scheduled  .*inception_score \d.*",
        r"step 12  final  .*inception_score \d.*",
        r"samples /v1/blobs/[0-9a-f]{64}",
        r"checkpoint ckpt_\w{26}",
    ):
        assert any(re.fullmatch(pattern, line) for line in shown), (pattern, shown)


def test_watching_an_experiment_names_each_job(gan_mhe: Command, experiment: str) -> None:
    code, printed, err = gan_mhe("watch", experiment)
    assert (code, err) == (0, "")
    titles = ["none seed 0", "mhe seed 0", "none seed 1", "mhe seed 1"]
    assert printed.splitlines()[-4:] == [f"{title}  succeeded" for title in titles]
    assert {re.match(r"\w+ seed \d", line)[0] for line in printed.splitlines()} == set(titles)  # type: ignore[index]


@pytest.fixture
def failed(client: Client, live: Live, monkeypatch: pytest.MonkeyPatch) -> str:
    """A job that has failed at step 8; a retry succeeds."""
    monkeypatch.setenv("FAKE_WORKER_FAIL_AT", "8")
    job = client.submit(preset="digits_cnn", overrides=QUICK)
    assert client.wait(job.id, timeout=LIMIT_SECONDS).state == "failed"
    monkeypatch.delenv("FAKE_WORKER_FAIL_AT")
    return job.id


def test_watching_a_job_that_fails_ends_with_its_message_and_exit_code_1(gan_mhe: Command, failed: str) -> None:
    code, printed, err = gan_mhe("watch", failed)
    assert (code, err) == (1, "")
    assert re.fullmatch(r"none seed 0  failed: .*fake failure at step 8.*", printed.splitlines()[-1])


def test_ctrl_c_leaves_a_watched_job_running_and_explains_what_to_do(client: Client, live: Live) -> None:
    job = client.submit(preset="digits_cnn", overrides=ENDLESS)
    command = [sys.executable, "-c", MAIN, "watch", job.id, "--server", live.url]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if "step " in line:
            break
    process.send_signal(signal.SIGINT)
    printed, err = process.communicate(timeout=LIMIT_SECONDS)
    assert (process.returncode, err) == (130, "")
    again, end = f"show it with `gan-mhe watch {job.id}`", f"cancel it with `gan-mhe cancel {job.id}`"
    assert printed.splitlines()[-1] == f"{job.id} continues; {again}, {end}"
    assert client.job(job.id).state == "running"
    client.cancel(job.id, mode="now")
    until(lambda: client.job(job.id).terminal)


# --- jobs and actions on them


def running_job(client: Client) -> str:
    job = client.submit(preset="digits_cnn", overrides=ENDLESS)
    until(lambda: client.job(job.id).state == "running", "running")
    return job.id


def test_jobs_are_listed_newest_first_with_state_step_and_score(gan_mhe: Command, done: str, experiment: str) -> None:
    code, printed, err = gan_mhe("jobs", "--limit", "100")
    assert (code, err) == (0, "")
    lines = printed.splitlines()
    assert lines[0].split() == ["id", "state", "job", "step", "score", "submitted"]
    [line] = [line for line in lines if done in line]
    assert re.fullmatch(rf"{done} +succeeded +mhe_sn seed 3 +12/12 +\d\.\d\d +\d+ (s|min) ago *", line)
    ids = [line.split()[0] for line in lines[1:]]
    assert ids == sorted(ids, reverse=True) and len(ids) >= 5


def test_the_list_can_be_limited_and_filtered(gan_mhe: Command, experiment: str, failed: str) -> None:
    assert len(gan_mhe("jobs", "--limit", "3")[1].splitlines()) == 4
    lines = gan_mhe("jobs", "--state", "failed")[1].splitlines()[1:]
    assert failed in [line.split()[0] for line in lines]
    assert all(" failed (error) " in line for line in lines)


def test_a_job_is_paused_resumed_and_cancelled(gan_mhe: Command, client: Client, live: Live) -> None:
    id_ = running_job(client)
    assert gan_mhe("pause", id_) == (0, f"{id_} pausing\n", "")
    until(lambda: client.job(id_).state == "paused", "the pause")
    assert gan_mhe("resume", id_) == (0, f"{id_} queued\n", "")
    until(lambda: client.job(id_).state == "running", "going on")
    assert gan_mhe("cancel", "--now", id_) == (0, f"{id_} cancelling\n", "")
    until(lambda: client.job(id_).state == "cancelled", "the end")


def test_a_failed_job_is_retried(gan_mhe: Command, client: Client, failed: str) -> None:
    assert gan_mhe("retry", failed) == (0, f"{failed} queued\n", "")
    assert client.wait(failed, timeout=LIMIT_SECONDS).state == "succeeded"


def test_cancelling_an_experiment_skips_jobs_that_have_ended(gan_mhe: Command, client: Client, live: Live) -> None:
    matrix = {"training.steps": [3, 1_000_000, 1_000_001]}
    overrides = {key: value for key, value in QUICK.items() if key not in matrix}
    made = client.submit_experiment(preset="digits_cnn", matrix=matrix, overrides=overrides)
    short, *endless = made.job_ids
    assert client.wait(short, timeout=LIMIT_SECONDS).state == "succeeded"
    code, printed, err = gan_mhe("cancel", made.id)
    assert (code, err) == (0, "")
    assert [line.split()[0] for line in printed.splitlines()] == endless
    until(lambda: [client.job(id_).state for id_ in made.job_ids] == ["succeeded", "cancelled", "cancelled"])


def test_an_error_with_one_id_does_not_prevent_the_other_actions(
    gan_mhe: Command, client: Client, live: Live, done: str
) -> None:
    id_ = running_job(client)
    code, printed, err = gan_mhe("cancel", done, "job_nowhere", id_)
    assert (code, printed) == (1, f"{id_} cancelling\n")
    first, second = err.splitlines()
    assert first.startswith(f"error: {done} is succeeded") and second == "error: there is no 'job_nowhere'"


# --- compare


def test_compare_on_a_service_prints_the_table_of_the_library(gan_mhe: Command, experiment: str, live: Live) -> None:
    code, printed, err = gan_mhe("compare", experiment, "--reference", "none", "--server", live.url)
    assert (code, err) == (0, "")
    lines = printed.splitlines()
    assert lines[0].split() == "variant n mean std 95 % interval best difference to none".split()
    rows = [line.split()[:2] for line in lines[1:] if not line.startswith(" ")]  # long cells are wrapped
    assert rows[:3] == [["real", "data"], ["mhe", "2"], ["none", "2"]]
    words = " ".join(printed.split())
    assert "+1.20" in words and "2 pairs, p <0.001 (Holm <0.001)" in words
    assert "mean, standard deviation and t-interval over training seeds" in words


@pytest.mark.parametrize("view", ["steps", "wall_time"])
def test_compare_on_a_service_prints_what_the_service_computed(
    gan_mhe: Command, client: Client, experiment: str, live: Live, view: Any
) -> None:
    arguments = ("--reference", "none", "--view", view, "--server", live.url, "--format", "json")
    shown = json.loads(gan_mhe("compare", experiment, *arguments)[1])
    computed = json.loads(client.compare_text(experiment, format="json", reference="none", view=view))
    assert shown["view"] == view
    assert computed == shown | {"unfinished": []}


def test_jobs_and_experiments_are_compared_together_in_every_form(
    gan_mhe: Command, client: Client, experiment: str, done: str, live: Live
) -> None:
    for form in ("json", "csv", "markdown", "latex"):
        code, printed, _ = gan_mhe("compare", experiment, done, "--format", form, "--server", live.url)
        assert code == 0
        assert [row.variant for row in client.compare([experiment, done]).rows] == ["mhe_sn", "mhe", "none"]
        text = client.compare_text([experiment, done], format=form)  # type: ignore[arg-type]
        assert all(name in printed.replace("\\", "") and name in text.replace("\\", "") for name in ("mhe_sn", "none"))


def test_several_experiments_are_compared_as_one(client: Client, experiment: str, live: Live) -> None:
    made = client.submit_experiment(preset="digits_cnn", matrix={"variant": ["spectral_norm"]}, overrides=QUICK)
    client.wait(made.job_ids[0], timeout=LIMIT_SECONDS)
    rows = client.compare([experiment, made.id]).rows
    assert {row.variant: row.n for row in rows} == {"none": 2, "mhe": 2, "spectral_norm": 1}


# --- fetch


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_fetch_writes_the_requested_files_and_prints_their_paths(gan_mhe: Command, client: Client, done: str) -> None:
    code, printed, err = gan_mhe("fetch", done, "--out", "got")
    assert (code, printed, err) == (0, "got/latest.png\n", "")
    assert Path("got/latest.png").read_bytes() == client.blob(client.samples(done)[-1].sha256)
    assert gan_mhe("fetch", done, "--out", "all", "--what", "samples")[0] == 0
    assert files(Path("all")) == [f"samples/step_{step:08d}.png" for step in (0, 6, 12)]
    for sample in client.samples(done):
        assert Path(f"all/samples/step_{sample.step:08d}.png").read_bytes() == client.blob(sample.sha256)
    assert gan_mhe("fetch", done, "--out", "animation", "--what", "animation")[0] == 0
    assert Path("animation/animation.webp").read_bytes()[8:12] == b"WEBP"
    assert gan_mhe("fetch", done, "--out", "state", "--what", "checkpoint")[0] == 0
    assert files(Path("state/checkpoints/step_00000012")) == ["manifest.json", "tensors.safetensors"]
    assert json.loads(Path("state/checkpoints/step_00000012/manifest.json").read_text())["step"] == 12
    assert gan_mhe("fetch", done, "--out", "described", "--what", "config")[0] == 0
    assert json.loads(Path("described/config.json").read_text()) == client.job(done).config


def test_fetch_of_an_experiment_makes_a_folder_for_each_job(gan_mhe: Command, experiment: str) -> None:
    code, printed, _ = gan_mhe("fetch", experiment, "--out", "got", "--what", "config")
    assert code == 0
    folders = [re.sub(r"_\w{6}$", "", Path(line).parent.name) for line in printed.splitlines()]
    assert folders == ["none_seed_0", "mhe_seed_0", "none_seed_1", "mhe_seed_1"]
    assert all(Path(line).exists() for line in printed.splitlines())


def test_fetching_again_downloads_only_what_is_missing_or_changed(
    gan_mhe: Command, done: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("fetch", done, "--out", "got", "--what", "samples")
    first = gan_mhe(*arguments)
    Path("got/samples/step_00000006.png").write_bytes(b"damaged")
    Path("got/samples/step_00000012.png").unlink()
    asked: list[str] = []
    blob = Client.blob
    monkeypatch.setattr(Client, "blob", lambda self, sha256: (asked.append(sha256), blob(self, sha256))[1])
    assert gan_mhe(*arguments) == first
    assert len(asked) == 2
    assert Path("got/samples/step_00000006.png").read_bytes() != b"damaged"


def test_fetch_of_an_unknown_kind_names_the_nearest(gan_mhe: Command, done: str) -> None:
    code, printed, err = gan_mhe("fetch", done, "--out", "got", "--what", "sample")
    assert (code, printed) == (2, "")
    assert err == "error: --what: unknown kind 'sample'; did you mean 'samples'?\n"


# --- the client


class TestClient:
    def test_grids_and_animations_are_images(self, client: Client, done: str) -> None:
        first, *_, last = client.samples(done)
        assert (first.step, last.step, last.width) == (0, 12, 2)
        assert client.image(last).size == client.latest_image(done).size == (2, 2)
        assert client.image(last).tobytes() == client.latest_image(done).tobytes()
        assert client.animation(done, format="gif", fps=4)[:4] == b"GIF8"

    def test_samples_are_generated_from_a_checkpoint_by_seed(self, client: Client, done: str) -> None:
        checkpoint = client.checkpoints(done)[-1]
        assert (checkpoint.step, checkpoint.status) == (12, "available")
        drawn = client.draw(checkpoint.id, n=4, seed=7)
        again = client.draw(checkpoint.id, n=4, seed=7)
        other = client.draw(checkpoint.id, n=4, seed=8)
        assert drawn.tobytes() == again.tobytes() != other.tobytes()

    def test_a_checkpoint_is_scored(self, client: Client, done: str) -> None:
        result = client.score(client.checkpoints(done)[0].id)
        assert (result.step, result.protocol) == (6, "digits-v1")
        assert result.scores is not None and result.scores["inception_score"] > 0

    def test_a_task_that_fails_is_an_error_with_its_message(
        self, client: Client, done: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("FAKE_WORKER_FAIL_AT", "0")
        with pytest.raises(TaskFailed, match=r"failed: .*fake failure at step 0"):
            client.draw(client.checkpoints(done)[-1].id, seed=99)

    def test_the_history_is_the_stream(self, client: Client, done: str) -> None:
        streamed, listed = list(client.stream(done)), list(client.events(done))
        assert streamed == listed
        assert [event.seq for event in listed] == list(range(1, len(listed) + 1))
        assert list(client.events(done, after=listed[-3].seq)) == listed[-2:]
        assert list(client.stream(done, after=listed[-1].id)) == []

    def test_an_experiments_stream_holds_each_jobs_history(self, client: Client, experiment: str) -> None:
        streamed = list(client.stream(experiment))
        assert [event.id for event in streamed] == sorted({event.id for event in streamed})
        for job_id in client.experiment(experiment).job_ids:
            own = [(event.seq, event.type, event.data) for event in streamed if event.job_id == job_id]
            assert own == [(event.seq, event.type, event.data) for event in client.events(job_id)]

    def test_logs_are_what_the_job_printed(self, client: Client, done: str) -> None:
        chunk = client.logs(done)
        assert chunk.complete and "started, 12 steps" in chunk.text
        assert client.logs(done, after=chunk.next_offset).text == ""
        assert chunk.text.endswith(client.logs(done, after=5).text)

    def test_metrics_are_the_newest_numbers_and_their_history(self, client: Client, done: str) -> None:
        score = client.metrics(done)["inception_score"]
        assert (score.step, score.value, score.best) == (12, score.max, score.max)
        points = client.history(done, "d_loss")
        assert [(point.step, point.count) for point in points] == [(4, 1), (8, 1), (12, 1)]
        assert [point.step for point in client.history(done, "d_loss", from_step=5, to_step=8)] == [8]

    def test_a_fork_continues_from_a_checkpoint(self, client: Client, done: str) -> None:
        fork = client.fork(done, step=6, overrides={"training.steps": 15}, name="longer")
        assert (fork.name, fork.config["training"]["steps"]) == ("longer", 15)
        assert client.wait(fork.id, timeout=LIMIT_SECONDS).state == "succeeded"

    def test_proxies_of_the_environment_are_ignored_for_this_machine(
        self, live: Live, done: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        with Client(live.url) as client:
            assert client.job(done).id == done

    def test_one_key_makes_one_job(self, client: Client, live: Live) -> None:
        ids = {client.submit(preset="digits_cnn", overrides=QUICK, idempotency_key="once").id for _ in range(3)}
        assert len(ids) == 1
        with pytest.raises(Rejected, match="came before with another request"):
            client.submit(preset="digits_cnn", idempotency_key="once")

    def test_a_missing_job_and_a_wrong_state_are_different_errors(self, client: Client, done: str) -> None:
        with pytest.raises(NotFound):
            client.job("job_nowhere")
        with pytest.raises(Conflict):
            client.resume(done)
