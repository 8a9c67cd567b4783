"""Sweeps: every variant with every seed, what is done is not done again, one failure does not take the rest."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from gan_mhe.config import compose
from gan_mhe.config.run_config import RunConfig
from gan_mhe.errors import ConfigError, DeviceError
from gan_mhe.files import write_json
from gan_mhe.records.events import Event, EventSink, Finished, Started
from gan_mhe.records.run_dir import RunDir
from gan_mhe.sweep import processes
from gan_mhe.sweep import sweep as sweeps
from gan_mhe.sweep.processes import Run
from gan_mhe.sweep.sweep import Budget, Plan, plan, run_directory, runs_below, sweep, sweep_in_waves, unfinished

Configure = Callable[..., RunConfig]


class Listener:
    """A factory of sinks that remembers the titles and every event under its title."""

    def __init__(self) -> None:
        self.titles: list[str] = []
        self.events: list[tuple[str, Event]] = []

    @contextmanager
    def __call__(self, title: str) -> Iterator[EventSink]:
        self.titles.append(title)
        heard = self.events

        class Sink:
            def emit(self, event: Event) -> None:
                heard.append((title, event))

        yield Sink()

    def finished(self) -> list[str]:
        return [title for title, event in self.events if isinstance(event, Finished)]


class Control:
    """Asks for a stop once `finish_first` runs are finished."""

    def __init__(self, listener: Listener, finish_first: int) -> None:
        self.listener, self.finish_first = listener, finish_first

    def should_stop(self) -> bool:
        return len(self.listener.finished()) >= self.finish_first


@pytest.fixture
def configs(tiny: Configure) -> list[RunConfig]:
    return [tiny("training.steps=3", variant=variant, seed=seed) for seed in (0, 1) for variant in ("none", "mhe")]


ORDER = ["none seed 0", "mhe seed 0", "none seed 1", "mhe seed 1"]


def test_a_sweep_runs_everything_in_order_into_its_own_directory(configs: list[RunConfig], tmp_path: Path) -> None:
    listener = Listener()
    assert sweep(runs_below(tmp_path, configs), listener, Control(listener, 99)) == []
    assert listener.titles == listener.finished() == ORDER
    for config in configs:
        result = RunDir(run_directory(tmp_path, config)).read_result()
        assert result is not None
        assert (result["status"], result["variant"], result["seed"]) == ("completed", config.variant, config.seed)
    assert run_directory(tmp_path, configs[1]) == tmp_path / "mhe" / "seed_0"


def test_a_sweep_goes_seed_by_seed_so_that_whole_seeds_are_there_first(tiny: Configure) -> None:
    document = tiny().document() | {"constraints": {}}
    expanded = compose.expand(document, variants=["none", "mhe"], seeds=[0, 1])
    assert [f"{config.variant} seed {config.seed}" for config in expanded] == ORDER


def test_a_second_sweep_does_nothing_again(configs: list[RunConfig], tmp_path: Path) -> None:
    sweep(runs_below(tmp_path, configs), Listener(), Control(Listener(), 99))
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in tmp_path.rglob("*") if path.is_file()}
    listener = Listener()
    assert sweep(runs_below(tmp_path, configs), listener, Control(listener, 99)) == []
    assert listener.events == []
    after = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in tmp_path.rglob("*") if path.is_file()}
    assert after == before


def test_a_stop_ends_the_run_in_progress_and_begins_no_other(configs: list[RunConfig], tmp_path: Path) -> None:
    listener = Listener()
    sweep(runs_below(tmp_path, configs), listener, Control(listener, 2))
    assert listener.titles == ORDER[:2]
    assert not run_directory(tmp_path, configs[2]).exists()


def test_a_stopped_sweep_continues_where_it_stopped(configs: list[RunConfig], tmp_path: Path) -> None:
    class OnceInTheSecondRun:
        asked = 0

        def should_stop(self) -> bool:
            self.asked += 1
            return self.asked > 5

    listener = Listener()
    sweep(runs_below(tmp_path, configs), listener, OnceInTheSecondRun())
    assert [event.reason for _, event in listener.events if isinstance(event, Finished)] == ["completed", "stopped"]
    again = Listener()
    sweep(runs_below(tmp_path, configs), again, Control(again, 99))
    assert again.finished() == ORDER[1:]


def test_a_failing_run_is_returned_and_the_others_are_finished(configs: list[RunConfig], tmp_path: Path) -> None:
    training = configs[1].training.model_copy(update={"precision": "tf32"})
    configs[1] = configs[1].model_copy(update={"training": training})
    listener = Listener()
    [(failed, error)] = sweep(runs_below(tmp_path, configs), listener, Control(listener, 99))
    assert failed.config is configs[1] and isinstance(error, DeviceError)
    reasons = [event.reason for _, event in listener.events if isinstance(event, Finished)]
    assert reasons == ["completed", "failed", "completed", "completed"]


# --- several at once


def contents(root: Path) -> dict[Path, bytes]:
    """Tensors and pictures below a folder; manifests tell how long the training took."""
    files = [*root.rglob("*.safetensors"), *root.rglob("*.png")]
    return {path.relative_to(root): path.read_bytes() for path in files}


class AtOnce:
    """Asks for a stop after the first step."""

    asked = 0

    def should_stop(self) -> bool:
        self.asked += 1
        return self.asked > 1


def test_runs_at_once_go_on_and_compute_the_same_bits_as_one_after_another(
    configs: list[RunConfig], tmp_path: Path
) -> None:
    apart, together, listener = tmp_path / "apart", tmp_path / "together", Listener()
    sweep(runs_below(apart, configs[:2]), Listener(), Control(Listener(), 99))
    sweep(runs_below(together, configs[:1]), Listener(), AtOnce())
    shared = Plan(jobs=2, threads=torch.get_num_threads())
    assert sweep(runs_below(together, configs[:2]), listener, Control(listener, 99), shared) == []
    assert listener.titles == ORDER[:2] and set(listener.finished()) == set(ORDER[:2])
    assert ("none seed 0", Started(1, 3, resumed=True)) in listener.events
    assert len(contents(apart)) == 6
    assert contents(together).items() >= contents(apart).items()


def test_only_what_is_left_is_executed_at_once_and_failures_keep_their_configuration(
    configs: list[RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep(runs_below(tmp_path, configs[:1]), Listener(), Control(Listener(), 99))
    monkeypatch.setattr(processes, "_WORKER", ("/bin/false",))
    listener = Listener()
    failures = sweep(runs_below(tmp_path, configs), listener, Control(listener, 99), Plan(jobs=3, threads=1))
    assert [failed.config for failed, _ in failures] == configs[1:]
    assert [str(error) for _, error in failures] == ["the worker ended with exit code 1"] * 3


# --- within a budget


class Watch:
    """A clock that goes on by so many seconds with every run that finishes, and stands still otherwise."""

    def __init__(self, listener: Listener, *seconds: float) -> None:
        self.listener, self.seconds = listener, seconds

    def __call__(self) -> float:
        return 1000.0 + sum(self.seconds[: len(self.listener.finished())])


def waves(configs: list[RunConfig], root: Path) -> list[list[Run]]:
    """A seed each."""
    runs = runs_below(root, configs)
    return [runs[:2], runs[2:4], runs[4:]]


@pytest.fixture
def six(tiny: Configure) -> list[RunConfig]:
    return [tiny("training.steps=3", variant=variant, seed=seed) for seed in (0, 1, 2) for variant in ("none", "mhe")]


def within(six: list[RunConfig], root: Path, budget: float, *seconds: float) -> list[str]:
    """What is finished when the runs take so many seconds each."""
    listener = Listener()
    limit = Budget(Control(listener, 99), budget, Watch(listener, *seconds))
    assert sweep_in_waves(waves(six, root), listener, limit, Plan(1, 1)) == []
    return listener.finished()


def test_a_budget_that_is_long_enough_ends_nothing(six: list[RunConfig], tmp_path: Path) -> None:
    assert len(within(six, tmp_path, 60.5, *[10.0] * 6)) == 6


@pytest.mark.parametrize(("budget", "finished"), [(21.0, 2), (39.9, 2), (40.1, 4), (59.9, 4)])
def test_a_wave_that_does_not_fit_the_budget_is_not_started(
    six: list[RunConfig], tmp_path: Path, budget: float, finished: int
) -> None:
    assert len(within(six, tmp_path, budget, *[10.0] * 6)) == finished
    assert [run_directory(tmp_path, config).exists() for config in six] == [True] * finished + [False] * (6 - finished)


def test_the_first_wave_is_started_however_short_the_budget(six: list[RunConfig], tmp_path: Path) -> None:
    assert within(six, tmp_path, 5.0, *[10.0] * 6) == ["none seed 0"]


@pytest.mark.parametrize(("budget", "finished"), [(29.0, ORDER[1:2]), (31.0, ORDER[1:])])
def test_a_wave_of_which_runs_were_done_before_tells_the_pace_of_those_that_were_left(
    six: list[RunConfig], tmp_path: Path, budget: float, finished: list[str]
) -> None:
    sweep(runs_below(tmp_path, six[:1]), Listener(), Control(Listener(), 99))
    # 10 s for the one that is left of the first wave are 20 s for the two of the next.
    assert within(six, tmp_path, budget, *[10.0] * 5) == finished


def test_a_run_that_was_nearly_done_before_does_not_make_the_pace_look_faster(
    six: list[RunConfig], tmp_path: Path
) -> None:
    sweep(runs_below(tmp_path, six[2:4]), Listener(), Control(Listener(), 99))
    RunDir(run_directory(tmp_path, six[2])).result.unlink()  # as if killed between its last step and its result
    # 20 s for the first wave, 1 s for what is left of the second; 15 s are left for the third, which needs 20.
    assert within(six, tmp_path, 36.0, 10.0, 10.0, 1.0, 10.0, 10.0) == ORDER[:3]


def test_a_run_in_the_middle_of_which_the_budget_ends_is_saved_and_gone_on_with(
    six: list[RunConfig], tmp_path: Path
) -> None:
    class Steps:
        """A clock that shows how often it was asked."""

        now = 0

        def __call__(self) -> float:
            self.now += 1
            return self.now

    listener = Listener()
    sweep_in_waves(waves(six, tmp_path), listener, Budget(Control(listener, 99), 7.5, Steps()), Plan(1, 1))
    reasons = [event.reason for _, event in listener.events if isinstance(event, Finished)]
    assert reasons[-1] == "stopped" and len(reasons) < 6
    again = Listener()
    sweep_in_waves(waves(six, tmp_path), again, Budget(Control(again, 99), 1e9), Plan(1, 1))
    assert next(event.resumed for _, event in again.events if isinstance(event, Started))
    assert left(six, tmp_path) == []


def test_a_stop_ends_waves_too(six: list[RunConfig], tmp_path: Path) -> None:
    listener = Listener()
    sweep_in_waves(waves(six, tmp_path), listener, Budget(Control(listener, 3), 1e9), Plan(1, 1))
    assert listener.titles == ORDER[:3]


def test_a_failing_run_does_not_keep_the_next_wave_from_starting(six: list[RunConfig], tmp_path: Path) -> None:
    training = six[0].training.model_copy(update={"precision": "tf32"})
    six[0] = six[0].model_copy(update={"training": training})
    listener = Listener()
    [(failed, _)] = sweep_in_waves(waves(six, tmp_path), listener, Budget(Control(listener, 99), 1e9), Plan(1, 1))
    assert failed.config is six[0]
    assert left(six, tmp_path) == six[:1]


# --- what is left


def left(configs: list[RunConfig], root: Path) -> list[RunConfig]:
    return [run.config for run in unfinished(runs_below(root, configs))]


@pytest.fixture
def completed(configs: list[RunConfig], tmp_path: Path) -> RunConfig:
    sweep(runs_below(tmp_path, configs[:1]), Listener(), Control(Listener(), 99))
    return configs[0]


def test_a_diverged_run_is_not_left_because_it_would_do_so_again(
    completed: RunConfig, configs: list[RunConfig], tmp_path: Path
) -> None:
    run_dir = RunDir(run_directory(tmp_path, completed))
    write_json(run_dir.result, {**(run_dir.read_result() or {}), "status": "diverged", "step": 1, "final": None})
    assert left(configs, tmp_path) == configs[1:]


def test_a_completed_run_is_not_left(completed: RunConfig, configs: list[RunConfig], tmp_path: Path) -> None:
    assert left(configs, tmp_path) == configs[1:]


@pytest.mark.parametrize("wrong", [{"seed": 7}, {"final": [1]}])
def test_a_run_with_the_result_of_another_is_left_so_that_executing_it_says_so(
    completed: RunConfig, tmp_path: Path, wrong: dict[str, Any]
) -> None:
    run_dir = RunDir(run_directory(tmp_path, completed))
    write_json(run_dir.result, {**(run_dir.read_result() or {}), **wrong})
    assert left([completed], tmp_path) == [completed]
    [(_, error)] = sweep(runs_below(tmp_path, [completed]), Listener(), Control(Listener(), 99))
    assert str(run_dir.result) in str(error)


def test_a_run_that_is_to_go_further_or_elsewhere_is_left(completed: RunConfig, tmp_path: Path) -> None:
    further = completed.model_copy(update={"training": completed.training.model_copy(update={"steps": 4})})
    other = completed.model_copy(update={"training": completed.training.model_copy(update={"batch_size": 8})})
    assert left([further, other], tmp_path) == [further, other]


def test_an_altered_variant_has_a_directory_of_its_own(tiny: Configure, tmp_path: Path) -> None:
    plain, altered = tiny(), tiny("constraints.normalization=spectral")
    runs = runs_below(tmp_path, [plain, altered])
    assert [run.directory.relative_to(tmp_path).as_posix() for run in runs] == [
        "none/seed_0",
        "none+constraints.normalization=spectral/seed_0",
    ]
    assert [run.title for run in runs] == ["none seed 0", "none + constraints.normalization=spectral seed 0"]


def test_an_altered_variant_that_an_older_version_began_stays_where_it_is(tiny: Configure, tmp_path: Path) -> None:
    altered = tiny("constraints.normalization=spectral")
    run = RunDir(tmp_path / "none" / "seed_0")
    write_json(run.config, altered.document())
    run.sample(0).parent.mkdir()
    run.sample(0).touch()
    assert run_directory(tmp_path, altered) == run.root
    assert run_directory(tmp_path, tiny("constraints.normalization=spectral", "loss=hinge")) != run.root


def test_a_sweep_over_changed_files_is_refused_by_name(completed: RunConfig, tmp_path: Path) -> None:
    run = RunDir(run_directory(tmp_path, completed))
    sweeps.refuse_changed(runs_below(tmp_path, [completed]))
    write_json(run.data, json.loads(run.data.read_text()) | {"sha256": "0" * 64})
    with pytest.raises(ConfigError, match=rf"{run.root} was made with other files: .*expected SHA-256 {'0' * 64}"):
        sweeps.refuse_changed(runs_below(tmp_path, [completed]))


def test_a_directory_of_another_configuration_is_not_of_the_sweep(completed: RunConfig, tmp_path: Path) -> None:
    other = completed.model_copy(update={"training": completed.training.model_copy(update={"batch_size": 8})})
    assert [run.root for run in sweeps.directories_of(runs_below(tmp_path, [completed]))] == [
        run_directory(tmp_path, completed)
    ]
    assert sweeps.directories_of(runs_below(tmp_path, [other])) == []


@pytest.mark.parametrize("file", ["result.json", "config.json"])
def test_a_run_whose_directory_is_damaged_is_left_to_say_so(completed: RunConfig, tmp_path: Path, file: str) -> None:
    (run_directory(tmp_path, completed) / file).write_text("{")
    assert left([completed], tmp_path) == [completed]


# --- how many at once


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    """Give the machine so many cores, a container's CPU quota, and a GPU or not."""

    def has(cores: int, *, quota: str = "max 100000", gpu: bool = False) -> None:
        (tmp_path / "cpu.max").write_text(quota + "\n")
        monkeypatch.setattr(sweeps, "_CPU_QUOTA", tmp_path / "cpu.max")
        monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(cores)))
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)

    return has


