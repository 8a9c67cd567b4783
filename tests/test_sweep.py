"""Sweeps: every variant with every seed, what is done is not done again, one failure does not take the rest."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gan_mhe import compose
from gan_mhe.config import RunConfig
from gan_mhe.errors import DeviceError
from gan_mhe.events import Event, EventSink, Finished
from gan_mhe.rundir import RunDir
from gan_mhe.sweep import run_directory, sweep

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
    assert sweep(configs, tmp_path, listener, Control(listener, 99)) == []
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
    sweep(configs, tmp_path, Listener(), Control(Listener(), 99))
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in tmp_path.rglob("*") if path.is_file()}
    listener = Listener()
    assert sweep(configs, tmp_path, listener, Control(listener, 99)) == []
    assert listener.events == []
    after = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in tmp_path.rglob("*") if path.is_file()}
    assert after == before


def test_a_stop_ends_the_run_in_progress_and_begins_no_other(configs: list[RunConfig], tmp_path: Path) -> None:
    listener = Listener()
    sweep(configs, tmp_path, listener, Control(listener, 2))
    assert listener.titles == ORDER[:2]
    assert not run_directory(tmp_path, configs[2]).exists()


def test_a_stopped_sweep_goes_on_where_it_stopped(configs: list[RunConfig], tmp_path: Path) -> None:
    class OnceInTheSecondRun:
        asked = 0

        def should_stop(self) -> bool:
            self.asked += 1
            return self.asked > 5

    listener = Listener()
    sweep(configs, tmp_path, listener, OnceInTheSecondRun())
    assert [event.reason for _, event in listener.events if isinstance(event, Finished)] == ["completed", "stopped"]
    again = Listener()
    sweep(configs, tmp_path, again, Control(again, 99))
    assert again.finished() == ORDER[1:]


def test_a_failing_run_is_returned_and_the_others_are_finished(configs: list[RunConfig], tmp_path: Path) -> None:
    training = configs[1].training.model_copy(update={"precision": "tf32"})
    configs[1] = configs[1].model_copy(update={"training": training})
    listener = Listener()
    [(config, error)] = sweep(configs, tmp_path, listener, Control(listener, 99))
    assert config is configs[1] and isinstance(error, DeviceError)
    reasons = [event.reason for _, event in listener.events if isinstance(event, Finished)]
    assert reasons == ["completed", "failed", "completed", "completed"]
