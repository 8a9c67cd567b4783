"""Signals: which ones stop a run, and how often they must come to end it at once."""

import os
import signal
from collections.abc import Iterator

import pytest

from gan_mhe.run.control import StopRequest, stop_on_signals


@pytest.fixture
def said() -> list[str]:
    """What a user was told."""
    return []


@pytest.fixture(params=[False, True], ids=["in a terminal", "after nohup"])
def ignored(request: pytest.FixtureRequest) -> Iterator[bool]:
    """Whether SIGHUP was ignored when the process started."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN if request.param else signal.SIG_DFL)
    yield request.param
    signal.signal(signal.SIGHUP, before)


def test_a_hangup_stops_a_run_unless_it_is_ignored(said: list[str], ignored: bool) -> None:
    with stop_on_signals(said.append) as stop:
        os.kill(os.getpid(), signal.SIGHUP)
        assert stop.should_stop() is not ignored
    assert said == ([] if ignored else ["stopping: finishing and saving this step first"])


def send(*numbers: signal.Signals) -> StopRequest:
    """Receive the signals inside the context."""
    with stop_on_signals(lambda text: None) as stop:
        for number in numbers:
            os.kill(os.getpid(), number)
    return stop


def test_hangups_and_one_termination_save(ignored: bool) -> None:
    assert send(*[signal.SIGHUP] * (0 if ignored else 3), signal.SIGTERM).should_stop()


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
def test_a_second_request_of_a_person_or_program_quits(first: signal.Signals) -> None:
    with pytest.raises(KeyboardInterrupt):
        send(first, signal.SIGTERM)


def test_the_handlers_of_before_are_those_of_after(ignored: bool) -> None:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    send()
    assert [signal.getsignal(number) for number in numbers] == before