@pytest.mark.parametrize(
    ("cores", "runs", "asked", "expected"),
    [
        (2, 4, None, Plan(2, 1)),
        (8, 3, None, Plan(3, 2)),
        (8, 8, None, Plan(8, 1)),
        (8, 4, 2, Plan(2, 4)),
        (2, 4, 4, Plan(4, 1)),
        (8, 4, 1, Plan(1, 8)),
        (8, 1, None, Plan(1, 8)),
        (4, 2, 64, Plan(2, 2)),
    ],
)
def test_the_runs_at_once_share_the_cores(
    tiny: Configure, machine: Callable[..., None], cores: int, runs: int, asked: int | None, expected: Plan
) -> None:
    machine(cores)
    assert plan([tiny(seed=seed) for seed in range(runs)], asked) == expected


@pytest.mark.parametrize(("device", "expected"), [("auto", 1), ("cuda:1", 1), ("cpu", 4)])
def test_a_gpu_has_one_run_at_a_time_unless_asked(
    tiny: Configure, machine: Callable[..., None], device: str, expected: int
) -> None:
    machine(4, gpu=True)
    configs = [tiny(f"training.device={device}", seed=seed) for seed in range(4)]
    assert plan(configs).jobs == expected
    assert plan(configs, 2) == Plan(2, 2)


