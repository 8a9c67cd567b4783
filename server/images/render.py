"""Renders a thumbnail or an animation of sample grids: `python -m server.images.render < REQUEST`.

This runs in a separate process because decoding and encoding take seconds of CPU time and hundreds of megabytes, and
because damaged files can harm a decoder; the service's process holds the keys and the database. The request is JSON on
standard input:

    {"kind": "thumbnail", "source": PATH, "width": 64 | 128 | 256 | 512, "output": PATH}
    {"kind": "animation", "sources": [PATH, ...], "steps": [INTEGER, ...], "format": "webp" | "gif", "fps": 1 to 60,
     "max_side": PIXELS | null, "output": PATH}

Sources are PNG files. The output is written atomically and depends only on the sources and the request. After an
error the exit code is 2, and one line {"message": ...} is on standard error.
"""

import io
import itertools
import json
import math
import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from gan_mhe.errors import StorageError
from gan_mhe.files import atomic_write

USAGE = 2
WIDTHS = (64, 128, 256, 512)
FORMATS = ("webp", "gif")
MAX_FPS = 60
MAX_PIXELS = 2**26  # per source: 8192 x 8192, 192 MiB as RGB
LAST_FRAME_MS = 1500

# For sample grids, 75 looks the same as the source; 90 takes about twice the space.
_WEBP_QUALITY = 75
# One of the 256 colors is left for transparency: unchanged pixels are written as transparent, which compresses better.
_GIF_COLORS = 255
_PALETTE_FRAMES, _PALETTE_SIDE = 16, 160
# Browsers slow down GIFs with frames shorter than 20 ms.
_GIF_TICK_MS, _GIF_SHORTEST_MS = 10, 20

_NICENESS = 10
_BLACK, _TEXT = (0, 0, 0), (224, 224, 224)
_FONT_PIXELS, _STRIP_PIXELS, _MARGIN_PIXELS = 14, 24, 6

_FIELDS = {
    "thumbnail": {"kind", "source", "width", "output"},
    "animation": {"kind", "sources", "steps", "format", "fps", "max_side", "output"},
}


class CannotRender(Exception):
    """The request is invalid, a source cannot be read, or the output cannot be written.

    The message gives file names without their directories, so that it may be shown to clients.
    """


def main() -> int:
    """Execute the request on standard input; returns the exit code."""
    os.nice(_NICENESS)
    Image.MAX_IMAGE_PIXELS = MAX_PIXELS
    warnings.simplefilter("error", Image.DecompressionBombWarning)
    try:
        render(_request(sys.stdin.buffer.read()))
    except CannotRender as error:
        sys.stderr.write(json.dumps({"message": str(error)}) + "\n")
        return USAGE
    return 0


def _request(content: bytes) -> dict[str, Any]:
    """The parsed request, with exactly the fields of its kind. Raises CannotRender for anything else."""
    try:
        request = json.loads(content)
    except ValueError as error:
        raise CannotRender(f"request: expected JSON, got {error}") from None
    if not isinstance(request, dict):
        raise CannotRender(f"request: expected an object, got {type(request).__name__}")
    kind = request.get("kind")
    if not isinstance(kind, str) or kind not in _FIELDS:
        raise CannotRender(f"kind: expected one of {', '.join(_FIELDS)}, got {kind!r}")
    if set(request) != _FIELDS[kind]:
        expected, got = (", ".join(sorted(names)) for names in (_FIELDS[kind], request))
        raise CannotRender(f"{kind}: expected the fields {expected}, got {got}")
    return request


def render(request: Mapping[str, Any]) -> None:
    """Write the output of a request that has the fields of its kind. Raises CannotRender."""
    output = _path(request, "output")
    if request["kind"] == "thumbnail":
        width = request["width"]
        _expect("width", _is_integer(width) and width in WIDTHS, f"one of {', '.join(map(str, WIDTHS))}", width)
        content = _thumbnail(_path(request, "source"), width)
    else:
        content = _animation(request)
    try:
        atomic_write(output, content)
    except StorageError as error:
        raise CannotRender(str(error).replace(f"{output.parent}{os.sep}", "")) from error


def _expect(field: str, holds: bool, expectation: str, value: object) -> None:
    if not holds:
        raise CannotRender(f"{field}: expected {expectation}, got {value!r}")


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _path(request: Mapping[str, Any], field: str) -> Path:
    value = request[field]
    _expect(field, isinstance(value, str) and value != "", "a path", value)
    return Path(value)


def _thumbnail(source: Path, width: int) -> bytes:
    """A PNG of the given width, or of the source's width if that is smaller."""
    image = _read(source)
    out = io.BytesIO()
    _shrunk(image, width / image.width).save(out, "PNG", optimize=True)
    return out.getvalue()


def _animation(request: Mapping[str, Any]) -> bytes:
    """A WebP or GIF that shows the grids in order, repeats forever, and shows the last one longer."""
    format_, fps = request["format"], request["fps"]
    _expect("format", format_ in FORMATS, f"one of {', '.join(FORMATS)}", format_)
    _expect("fps", _is_integer(fps) and 1 <= fps <= MAX_FPS, f"1 to {MAX_FPS} frames per second", fps)
    frames = list(_frames(request))
    return _as_gif(frames, fps) if format_ == "gif" else _as_webp(frames, fps)


