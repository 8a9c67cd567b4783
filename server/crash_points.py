"""Named points at which a test can kill the process, to verify that a crash there loses nothing."""

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
    """Kill this process with SIGKILL if the environment variable names this point."""
    if os.environ.get(VARIABLE) == name:
        os.kill(os.getpid(), signal.SIGKILL)
