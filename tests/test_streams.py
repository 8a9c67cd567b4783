"""Output that cannot be written is lost, and nothing else is."""

import io
import os
import sys
from pathlib import Path
from typing import Any, TextIO

import pytest

from gan_mhe.streams import Dispensable, Output, output_is_optional, protected
from tests.support.looped import looped


def broken_pipe() -> TextIO:
    reader, writer = os.pipe()
    os.close(reader)
    return open(writer, "w", encoding="utf-8")


def full_device() -> TextIO:
    return open("/dev/full", "w", encoding="utf-8")


def closed() -> TextIO:
    stream = io.StringIO()
    stream.close()
    return stream


class Reentered(io.StringIO):
    """Behaves as a stream in a signal handler that interrupted a write to it."""

    def write(self, text: str) -> int:
        raise RuntimeError("reentrant call inside <_io.BufferedWriter>")


BROKEN: dict[str, tuple[Any, type[Exception]]] = {
    "broken pipe": (broken_pipe, BrokenPipeError),
    "full device": (full_device, OSError),
    "closed file": (closed, ValueError),
    "closed at the start": (lambda: None, OSError),
}


class TestOutput:
    @looped("name", BROKEN)
    def test_text_that_cannot_be_written_is_lost_and_the_error_is_kept(self, name: str) -> None:
        make, kind = BROKEN[name]
        stream = make()
        output = Output(stream)
        assert output.write("text") == 4
        output.flush()
        assert isinstance(output.problem, kind)
        assert output.isatty() is False
        output.discard_rest()
        if stream is not None:
            stream.close()  # raises if the text is still to be written

    def test_text_that_can_be_written_is(self) -> None:
        stream = io.StringIO()
        output = Output(stream)
        output.write("text")
        output.flush()
        assert (stream.getvalue(), output.problem) == ("text", None)

    def test_a_character_that_the_encoding_lacks_becomes_an_escape(self) -> None:
        content = io.BytesIO()
        output = Output(io.TextIOWrapper(content, encoding="ascii"))
        output.write("rä\udcff")
        output.flush()
        assert (content.getvalue(), output.problem) == (rb"r\xe4\udcff", None)

    def test_text_of_a_signal_handler_inside_a_write_is_no_lasting_loss(self) -> None:
        output = Output(Reentered())
        output.write("text")
        assert output.problem is None

    def test_a_stream_that_works_again_is_written_again(self, tmp_path: Path) -> None:
        with open(tmp_path / "log", "w", encoding="utf-8") as stream:
            output = Output(stream)
            spare, full = os.dup(stream.fileno()), os.open("/dev/full", os.O_WRONLY)
            os.dup2(full, stream.fileno())
            output.write("first\n")
            output.flush()
            os.dup2(spare, stream.fileno())
            output.write("second\n")
            output.flush()
            os.close(spare)
            os.close(full)
        assert output.problem is not None
        assert (tmp_path / "log").read_text().endswith("second\n")


class TestProtected:
    def test_printing_to_a_closed_stream_does_not_raise(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("stdout", "stderr"):
            monkeypatch.setattr(sys, name, closed())
        with protected() as output:
            sys.stdout.write("text")
            sys.stderr.write("text")
        assert isinstance(output.problem, ValueError)

    def test_the_streams_of_before_are_those_of_after(self) -> None:
        before = sys.stdout, sys.stderr
        with protected() as output:
            assert sys.stdout is output
        assert (sys.stdout, sys.stderr) == before

    def test_output_is_needed_until_a_command_says_otherwise(self) -> None:
        output_is_optional()  # nothing is protected; nothing happens
        with protected() as output:
            assert not output.optional
            output_is_optional()
            assert output.optional


class TestDispensable:
    @looped("error", [BrokenPipeError(32, "Broken pipe"), ValueError("closed"), SystemExit(1)])
    def test_it_is_called_until_its_first_error_which_is_reported_once(self, error: BaseException) -> None:
        shown, reasons = list[int](), list[str]()

        def show(item: int) -> None:
            shown.append(item)
            if item == 2:
                raise error

        display = Dispensable(show, reasons.append)
        for item in (1, 2, 3, 4):
            display(item)
        assert (shown, reasons) == ([1, 2], [str(error)])

    def test_an_interruption_is_no_error_of_the_display(self) -> None:
        def show(item: int) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            Dispensable(show)(1)
