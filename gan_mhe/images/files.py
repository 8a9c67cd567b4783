"""Files of many images, written from batches as they come, so that only one batch is in memory.

A file only grows: it can be read, or sent, while it is written. Equal images give equal bytes on one installation.
"""

import io
import math
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gan_mhe.images import grids

Format = Literal["png", "webp", "npz", "zip"]

# Level 1 deflates about six times as fast as the default, which would take longer than generating; files are a tenth
# larger.
_NPZ_LEVEL = 1


class Growing(Protocol):
    """What images are written to. Bytes are only appended; `flush` shows them to readers."""

    def write(self, content: bytes) -> int:
        """Append."""
        ...

    def flush(self) -> None:
        """Show to readers what was written."""
        ...


@dataclass(frozen=True)
class GridLayout:
    """How a grid is laid out. None: as square as possible, and enlarged as `grids.grid` does by default."""

    columns: int | None = None
    scale: int | None = None
    padding: int = 2


def write(batches: Iterable[Tensor], count: int, format: Format, out: Growing, layout: GridLayout) -> None:
    """Write `count` images from batches uint8 (b, 3, H, H) to `out`.

    `png` and `webp` are one grid, for which all images are in memory; `npz` contains the array `images`
    (count, H, H, 3), compressed; `zip` contains one numbered PNG per image. layout: of a grid. Raises ConfigError for a
    grid that cannot be made.
    """
    match format:
        case "png" | "webp":
            columns = layout.columns or math.isqrt(count - 1) + 1
            grid = grids.grid(torch.cat(list(batches)), columns, layout.padding, layout.scale)
            out.write(grids.encode_png(grid) if format == "png" else grids.encode_webp(grid))
        case "npz":
            _write_npz(batches, count, out)
        case "zip":
            _write_zip(batches, out)


def encode(images: Tensor, format: Format, layout: GridLayout | None = None) -> bytes:
    """The bytes that `write` writes for images uint8 (n, 3, H, H)."""
    buffer = io.BytesIO()
    write([images], len(images), format, buffer, layout or GridLayout())
    return buffer.getvalue()


def named_pngs(batches: Iterable[Tensor]) -> Iterator[tuple[str, bytes]]:
    """Each image as a PNG, with the file name that numbers it."""
    index = 0
    for batch in batches:
        for image in batch.permute(0, 2, 3, 1).numpy():
            yield f"{index:06d}.png", grids.encode_png(Image.fromarray(image))
            index += 1


def _write_npz(batches: Iterable[Tensor], count: int, out: Growing) -> None:
    """Write what `numpy.savez_compressed` writes for the whole array, but for the level and where sizes are noted."""
    with (
        zipfile.ZipFile(_Unseekable(out), "w", zipfile.ZIP_DEFLATED, compresslevel=_NPZ_LEVEL) as archive,
        archive.open("images.npy", "w", force_zip64=True) as array,
    ):
        for index, batch in enumerate(batches):
            pixels = batch.permute(0, 2, 3, 1).numpy()
            if index == 0:
                header = {"descr": "|u1", "fortran_order": False, "shape": (count, *pixels.shape[1:])}
                np.lib.format.write_array_header_1_0(array, header)
            array.write(pixels.tobytes())
            out.flush()


def _write_zip(batches: Iterable[Tensor], out: Growing) -> None:
    pending = _Pending(out)
    with zipfile.ZipFile(pending, "w") as archive:  # stored: PNGs are compressed already
        for name, content in named_pngs(batches):
            archive.writestr(zipfile.ZipInfo(name), content)  # ZipInfo's constant date: 1980
            pending.release()
            out.flush()
    pending.release()


class _Unseekable:
    """A file without positions: `zipfile` then notes the size of a member behind it instead of going back."""

    def __init__(self, out: Growing) -> None:
        self._out = out

    def write(self, content: bytes) -> int:
        return self._out.write(content)

    def flush(self) -> None:
        """Nothing: the writer decides when."""

    def close(self) -> None:
        """Nothing: the file belongs to the caller."""


class _Pending(io.BytesIO):
    """A file whose end is in memory until it is released, so that `zipfile` can go back in a member and note its size.

    A stored member with its size behind it could not be unpacked from a stream.
    """

    def __init__(self, out: Growing) -> None:
        super().__init__()
        self._out = out
        self._released = 0

    def tell(self) -> int:
        return self._released + super().tell()

    def seek(self, position: int, whence: int = io.SEEK_SET) -> int:
        return super().seek(position - self._released, whence)

    def release(self) -> None:
        """Append what is in memory to the file."""
        self._released += self._out.write(self.getvalue())
        super().seek(0)
        self.truncate()
