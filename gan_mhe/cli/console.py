"""Terminal output: messages, tables, and the progress of runs as live bars, or as plain lines outside a terminal."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from gan_mhe.config.names import TASKS
from gan_mhe.evaluation.metrics import METRICS
from gan_mhe.records import events
from gan_mhe.records.events import Event, EventSink, describe
from gan_mhe.text import printable, printable_lines

_MAX_PADDING = 60  # characters

# Without this, rich replaces ":ant:" in "classifier:ant: ..." by a picture.
out = Console(emoji=False)
err = Console(stderr=True, emoji=False)


def say(text: str) -> None:
    """Print a message without markup or wrapping; control characters are escaped."""
    out.print(printable_lines(text), highlight=False, markup=False, soft_wrap=True)


def print_error(text: str) -> None:
    """Print an error message to stderr."""
    err.print(printable_lines(text), style="red", highlight=False, markup=False, soft_wrap=True)


def note(text: str) -> None:
    """Print what the user should know, apart from what a command prints: to stderr."""
    err.print(printable_lines(f"note: {text}"), highlight=False, markup=False, soft_wrap=True)


def print_table(headings: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """Print a table without borders; if all headings are empty, without them.

    In a terminal it is at most as wide as that; elsewhere no cell is wrapped or cut, because programs read it.
    """
    if not out.is_terminal:
        print_columns(headings, rows)
        return
    table = Table(*headings, show_header=any(headings), box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    out.print(table, highlight=False, markup=False)


def print_columns(headings: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """Print columns as wide as their content, so that identifiers are not cut and can be copied.

    If all headings are empty, they are left out. A cell longer than most shifts the rest of its own row only.
    """
    shown = [tuple(map(printable, row)) for row in ((headings, *rows) if any(headings) else rows)]
    widths = [padding(column) for column in zip(*shown, strict=True)]
    for row in shown:
        say("  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())


def padding(texts: Iterable[str]) -> int:
    """Width to pad texts to: that of the longest one that is not overly long."""
    return max((len(text) for text in texts if len(text) <= _MAX_PADDING), default=0)


def check_output(console: Console) -> None:
    """Raise the error by which the output of `console` was lost, if it was."""
    problem: Exception | None = getattr(console.file, "problem", None)
    if problem is not None:
        raise problem


class RunLine:
    """One run in a live display: bar, rate, time left, losses and last score."""

    def __init__(self, bars: Progress, title: str) -> None:
        self._bars = bars
        self._task = bars.add_task(printable(title), total=None, details="")
        self._details: dict[str, str] = {}

    def emit(self, event: Event) -> None:
        """Update the line from an event; a notice is printed as a separate line above the bars.

        Raises the error by which the console's output was lost, if it was.
        """
        check_output(self._bars.console)
        match event:
            case events.Started(step=step, total_steps=total):
                self._bars.update(self._task, completed=step, total=total)
            case events.Progress():
                self._bars.update(self._task, completed=event.step)
                self.show("rate", f"{event.images_per_second:.0f} images/s")
            case events.Scalars(values=values):
                self.show("losses", _live_scalars(values))
            case events.Evaluated(scores=scores):
                self.show("score", _ranking_score(scores))
            case events.Notice() | events.CheckpointRejected():
                self._bars.console.print(printable(describe(event)), highlight=False, markup=False)
            case _:
                pass

    def show(self, topic: str, text: str) -> None:
        """Show `text` after the bar, replacing the text of the same topic."""
        self._details[topic] = printable(text)
        shown = [self._details[topic] for topic in _TOPICS if self._details.get(topic)]
        self._bars.update(self._task, details="  ".join(shown))

    def close(self) -> None:
        """Remove the line from the live display and print its final state above it."""
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
    """A live display for `RunLine`s."""
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[details]}", markup=False),
        console=console,
    )


class LiveSink:
    """Shows one run as a live line in a terminal."""

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
    """Prints one line per event, for logs and pipes."""

    def __init__(self, console: Console, title: str) -> None:
        self._console = console
        self._title = title

    def emit(self, event: Event) -> None:
        self.show("event", describe(event))

    def show(self, topic: str, text: str) -> None:
        """Print `text` after the title; the topic is not used. Raises the error by which the output was lost."""
        check_output(self._console)
        self._console.print(printable(f"{self._title}  {text}"), highlight=False, soft_wrap=True, markup=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


def sink_for(console: Console, title: str) -> LiveSink | PlainSink:
    """A `LiveSink` if `console` is a terminal, else a `PlainSink`."""
    return LiveSink(console, title) if console.is_terminal else PlainSink(console, title)


@contextmanager
def sinks_for(console: Console) -> Iterator[Callable[[str], AbstractContextManager[EventSink]]]:
    """Yield a function from a title to a sink, for runs that may be active at the same time.

    In a terminal each active run has a live line; a run that ends leaves its final line above them, because a live
    display cannot be taller than the terminal. Elsewhere every line starts with the title of its run.
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
