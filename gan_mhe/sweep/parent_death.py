"""Executes a command that the kernel kills when its parent process ends, for whatever reason (Linux PR_SET_PDEATHSIG).

    python -I -S parent_death.py PARENT COMMAND...

PARENT is the process ID of the parent. The kernel keeps the setting across `exec`. It is not made between fork and exec
of the parent, because Python code that runs there can deadlock once the parent has threads, and torch starts threads.
Only the standard library is imported, so that the start takes a few hundredths of a second.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    """Replace this process by the command. Raises OSError if the kernel refuses or the command does not exist."""
    parent, *command = arguments
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    if os.getppid() != int(parent):  # the parent ended before prctl took effect
        raise SystemExit(1)
    os.execv(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
