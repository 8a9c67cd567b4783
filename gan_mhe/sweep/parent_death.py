"""A command that the kernel kills when the process that asked for it is gone, however that ends.

    python -I -S die_with_parent.py PARENT COMMAND...

PARENT is the asking process's number. The request to the kernel outlives `exec`. It is made here rather than between
fork and exec of the parent, which has threads as soon as torch is loaded: Python code run there may deadlock. Standard
library alone, so that it costs a few hundredths of a second.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    """Become the command. OSError when the kernel refuses or there is no such command."""
    parent, *command = arguments
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    if os.getppid() != int(parent):  # it died before it could be asked for
        raise SystemExit(1)
    os.execv(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
