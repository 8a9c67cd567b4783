"""Display of runs: live lines in a terminal, plain lines in a log."""

import io
import re
from collections.abc import Callable

import pytest
from rich.console import Console

from gan_mhe.cli import console
from gan_mhe.cli.console import LiveSink, PlainSink, sink_for, sinks_for
from gan_mhe.records import events

STORY: list[events.Event] = [
    events.Started(0, 4, resumed=False),
    events.Notice(0, "a layer has [one] neuron [/and] no pair"),
    events.SampleGrid(0, "samples/step_00000000.png", "0" * 64),
    events.Scalars(2, {"d_loss": 1.25, "g_loss": 0.5, "energy/conv0": 0.1}),
    events.Progress(2, 4, 10.0, 640.0, 0.2),
    events.Evaluated(2, "scheduled", {"inception_score": 7.125}, "digits-v1", {"inception_score": "f" * 64}, 0.1),
    events.CheckpointSaved(2, "checkpoints/step_00000002", "0" * 64),
    events.Finished(4, "stopped", ""),
]


def show(sink: LiveSink | PlainSink) -> None:
    with sink:
        for event in STORY:
            sink.emit(event)


def test_a_log_gets_one_plain_line_an_event() -> None:
    text = io.StringIO()
    sink = sink_for(Console(file=text, width=20), "mhe seed 1")
    assert isinstance(sink, PlainSink)
    show(sink)
    lines = text.getvalue().splitlines()
    assert lines == [f"mhe seed 1  {events.describe(event)}" for event in STORY]
    assert "[one] neuron [/and]" in lines[1]


def test_a_terminal_gets_a_live_line_with_rate_losses_and_score() -> None:
    text = io.StringIO()
    sink = sink_for(Console(file=text, width=160, force_terminal=True, color_system=None), "mhe seed 1")
    assert isinstance(sink, LiveSink)
    show(sink)
    last = [line for line in text.getvalue().splitlines() if "mhe seed 1" in line][-1]
    assert "2/4" in last
    assert "640 images/s  D 1.25 G 0.50  Inception score 7.12" in last
    assert "a layer has [one] neuron [/and] no pair" in text.getvalue()
    assert "stopped" not in text.getvalue()  # the command prints the end once


def show_two_at_once(console: Console) -> None:
    with sinks_for(console) as make_sink, make_sink("mhe seed 1") as second:
        with make_sink("none seed 0") as first:
            for event in STORY:
                first.emit(event)
                second.emit(event)
        second.emit(events.Progress(3, 4, 10.0, 500.0, 0.1))


def test_lines_of_runs_at_once_begin_with_their_titles() -> None:
    text = io.StringIO()
    show_two_at_once(Console(file=text, width=20))
    expected = [f"{title}  {events.describe(event)}" for event in STORY for title in ("none seed 0", "mhe seed 1")]
    assert text.getvalue().splitlines()[:-1] == expected
    assert text.getvalue().splitlines()[-1].startswith("mhe seed 1  step 3/4")


def screen(output: str) -> list[str]:
    """The rows that a terminal shows in the end, of output that clears whole lines only."""
    rows, row = [""], 0
    for part in re.split(r"(\x1b\[[?0-9]*[A-Za-z]|\r|\n)", output):
        if part == "\n":
            row += 1
            rows += [""] * (row == len(rows))
        elif part == "\x1b[1A":
            row -= 1
        elif part == "\x1b[2K":
            rows[row] = ""
        elif part[:1] not in ("\x1b", "\r"):
            rows[row] += part
    return [shown for shown in rows if shown]


def test_a_terminal_has_a_line_a_run_and_a_finished_run_leaves_its_own_above() -> None:
    text = io.StringIO()
    show_two_at_once(Console(file=text, width=160, force_terminal=True, color_system=None))
    notice, _, first, second = screen(text.getvalue())
    assert notice == "note: a layer has [one] neuron [/and] no pair"
    assert first.startswith("none seed 0 ") and "2/4" in first and "640 images/s  D 1.25 G 0.50" in first
    assert second.startswith("mhe seed 1 ") and "3/4" in second and "500 images/s" in second


def test_nothing_printed_controls_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    evil = "\x1b[2J\x1b[31mEVIL\rX\x9b\u202e"
    console.say(evil)
    console.print_error(evil)
    console.note(evil)
    console.print_table(("name",), [(evil,)])
    console.print_columns(("name",), [(f"{evil}\nforged",)])
    PlainSink(console.out, evil).show("", evil)
    printed = "".join(capsys.readouterr())
    assert not set(printed) & set("\x1b\r\x9b\u202e")
    assert printed.count("\\x1b[31mEVIL") == 7
    assert "\nforged" not in printed


def test_one_long_name_does_not_pad_every_row(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_columns(("name", "state"), [("a", "queued"), ("b" * 200, "failed")])
    assert capsys.readouterr().out.splitlines() == ["name  state", "a     queued", f"{'b' * 200}  failed"]


@pytest.mark.parametrize("show", [console.say, console.print_error, console.note])
def test_names_between_colons_stay_as_they_are(show: Callable[[str], None], capsys: pytest.CaptureFixture[str]) -> None:
    show("protocol classifier:ant: other data")
    assert "".join(capsys.readouterr()).endswith("protocol classifier:ant: other data\n")
