"""Paths and files of a run directory. Only this file knows their names."""

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from gan_mhe.config.compose import parse_stored
from gan_mhe.config.run_config import RunConfig
from gan_mhe.errors import ConfigError, RunDirError
from gan_mhe.files import write_json
from gan_mhe.json_text import read, read_lines, read_object
from gan_mhe.records.data_summary import DataSummary
from gan_mhe.records.events import Event, decode
from gan_mhe.records.fields import Sha256, validated
from gan_mhe.records.inputs import Inputs
from gan_mhe.records.result import check_types
from gan_mhe.streams import reason_of

_CHECKPOINT_PREFIX = "step_"
_CHECKPOINT_STEP = re.compile(rf"{_CHECKPOINT_PREFIX}([0-9]{{8,16}})")
_WEIGHTS = TypeAdapter[str | None](Sha256 | None)
_OWN_SECTIONS = frozenset({"generator", "discriminator", "training"})  # in every stored configuration


class RunDir:
    """The paths inside one run directory. Creating the object touches no file."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.config = root / "config.json"
        self.environment = root / "environment.json"
        self.data = root / "data.json"
        self.scorer = root / "scorer.json"
        self.events = root / "events.jsonl"
        self.log = root / "log.txt"
        self.result = root / "result.json"
        self.samples = root / "samples"
        self.checkpoints = root / "checkpoints"
        self._lock = root / ".lock"

    def sample(self, step: int) -> Path:
        """Path of the sample grid of one step."""
        return self.samples / f"step_{step:08d}.png"

    def checkpoint(self, step: int) -> Path:
        """Path of the checkpoint directory of one step."""
        return self.checkpoints / f"{_CHECKPOINT_PREFIX}{step:08d}"

    def checkpoint_steps(self) -> list[int]:
        """The steps that have a checkpoint directory, in ascending order."""
        names = (_CHECKPOINT_STEP.fullmatch(path.name) for path in self.checkpoints.glob(f"{_CHECKPOINT_PREFIX}*"))
        return sorted(int(name[1]) for name in names if name and name[0] == self.checkpoint(int(name[1])).name)

    def relative(self, path: Path) -> str:
        """A path relative to the run directory, with forward slashes, as events give it."""
        return path.relative_to(self.root).as_posix()

    def exists(self) -> bool:
        """Whether the directory has a run's configuration."""
        return self.config.exists()

    def read_config(self) -> RunConfig:
        """The configuration of the run, as it was stored. RunDirError if it is missing or damaged."""
        try:
            return parse_stored(read_object(self.config, keep_halves=True))
        except (FileNotFoundError, NotADirectoryError):
            raise RunDirError(f"{self.root} is not a run directory: it has no {self.config.name}") from None
        except ConfigError as error:
            raise RunDirError(f"{self.config} cannot be read: {'; '.join(str(error).splitlines())}") from error
        except (OSError, ValueError) as error:
            raise RunDirError(f"{self.config} cannot be read: {reason_of(error)}") from error

    def is_foreign(self) -> bool:
        """Whether the directory's `config.json` is another program's: it has no section of ours, nor is a journal here.

        False for a file that cannot be read as JSON, which may be a damaged one of ours, and without any file.
        """
        if self.events.exists():
            return False
        try:
            document = read(self.config)
        except (OSError, ValueError):
            return False
        return not (isinstance(document, dict) and document.keys() >= _OWN_SECTIONS)

    def read_data(self) -> DataSummary | None:
        """What the data set held at the newest start of the run; None if it never started or is of an older version.

        RunDirError if the file is damaged.
        """
        if not self.data.exists():
            return None
        try:
            return DataSummary.from_document(read_object(self.data))
        except (OSError, ValueError) as error:
            raise RunDirError(f"{self.data} cannot be read: {reason_of(error)}") from error

    def read_inputs(self) -> Inputs:
        """The content of what the run read besides its configuration, as far as it is recorded.

        RunDirError if a record is damaged.
        """
        data = self.read_data()
        return Inputs(data.sha256 if data else None, self._read_weights_sha256())

    def _read_weights_sha256(self) -> str | None:
        if not self.scorer.exists():
            return None
        try:
            found: str | None = validated(_WEIGHTS.validate_python, read_object(self.scorer)["weights_sha256"])
        except (OSError, ValueError) as error:
            raise RunDirError(f"{self.scorer} cannot be read: weights_sha256: {reason_of(error)}") from error
        except KeyError:
            raise RunDirError(f"{self.scorer} cannot be read: it lacks weights_sha256") from None
        return found

    def write_scorer(self, protocol: str | None, weights_sha256: str | None) -> None:
        """Record the scorer of the run: its protocol and the SHA-256 of its weights. None: it is not scored."""
        if protocol is None:
            self.scorer.unlink(missing_ok=True)
        else:
            write_json(self.scorer, {"protocol": protocol, "weights_sha256": weights_sha256})

    def read_events(self) -> Iterator[Event]:
        """All events in the order in which they were recorded. RunDirError if one cannot be read."""
        if not self.events.exists():
            return
        try:
            yield from map(decode, read_lines(self.events))
        except (OSError, ValueError) as error:
            raise RunDirError(f"{self.events} cannot be read: {reason_of(error)}") from error

    def read_result(self) -> dict[str, Any] | None:
        """The document of the run's result, or None if there is none yet. RunDirError if it is damaged or no result."""
        if not self.result.exists():
            return None
        try:
            result = read_object(self.result)
            if "status" not in result:
                raise ValueError("expected a JSON object with the text `status`")
        except (OSError, ValueError) as error:
            raise RunDirError(f"{self.result} cannot be read: {reason_of(error)}") from error
        try:
            check_types(result)
        except ValueError as error:
            raise RunDirError(f"{self.result} is not the result of a run: {error}") from error
        return result

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the directory for one writer. RunDirError if another process holds it or it cannot be written.

        The lock belongs to the open file, so the system releases it when the process ends, in whatever way.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self._lock, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise RunDirError(f"cannot write to run directory {self.root}: {error.strerror}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            raise RunDirError(f"run directory {self.root} is in use by another process") from None
        try:
            yield
        finally:
            with suppress(OSError):
                os.close(descriptor)
