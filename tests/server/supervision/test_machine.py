"""Whether the machine can run attempts is tried: by writing a file and by finding the programs."""

import errno
import os
from pathlib import Path

import pytest

from server.settings import Settings
from server.supervision.machine import FRESH_SECONDS, Machine
from tests.support.fake_executor import FakeExecutor


class Time:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def machine(settings: Settings, executor: FakeExecutor, time: Time) -> Machine:
    return Machine(settings, executor, time)


def fill_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def fsync(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("server.supervision.machine.os.fsync", fsync)


def test_a_machine_that_can_write_has_no_problem_and_no_file_is_left(machine: Machine, settings: Settings) -> None:
    assert machine.problem() is None
    assert [path.name for path in settings.data_dir.rglob("*")] == ["jobs"]


def test_a_full_disk_is_a_problem_and_no_file_is_left(
    machine: Machine, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill_the_disk(monkeypatch)
    assert machine.problem() == f"{settings.data_dir} cannot be written: No space left on device"
    assert [path.name for path in settings.data_dir.rglob("*")] == ["jobs"]


def test_a_folder_of_jobs_that_cannot_be_made_is_a_problem(machine: Machine, settings: Settings) -> None:
    settings.job_dir("").write_text("in the way")
    assert machine.problem() == f"{settings.job_dir('')} cannot be made: File exists"


def test_a_missing_interpreter_is_a_problem(machine: Machine, executor: FakeExecutor) -> None:
    executor.misses = "the program 'python' is missing or not executable"
    assert machine.problem() == executor.misses


def test_a_directory_that_does_not_exist_cannot_be_written(machine: Machine, tmp_path: Path) -> None:
    assert machine.unwritable(tmp_path / "gone") == f"{tmp_path / 'gone'} cannot be written: No such file or directory"


def test_repeated_questions_try_once_in_some_seconds(
    machine: Machine, time: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert machine.recent_problem() is None
    fill_the_disk(monkeypatch)
    assert machine.recent_problem() is None
    time.now += FRESH_SECONDS
    assert machine.recent_problem() is not None
