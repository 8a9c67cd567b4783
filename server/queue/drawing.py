"""What may be asked of a drawing of images, and how large its file can become."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from server.errors import FieldError

GRIDS = ("png", "webp")
GRID_FIELDS = ("columns", "scale", "padding")
MAX_IMAGES = 50_000  # in one zip or npz
MAX_GRID_N = 1024
MAX_GRID_IMAGES = 8192  # with walks; a limit for the grid's size and for a small machine's memory
MAX_GRID_PIXELS = 2**26  # of a grid whose layout is asked for
MAX_WEBP_SIDE = 16383

_READABLE_SIDE = 64  # as `gan_mhe.images.grids`, which needs torch
_PADDING = 2
_ENTRY_BYTES = 512  # more than a PNG and its member of a zip add to the pixels of an image


def refusals(parameters: Mapping[str, Any], image_size: int) -> Iterator[FieldError]:
    """Yield why images cannot be drawn like that. image_size: pixels of a side."""
    walk, kind = parameters["interpolation"], parameters["format"]
    if walk == 1:
        message = "interpolation: an interpolation has two end points; expected 0, or 2 or more; got 1"
        yield FieldError("/interpolation", "too_few", message)
    if kind in GRIDS and parameters["n"] > MAX_GRID_N:
        message = (
            f"n: expected at most {MAX_GRID_N} with format {kind}, got {parameters['n']}; format npz or zip has up to "
            f"{MAX_IMAGES}"
        )
        yield FieldError("/n", "too_many", message)
        return
    most = MAX_GRID_IMAGES if kind in GRIDS else MAX_IMAGES
    if _count(parameters) > most:
        count = _count(parameters)
        message = f"interpolation: {count} images are too many for one file; expected n x interpolation <= {most}"
        yield FieldError("/interpolation", "too_many", message)
        return
    yield from _grid_refusals(parameters, image_size)


def _grid_refusals(parameters: Mapping[str, Any], image_size: int) -> Iterator[FieldError]:
    said = [name for name in GRID_FIELDS if name in parameters]
    if parameters["format"] not in GRIDS:
        for name in said:
            message = f"{name}: only a grid has it; expected null with format {parameters['format']}, or format png"
            yield FieldError(f"/{name}", "not_a_grid", message)
        return
    if "columns" in said and parameters["interpolation"]:
        message = "columns: each row of an interpolation is a walk; expected null"
        yield FieldError("/columns", "not_free", message)
        return
    width, height = _grid_size(parameters, image_size)
    advice = "; lower n, scale or padding" if said else "; lower n or interpolation"
    if said and width * height > MAX_GRID_PIXELS:
        message = f"{said[-1]}: expected a grid of at most {MAX_GRID_PIXELS} pixels, got {width} x {height}{advice}"
        yield FieldError(f"/{said[-1]}", "too_large", message)
    elif parameters["format"] == "webp" and max(width, height) > MAX_WEBP_SIDE:
        message = f"format: expected a grid of at most {MAX_WEBP_SIDE} pixels a side, got {width} x {height}; use png"
        yield FieldError("/format", "too_large", message)


def most_bytes(parameters: Mapping[str, Any], image_size: int) -> int:
    """Return the size that the file cannot exceed, though it will mostly be much smaller."""
    if parameters["format"] in GRIDS:
        return 3 * math.prod(_grid_size(parameters, image_size)) + _ENTRY_BYTES
    return _count(parameters) * (3 * image_size**2 + _ENTRY_BYTES)


def _count(parameters: Mapping[str, Any]) -> int:
    return int(parameters["n"] * max(1, parameters["interpolation"]))


def _grid_size(parameters: Mapping[str, Any], image_size: int) -> tuple[int, int]:
    count = _count(parameters)
    columns = parameters.get("columns") or parameters["interpolation"] or math.isqrt(count - 1) + 1
    padding = parameters.get("padding", _PADDING)
    cell = image_size * parameters.get("scale", math.ceil(_READABLE_SIDE / image_size)) + padding
    return columns * cell + padding, math.ceil(count / columns) * cell + padding
