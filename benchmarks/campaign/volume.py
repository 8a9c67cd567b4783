"""The file system of the data directory: a small one in memory that can be filled and made read-only."""

import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

SIZE_BYTES = 6 * 2**30
"""Upper limit of the file system; only what is stored occupies memory."""


class Volume:
    """A directory, mounted as a file system of its own if this process may mount one.

    refusal: why it may not; None if it did. Without it nothing can be filled or made read-only.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True)
        self.refusal = _mount("-t", "tmpfs", "-o", f"size={SIZE_BYTES},mode=700", "campaign", str(directory))
        self._read_only: list[Path] = []

    def leave_free(self, count: int) -> None:
        """Shrink the file system until only `count` bytes are free: the same as a file that occupies the rest."""
        size = shutil.disk_usage(self.directory).used + count
        _require(_mount("-o", f"remount,size={size}", str(self.directory)))

    def make_read_only(self, below: str) -> None:
        """Make a folder of the volume read-only for everything that is opened from now on, for root too."""
        place = self.directory / below
        _require(_mount("--bind", str(place), str(place)))
        self._read_only.append(place)
        _require(_mount("-o", "remount,bind,ro", str(place)))

    def heal(self) -> None:
        """Make it writable and large again."""
        while self._read_only:
            subprocess.run(["umount", "--lazy", str(self._read_only.pop())], check=True)
        if self.refusal is None:
            _require(_mount("-o", f"remount,size={SIZE_BYTES}", str(self.directory)))

    def close(self, keep: Path | None) -> None:
        """Unmount it. keep: a new directory that its content is copied to first."""
        self.heal()
        if keep is not None:
            with suppress(shutil.Error):  # a file that cannot be copied costs none of the others
                shutil.copytree(self.directory, keep)
        if self.refusal is None:
            subprocess.run(["umount", "--lazy", str(self.directory)], check=True)
        else:
            shutil.rmtree(self.directory)
        with suppress(OSError):
            self.directory.rmdir()


def _mount(*arguments: str) -> str | None:
    """Why it failed, or None."""
    try:
        done = subprocess.run(["mount", *arguments], capture_output=True, text=True)
    except OSError as error:
        return f"mount: {error.strerror}"
    return (done.stderr.strip() or "mount failed") if done.returncode else None


def _require(failure: str | None) -> None:
    if failure is not None:
        raise OSError(failure)