def _frames(request: Mapping[str, Any]) -> Iterator[Image.Image]:
    """The grids, shrunk to `max_side`, each above a strip with its step."""
    sources, steps, max_side = request["sources"], request["steps"], request["max_side"]
    paths = isinstance(sources, list) and len(sources) > 0 and all(isinstance(source, str) for source in sources)
    _expect("sources", paths, "a list of at least one path", sources)
    numbers = (
        isinstance(steps, list) and all(map(_is_integer, steps)) and steps == sorted(set(steps)) and steps[:1] >= [0]
    )
    _expect("steps", numbers and len(steps) == len(sources), f"{len(sources)} increasing integers from 0", steps)
    _expect("max_side", max_side is None or (_is_integer(max_side) and max_side > 0), "pixels or null", max_side)
    strip = _Strip(steps[-1])
    size = None
    for source, step in zip(sources, steps, strict=True):
        image = _read(Path(source))
        size = size or image.size
        if image.size != size:
            expected, got = (f"{width} x {height}" for width, height in (size, image.size))
            raise CannotRender(f"sources: expected grids of one size, got {expected} and {got} at step {step}")
        yield strip.below(_shrunk(image, (max_side or max(size)) / max(size)), step)


class _Strip:
    """The strip below each frame. `last_step`: the largest number that must fit."""

    def __init__(self, last_step: int) -> None:
        self._font = ImageFont.load_default(_FONT_PIXELS)
        self._width = int(self._font.getlength(self._text(last_step))) + 2 * _MARGIN_PIXELS

    def below(self, image: Image.Image, step: int) -> Image.Image:
        """The image above its step; black at the sides if the image is narrower than the text."""
        size = max(image.width, self._width), image.height + _STRIP_PIXELS
        frame = Image.new("RGB", size, _BLACK)
        frame.paste(image, ((size[0] - image.width) // 2, 0))
        position = _MARGIN_PIXELS, image.height + _STRIP_PIXELS // 2
        ImageDraw.Draw(frame).text(position, self._text(step), fill=_TEXT, font=self._font, anchor="lm")
        return frame

    @staticmethod
    def _text(step: int) -> str:
        return f"step {step:,}"


def _read(source: Path) -> Image.Image:
    """The image as 8-bit RGB. Raises CannotRender if it is not a complete PNG of at most MAX_PIXELS."""
    try:
        with Image.open(source, formats=["PNG"]) as image:
            return image.convert("RGB")
    except Exception as error:  # decoders raise many kinds of errors for damaged files
        reason = str(error).replace(str(source), source.name)
        raise CannotRender(
            f"source {source.name}: expected a PNG of at most {MAX_PIXELS} pixels; {type(error).__name__}: {reason}"
        ) from error


def _shrunk(image: Image.Image, factor: float) -> Image.Image:
    """The image scaled by `factor`, or unchanged if the factor is 1 or more."""
    if factor >= 1:
        return image
    width, height = (max(1, round(side * factor)) for side in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS)


def _as_webp(frames: Sequence[Image.Image], fps: int) -> bytes:
    out = io.BytesIO()
    durations = _durations(len(frames), 1000 / fps, tick_ms=1)
    frames[0].save(
        out, "WEBP", save_all=True, append_images=frames[1:], duration=durations, loop=0, quality=_WEBP_QUALITY
    )
    return out.getvalue()


def _as_gif(frames: Sequence[Image.Image], fps: int) -> bytes:
    """A GIF with one palette for all frames and no dithering, so that unchanged pixels do not flicker."""
    palette = _palette(frames)
    indexed = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    out = io.BytesIO()
    indexed[0].save(
        out,
        "GIF",
        save_all=True,
        append_images=indexed[1:],
        duration=_durations(len(frames), max(1000 / fps, _GIF_SHORTEST_MS), tick_ms=_GIF_TICK_MS),
        loop=0,
        optimize=True,
        palette=bytes(palette.getpalette() or ()),
    )
    return out.getvalue()


def _palette(frames: Sequence[Image.Image]) -> Image.Image:
    """An image whose palette fits a sample of the frames, evenly spaced, the last included."""
    sample = frames[:: -math.ceil(len(frames) / _PALETTE_FRAMES)]
    sheet = Image.new("RGB", (_PALETTE_SIDE, _PALETTE_SIDE * len(sample)))
    for row, frame in enumerate(sample):
        tile = frame.resize((_PALETTE_SIDE, _PALETTE_SIDE), Image.Resampling.NEAREST)
        sheet.paste(tile, (0, row * _PALETTE_SIDE))
    return sheet.quantize(_GIF_COLORS, method=Image.Quantize.FASTOCTREE)


def _durations(count: int, period_ms: float, tick_ms: int) -> list[int]:
    """Milliseconds per frame: whole ticks that do not drift from the period; the last frame stays longer."""
    starts = [round(number * period_ms / tick_ms) * tick_ms for number in range(count)]
    return [end - start for start, end in itertools.pairwise(starts)] + [LAST_FRAME_MS]


if __name__ == "__main__":
    sys.exit(main())
