"""Variants x seeds of one configuration, one after another, resumable: what is done is not done again."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from gan_mhe.config import RunConfig
from gan_mhe.errors import GanMheError
from gan_mhe.events import EventSink, RunControl
from gan_mhe.run import execute

SinkFactory = Callable[[str], AbstractContextManager[EventSink]]


def run_directory(root: Path, config: RunConfig) -> Path:
    """Where a sweep below `root` puts a run."""
    return root / config.variant / f"seed_{config.seed}"


def sweep(
    configs: Sequence[RunConfig], root: Path, make_sink: SinkFactory, control: RunControl
) -> list[tuple[RunConfig, GanMheError]]:
    """Execute `configs` in order until all are finished or `control` asks to stop.

    A run that fails does not take the others with it: failures are returned, with the run's configuration.
    """
    failures: list[tuple[RunConfig, GanMheError]] = []
    for config in configs:
        if control.should_stop():
            break
        title = f"{config.variant} seed {config.seed}"
        try:
            with make_sink(title) as sink:
                execute(config, run_directory(root, config), sink, control)
        except GanMheError as error:
            failures.append((config, error))
    return failures
