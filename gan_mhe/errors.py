"""Every error a user can cause or meet, as one tree.

GanMheError                    anything this package raises on purpose; has a stable `code`
├── ConfigError                a run cannot be described like this            config_invalid
├── DataError                  images are missing, broken or of the wrong size data_invalid
├── DeviceError                the asked-for device or precision is not here  device_unavailable
├── MemoryLimitError           a run needs more memory than its device has free out_of_memory
├── ExtractorError             a protocol's feature extractor cannot be used  scorer_unavailable
├── ProtocolMismatchError      scores of different protocols in one comparison protocol_mismatch
├── CheckpointError            a checkpoint is damaged or belongs elsewhere   checkpoint_invalid
├── RunDirError                a run directory cannot be read or written      run_dir_invalid
├── StorageError               a write failed; what stood before still stands storage_failed
└── DivergedError              a loss or gradient stopped being finite        diverged

A message names the field or file, what was expected and what came. `assert` is for our own mistakes only.
"""

import difflib
from collections.abc import Iterable


class GanMheError(Exception):
    """Root of the tree. `code` is stable across releases; messages are for people and may change."""

    code = "error"


class ConfigError(GanMheError):
    """A key is unknown, a value is out of range, or two values contradict each other."""

    code = "config_invalid"


class DataError(GanMheError):
    """A data set is missing, an image is broken, or its size does not fit."""

    code = "data_invalid"


class DeviceError(GanMheError):
    """The device or precision asked for does not exist on this machine."""

    code = "device_unavailable"


class MemoryLimitError(GanMheError):
    """A run was not started because it would not fit into the free memory of its device."""

    code = "out_of_memory"


class ExtractorError(GanMheError):
    """A feature extractor's weights are missing, differ from the protocol's, or are for other images."""

    code = "scorer_unavailable"


class ProtocolMismatchError(GanMheError):
    """Scores measured under different evaluation protocols were put into one comparison."""

    code = "protocol_mismatch"


class CheckpointError(GanMheError):
    """A checkpoint is truncated, altered, or was written by another configuration."""

    code = "checkpoint_invalid"


class RunDirError(GanMheError):
    """A directory is not a run, is in use, or cannot be written."""

    code = "run_dir_invalid"


class StorageError(GanMheError):
    """A write failed (full disk, lost mount, permissions). The previous file is untouched."""

    code = "storage_failed"


class DivergedError(GanMheError):
    """A loss term or gradient became non-finite. Raised before anything is saved.

    step: the generator step at which it happened first; terms: the names of the non-finite quantities.
    """

    code = "diverged"

    def __init__(self, step: int, terms: list[str]) -> None:
        super().__init__(
            f"training diverged at step {step}: {', '.join(terms)} not finite; no update was made from it or after it"
        )
        self.step = step
        self.terms = terms


def nearest(given: str, known: Iterable[str]) -> str:
    """A clause to append to "unknown ...": the nearest known name, or all of them when none is near."""
    names = list(known)
    matches = difflib.get_close_matches(given, names, n=1)
    return f"; did you mean {matches[0]!r}?" if matches else f"; expected one of {', '.join(sorted(names))}"
