"""What a person sees: messages, tables, and a run as a live line in a terminal or as plain lines elsewhere."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from gan_mhe.config.names import METRICS, TASKS
from gan_mhe.records import events
from gan_mhe.records.events import Event, EventSink, describe

out = Console()
err = Console(stderr=True)


def say(text: str) -> None:
    """One message, as it is."""
    out.print(text, highlight=False, markup=False, soft_wrap=True)


def complain(text: str) -> None:
    """One error message."""
    err.print(text, style="red", highlight=False, markup=False, soft_wrap=True)


def print_table(headings: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """Columns without lines between them, as wide as the terminal; headings that are all empty are left out."""
    table = Table(*headings, show_header=any(headings), box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for row in rows:
        table.add_row(*map(Text, row))
    out.print(table, highlight=False, markup=False)


def print_columns(headings: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """Columns as wide as what is in them, so that identifiers stay whole and can be copied."""
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    for row in (headings, *rows):
        say("  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())


class RunLine:
    """One run among `bars`: bar, rate, time left, losses and last score, redrawn in place."""

    def __init__(self, bars: Progress, title: str) -> None:
        self._bars = bars
        self._task = bars.add_task(title, total=None, news="")
        self._news: dict[str, str] = {}

    def emit(self, event: Event) -> None:
        """Show what an event changes; a notice is a line of its own above the bars."""
        match event:
            case events.Started(step=step, total_steps=total):
                self._bars.update(self._task, completed=step, total=total)
            case events.Progress():
                self._bars.update(self._task, completed=event.step)
                self.tell("rate", f"{event.images_per_second:.0f} images/s")
            case events.Scalars(values=values):
                self.tell("losses", _live_scalars(values))
            case events.Evaluated(scores=scores):
                self.tell("score", _ranking_score(scores))
            case events.Notice() | events.CheckpointRejected():
                self._bars.console.print(describe(event), highlight=False, markup=False)
            case _:
                pass

    def tell(self, topic: str, news: str) -> None:
        """Put `news` behind the bar, in place of what stood there on the same topic."""
        self._news[topic] = news
        shown = [self._news[topic] for topic in _TOPICS if self._news.get(topic)]
        self._bars.update(self._task, news="  ".join(shown))

    def close(self) -> None:
        """Take the line from the bars and leave it above them, as it is."""
        shown = self._bars.make_tasks_table([task for task in self._bars.tasks if task.id == self._task])
        self._bars.remove_task(self._task)
        self._bars.console.print(shown)


_TOPICS = ("state", "rate", "losses", "score")


def _live_scalars(values: Mapping[str, float]) -> str:
    """The scalars that the run's task shows, such as "D 1.25 G 0.50"; empty if they are not among `values`."""
    shown = [task.live_scalars for task in TASKS.values() if values.keys() >= {*task.live_scalars.values()}]
    return " ".join(f"{label} {values[name]:.2f}" for label, name in shown[0].items()) if shown else ""


def _ranking_score(scores: Mapping[str, float]) -> str:
    """The score that ranks the run, such as "Inception score 7.52"; empty if no task ranks by one of the scores."""
    metrics = [task.metric for task in TASKS.values() if task.metric in scores]
    return f"{METRICS[metrics[0]].title} {scores[metrics[0]]:.{METRICS[metrics[0]].decimals}f}" if metrics else ""


def progress_bars(console: Console) -> Progress:
    """Bars for `RunLine`s."""
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[news]}", markup=False),
        console=console,
    )


class LiveSink:
    """One run in a terminal."""

    def __init__(self, console: Console, title: str) -> None:
        self._bars = progress_bars(console)
        self._line = RunLine(self._bars, title)

    def emit(self, event: Event) -> None:
        self._line.emit(event)

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()


class PlainSink:
    """One line an event, for logs and pipes."""

    def __init__(self, console: Console, title: str) -> None:
        self._console = console
        self._title = title

    def emit(self, event: Event) -> None:
        self.tell("event", describe(event))

    def tell(self, topic: str, news: str) -> None:
        """Print `news`, whatever the topic."""
        self._console.print(f"{self._title}  {news}", highlight=False, soft_wrap=True, markup=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


def sink_for(console: Console, title: str) -> LiveSink | PlainSink:
    """Live where `console` is a terminal, plain elsewhere."""
    return LiveSink(console, title) if console.is_terminal else PlainSink(console, title)


@contextmanager
def sinks_for(console: Console) -> Iterator[Callable[[str], AbstractContextManager[EventSink]]]:
    """A maker of sinks, by title, for runs that may go on at once.

    In a terminal there is a line a run, and a run that ends leaves its line above those that go on: more lines than the
    terminal has rows would not be seen. Elsewhere every line begins with the title of its run.
    """
    if not console.is_terminal:
        yield lambda title: PlainSink(console, title)
        return
    with progress_bars(console) as bars:
        yield lambda title: _line_among(bars, title)


@contextmanager
def _line_among(bars: Progress, title: str) -> Iterator[RunLine]:
    line = RunLine(bars, title)
    try:
        yield line
    finally:
        line.close()
