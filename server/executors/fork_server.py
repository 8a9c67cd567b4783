"""A process that has PyTorch loaded and forks attempts, which start without the seconds that loading takes.

Run by `WarmStart`: `python -m server.executors.fork_server MODULE,...`, with a socket as its standard input. It imports
the modules, says so, and then forks a supervisor for each request; the supervisor forks its trainer. It computes
nothing, so that it has no threads, which no fork would have. It ends when the other end of the socket is closed.

A forked process would show the command and the environment of this one to `ps` and to readers of /proc. Both are
overwritten: an attempt's processes are found by their environment.
"""

import ctypes
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from server.executors import supervisor

MAX_MESSAGE = 64 * 1024
ROOM = 512
"""Bytes that the command line of this process must have, for the names of forked ones."""
PLACEHOLDER = "-" * 64
"""The value of `supervisor.MARKER` in this process, to be overwritten by the id of an attempt."""

_ARGUMENTS, _ENVIRONMENT = (45, 46), (47, 48)  # where /proc/self/stat, from the state on, has their addresses


def main() -> None:
    """Import the modules, then fork a supervisor for each request."""
    requests = socket.socket(fileno=os.dup(0))
    for name in sys.argv[1].split(","):
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # a collection in a fork would copy all pages that it shares with this process
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps supervisors
    _flush()  # each fork would write again what is in a buffer
    with suppress(OSError):  # the other end is closed, perhaps with a message unread
        _serve(requests)
    os._exit(0)  # the clean-up of the modules takes a second and prints warnings


def _serve(requests: socket.socket) -> None:
    """Fork for each request, until the other end is closed."""
    requests.send(json.dumps({"ready": True}).encode())
    while (message := requests.recv(MAX_MESSAGE)) and not _is_closed(requests):
        requests.send(json.dumps(_answer(json.loads(message))).encode())


def _is_closed(requests: socket.socket) -> bool:
    """Whether nobody waits for answers any more. A request that is left was given up: its job may run elsewhere."""
    look = select.poll()
    look.register(requests, 0)  # a closed other end is always reported
    return bool(look.poll(0))


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    try:
        pid = os.fork()
    except OSError as error:
        return {"error": str(error)}
    if pid == 0:
        _in_fork(lambda: _supervise(request))
    return {"pid": pid}


def _in_fork(work: Callable[[], None]) -> NoReturn:
    """Do this in a process that was just forked, and end it as the interpreter would, without its parent's clean-up."""
    code = 0
    try:
        work()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
        code = 1
    finally:
        try:
            _flush()
        finally:
            os._exit(code)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # nobody reads it, or it was closed
            stream.flush()


def _supervise(request: dict[str, Any]) -> None:
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    _redirect(log)
    os.environ[supervisor.MARKER] = request["attempt_id"]
    _overwrite(_ENVIRONMENT, f"{supervisor.MARKER}={PLACEHOLDER}", f"{supervisor.MARKER}={request['attempt_id']}")
    _name("supervisor", request["spec"])
    supervisor.main(Path(request["spec"]), _fork_trainer)


def _fork_trainer(spec: dict[str, Any], output: int, prepare: Callable[[], None]) -> "_Trainer":
    """Start the trainer of an attempt as `supervisor.execute` would, but with its modules loaded."""
    # A signal that came while the child still has this process's handlers would be lost.
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    pid = os.fork()
    if pid == 0:
        _in_fork(lambda: _train(spec, output, prepare))
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    return _Trainer(pid)


def _train(spec: dict[str, Any], output: int, prepare: Callable[[], None]) -> None:
    os.setpgid(0, 0)
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGQUIT, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    prepare()
    _redirect(output)
    supervisor.close_inherited_files()
    os.environ.update(spec["environment"])
    *_, module, request = spec["command"]
    _name(module, request)
    sys.argv = [module, request]
    importlib.import_module(module).main()


class _Trainer:
    """What a supervisor uses of `subprocess.Popen`."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def wait(self) -> int:
        _, status = os.waitpid(self.pid, 0)
        self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode


def _redirect(output: int) -> None:
    """Read from nothing, and write to this descriptor."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    for target, source in ((0, nothing), (1, output), (2, output)):
        os.dup2(source, target)


def _name(*words: str) -> None:
    """Show this as the command line of this process."""
    start, end = _region(_ARGUMENTS)
    shown = "\0".join(("gan-mhe", *words)).encode()[: end - start - 1]
    ctypes.memmove(start, shown.ljust(end - start, b"\0"), end - start)


def _overwrite(addresses: tuple[int, int], old: str, new: str) -> None:
    """Overwrite a text of this process's first memory, as long as the new one is not longer."""
    start, end = _region(addresses)
    at = ctypes.string_at(start, end - start).index(old.encode())
    if len(new) > len(old):
        raise ValueError(f"expected at most {len(old)} bytes, got {new!r}")
    ctypes.memmove(start + at, new.encode().ljust(len(old), b"\0"), len(old))


def _region(addresses: tuple[int, int]) -> tuple[int, int]:
    fields = Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()
    return int(fields[addresses[0]]), int(fields[addresses[1]])


if __name__ == "__main__":
    main()