def test_a_machine_without_a_gpu_decides_by_its_cores(tiny: Configure, machine: Callable[..., None]) -> None:
    machine(4)
    assert plan([tiny("training.device=auto", seed=seed) for seed in range(4)]) == Plan(4, 1)


@pytest.mark.parametrize(("quota", "cores"), [("250000 100000", 2), ("50000 100000", 1), ("900000 100000", 4)])
def test_a_containers_quota_counts_as_its_cores(
    tiny: Configure, machine: Callable[..., None], quota: str, cores: int
) -> None:
    machine(4, quota=quota)
    assert plan([tiny(seed=seed) for seed in range(4)]).jobs == cores


@pytest.mark.parametrize(("variable", "threads"), [("2", 2), ("8", 4), ("0", 1), ("many", 4)])
def test_the_environment_limits_the_threads(
    tiny: Configure, machine: Callable[..., None], monkeypatch: pytest.MonkeyPatch, variable: str, threads: int
) -> None:
    machine(8)
    monkeypatch.setenv("OMP_NUM_THREADS", variable)
    assert plan([tiny(seed=seed) for seed in range(2)]) == Plan(2, threads)


def test_a_plan_is_described_in_one_line() -> None:
    descriptions = [str(Plan(1, 8)), str(Plan(2, 1)), str(Plan(2, 4))]
    assert descriptions == ["one run at a time", "2 runs at once, 1 thread each", "2 runs at once, 4 threads each"]
