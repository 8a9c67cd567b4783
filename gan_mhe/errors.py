"""All errors that this package raises on purpose, as one tree with stable codes.

GanMheError                base class; has a stable `code`                              error
├── ConfigError            the configuration is invalid                                 config_invalid
├── DataError              images are missing, corrupt or of the wrong size             data_invalid
├── DeviceError            the requested device or precision is not available           device_unavailable
├── MemoryLimitError       the run needs more memory than its device has free           out_of_memory
├── ExtractorError         the protocol's feature extractor or data cannot be used      scorer_unavailable
├── ProtocolMismatchError  scores of different protocols in one comparison              protocol_mismatch
├── CheckpointError        a checkpoint is damaged or belongs to another configuration  checkpoint_invalid
├── RunDirError            a run directory cannot be read, locked or written            run_dir_invalid
├── StorageError           a write failed; the previous file is unchanged               storage_failed
└── DivergedError          a loss or gradient became non-finite                         diverged

Each message names the field or file, the expected value and the actual one. `assert` is reserved for internal errors.
"""

import difflib
import sys
from collections.abc import Iterable


class GanMheError(Exception):
    """Base class. `code` is stable across releases; messages are meant for people and may change."""

    code = "error"


class ConfigError(GanMheError):
    """A key is unknown, a value is out of range, or two values contradict each other."""

    code = "config_invalid"


class DataError(GanMheError):
    """A data set is missing, an image is corrupt, or an image has the wrong size."""

    code = "data_invalid"


class DeviceError(GanMheError):
    """The requested device or precision is not available on this machine."""

    code = "device_unavailable"


class MemoryLimitError(GanMheError):
    """The run was not started because it would need more memory than its device has free, or a score ran out of it."""

    code = "out_of_memory"


class ExtractorError(GanMheError):
    """The weights of a feature extractor are missing, differ from the protocol's, or belong to other images."""

    code = "scorer_unavailable"


class ProtocolMismatchError(GanMheError):
    """A comparison contains scores of different evaluation protocols."""

    code = "protocol_mismatch"


class CheckpointError(GanMheError):
    """A checkpoint is truncated, modified, or was written under another configuration."""

    code = "checkpoint_invalid"


class RunDirError(GanMheError):
    """A directory is not a run directory, is in use, or cannot be written."""

    code = "run_dir_invalid"


class StorageError(GanMheError):
    """A write failed (full disk, lost mount, permissions). The previous file is unchanged."""

    code = "storage_failed"


class DivergedError(GanMheError):
    """A loss term or gradient became non-finite. Raised before anything computed from it is saved.

    step: generator step at which it first happened; terms: names of the non-finite quantities.
    """

    code = "diverged"

    def __init__(self, step: int, terms: list[str]) -> None:
        super().__init__(
            f"training diverged at step {step}: {', '.join(terms)} not finite; no update was applied from this step on"
        )
        self.step = step
        self.terms = terms


# Messages of allocators that raise a plain RuntimeError.
_OUT_OF_MEMORY = ("DefaultCPUAllocator", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on the host or on a device."""
    torch = sys.modules.get("torch")  # loading it here would load it for everybody
    if isinstance(error, MemoryError) or (torch is not None and isinstance(error, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(message in str(error) for message in _OUT_OF_MEMORY)


def nearest(given: str, known: Iterable[str]) -> str:
    """Suffix for an "unknown ..." message: the closest known name, or all known names if none is close."""
    names = list(known)
    matches = difflib.get_close_matches(given, names, n=1)
    return f"; did you mean {matches[0]!r}?" if matches else f"; expected one of {', '.join(sorted(names))}"
