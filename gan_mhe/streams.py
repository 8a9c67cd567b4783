"""Standard output and error that cannot end a program: text that cannot be written is left out, and the loss is kept.

A reader may go away (`| head -1`), a disk may fill, a terminal may close, and a stream may be closed from the start.
None of these is a reason to lose hours of training or to fail a request.
"""

import errno
import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Generic, TextIO, TypeVar, cast

T = TypeVar("T")

_STANDARD_DESCRIPTORS = (0, 1, 2)


class _Nowhere(io.TextIOWrapper):
    """A stream that keeps nothing."""

    def __init__(self) -> None:
        super().__init__(io.BytesIO(), encoding="utf-8")

    def write(self, text: str) -> int:
        return len(text)


class Output:
    """A text stream whose `write` and `flush` do not raise. Everything else is that of the stream itself.

    problem: the first error, None while nothing was lost. optional: whether the command succeeds without its output.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self.problem: Exception | None = None
        self.optional = False
        if stream is None:  # Python's sign that the descriptor was closed when the program started
            stream = _Nowhere()
            self.problem = OSError(errno.EBADF, os.strerror(errno.EBADF))
        self._stream = stream

    def write(self, text: str) -> int:
        """Write `text`, with escapes for characters that the encoding lacks."""
        with self._noting_loss():
            try:
                self._stream.write(text)
            except UnicodeEncodeError:
                encoding = self._stream.encoding
                self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def flush(self) -> None:
        """Pass everything written so far to the operating system."""
        with self._noting_loss():
            self._stream.flush()

    def isatty(self) -> bool:
        """Whether the stream is a terminal; a closed one is not."""
        try:
            return self._stream.isatty()
        except ValueError:
            return False

    def discard_rest(self) -> None:
        """Flush, and drop what cannot be written: Python would try again when it exits, and fail with a message."""
        self.flush()
        if self.problem is not None:
            with suppress(OSError, ValueError), open(os.devnull, "wb") as null:
                os.dup2(null.fileno(), self._stream.fileno())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @contextmanager
    def _noting_loss(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:  # ValueError: the stream is closed
            self.problem = self.problem or error
        except RuntimeError:  # a signal handler writes while the same stream is being written; only its text is lost
            pass


def reason_of(problem: Exception) -> str:
    """The system's reason for an error, such as "No space left on device"; otherwise its message."""
    return (problem.strerror if isinstance(problem, OSError) else None) or str(problem)


@contextmanager
def protected() -> Iterator[Output]:
    """Make `sys.stdout` and `sys.stderr` an `Output` each; yield the former. Closed descriptors become /dev/null.

    A file that was opened in place of a closed descriptor would receive what libraries print.
    """
    for descriptor in _STANDARD_DESCRIPTORS:
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
    before = sys.stdout, sys.stderr
    out, err = Output(sys.stdout), Output(sys.stderr)
    sys.stdout, sys.stderr = cast(TextIO, out), cast(TextIO, err)
    try:
        yield out
    finally:
        sys.stdout, sys.stderr = before
        out.discard_rest()
        err.discard_rest()


def output_is_optional() -> None:
    """Declare that the running command succeeds even if its output is lost, because its results are files."""
    if isinstance(sys.stdout, Output):
        sys.stdout.optional = True


class Dispensable(Generic[T]):
    """A function that shows something, called until its first error.

    failed: called once with the reason. Rich leaves by SystemExit when a pipe breaks, which counts as an error.
    """

    def __init__(self, show: Callable[[T], None], failed: Callable[[str], None] = lambda reason: None) -> None:
        self._show: Callable[[T], None] | None = show
        self._failed = failed

    def __call__(self, item: T) -> None:
        """Show `item` unless an earlier one failed."""
        if self._show is None:
            return
        try:
            self._show(item)
        except (Exception, SystemExit) as error:
            self._show = None
            self._failed(str(error) or type(error).__name__)
