"""Runs a module as a program whose wall clock is off by the seconds in the file that CAMPAIGN_CLOCK names.

    CAMPAIGN_CLOCK=FILE python -m benchmarks.campaign.shifted_clock MODULE [ARGUMENT ...]

The file is read at every reading of the clock, so that the clock can step while the program runs. Only `time.time` and
`time.time_ns` are shifted: monotonic clocks never step, and `datetime.now` is not replaced.
"""

import os
import runpy
import sys
import time
from pathlib import Path

VARIABLE = "CAMPAIGN_CLOCK"


def main() -> None:
    """Replace the clock, then run the module that the first argument names."""
    file, true_ns = Path(os.environ[VARIABLE]), time.time_ns

    def shifted_ns() -> int:
        return true_ns() + round(float(file.read_text()) * 1e9)

    time.time_ns = shifted_ns
    time.time = lambda: shifted_ns() / 1e9
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
