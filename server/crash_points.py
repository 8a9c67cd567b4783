"""Named places where a test can kill the process, to show that nothing depends on getting past them."""

import os
import signal

VARIABLE = "GAN_MHE_CRASH_AT"

POINTS = (
    "submit.before_commit",
    "submit.after_commit",
    "claim.before_commit",
    "claim.after_commit",
    "launch.after_start",
    "state.before_commit",
    "state.after_commit",
    "ingest.before_commit",
    "ingest.after_commit",
)


def crash_point(name: str) -> None:
    """End this process as `kill -9` would, if the environment names this point."""
    if os.environ.get(VARIABLE) == name:
        os.kill(os.getpid(), signal.SIGKILL)
