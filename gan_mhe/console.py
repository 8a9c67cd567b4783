"""A run as seen in a terminal: one live line while it trains, plain lines where there is no terminal."""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from gan_mhe import events
from gan_mhe.events import Event, describe
from gan_mhe.metrics import METRICS, PRIMARY_METRIC


class LiveSink:
    """Bar, rate, time left, losses and last score, redrawn in place."""

    def __init__(self, console: Console, title: str) -> None:
        self._console = console
        self._score = ""
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[news]}"),
            console=console,
        )
        self._task = self._bar.add_task(title, total=None, news="")
        self._rate = ""
        self._losses = ""

    def emit(self, event: Event) -> None:
        match event:
            case events.Started(step=step, total_steps=total):
                self._bar.update(self._task, completed=step, total=total)
            case events.Progress():
                self._rate = f"{event.images_per_second:.0f} images/s"
                self._bar.update(self._task, completed=event.step)
            case events.Scalars(values=values):
                self._losses = f"D {values['d_loss']:.2f} G {values['g_loss']:.2f}" if "d_loss" in values else ""
            case events.Evaluated(scores=scores):
                self._score = f"{METRICS[PRIMARY_METRIC].title} {scores[PRIMARY_METRIC]:.2f}"
            case events.Notice() | events.CheckpointRejected():
                self._bar.console.print(describe(event), highlight=False, markup=False)
            case _:
                pass
        news = "  ".join(part for part in (self._rate, self._losses, self._score) if part)
        self._bar.update(self._task, news=news)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()


class PlainSink:
    """One line an event, for logs and pipes."""

    def __init__(self, console: Console, title: str) -> None:
        self._console = console
        self._title = title

    def emit(self, event: Event) -> None:
        self._console.print(f"{self._title}  {describe(event)}", highlight=False, soft_wrap=True, markup=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


def sink_for(console: Console, title: str) -> LiveSink | PlainSink:
    """Live where `console` is a terminal, plain elsewhere."""
    return LiveSink(console, title) if console.is_terminal else PlainSink(console, title)
