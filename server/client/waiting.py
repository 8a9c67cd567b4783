"""Waiting for the end of jobs and tasks."""

import time
from collections.abc import Callable
from typing import TypeVar

from server.client.errors import TaskFailed, TimedOut
from server.client.records import Job, Task

Ending = TypeVar("Ending", Job, Task)


def failed(task: Task) -> TaskFailed:
    """The error of a task that has ended without a result."""
    cause = task.message or task.reason or "no reason given"
    return TaskFailed(f"{task.id} {task.state}: {cause}", code=task.reason)


def wait_until_ended(poll: Callable[[], Ending], current: Ending, timeout: float | None) -> Ending:
    """Poll until the job or task has ended. Raises TimedOut after `timeout` seconds."""
    deadline = None if timeout is None else time.monotonic() + timeout
    pause = 0.1
    while not current.terminal:
        if deadline is not None and time.monotonic() + pause > deadline:
            raise TimedOut(f"{current.id} is still {current.state} after {timeout:g} seconds")
        time.sleep(pause)
        pause, current = min(2.0, pause * 1.5), poll()
    return current
