"""Decodes one image file into 8-bit RGB by fixed rules, and names what is lost on the way."""

import io
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, UnidentifiedImageError

FORMATS = ("PNG", "JPEG", "BMP", "WEBP")
"""What the content of a file may be, whatever its name says."""

SCALED = "16 bits scaled to 8"
NO_ALPHA = "alpha dropped"
NO_TURN = "EXIF orientation not applied"
FIRST_FRAME = "first of several frames"
NO_PROFILE = "CMYK without its profile"

_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK")


class UnusableError(Exception):
    """The content of a file cannot be used; the message says why."""


class WrongSizeError(Exception):
    """An image has another size than expected. size: its width and height in pixels."""

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__(f"{size[0]}x{size[1]}")
        self.size = size


class Decoded(NamedTuple):
    """One image as it is trained on."""

    pixels: npt.NDArray[np.uint8]
    """(H, H, 3), 0..255."""
    conversions: tuple[str, ...]
    """What was lost: constants of this module."""


def decode(content: bytes, image_size: int, *, crop: bool) -> Decoded:
    """The content of an image file as RGB of image_size x image_size; see docs/data.md for the rules.

    crop: take the central square and resample it; otherwise another size raises WrongSizeError. Raises UnusableError,
    or one of the many errors of the decoders, for content that is broken or cannot be represented.
    """
    with _opened(content) as image:
        if not crop and image.size != (image_size, image_size):
            raise WrongSizeError(image.size)
        deep = image.format == "PNG" and _png_bit_depth(content) == 16
        if deep and image.mode != "I;16":
            # Pillow keeps the high byte of each color, which is not the nearest level, and says nothing.
            raise UnusableError("it has 16 bits per channel and color or alpha; convert it to 8 bits per channel")
        if image.mode not in _MODES and not deep:
            raise UnusableError(f"its mode is {image.mode}; expected one of {', '.join(_MODES)}")
        rgb = _to_rgb(_scaled(image) if deep else image)
        conversions = {
            SCALED: deep,
            NO_ALPHA: image.has_transparency_data,
            NO_TURN: _is_turned(image),
            FIRST_FRAME: getattr(image, "is_animated", False),
            NO_PROFILE: image.mode == "CMYK",
        }
        pixels = np.asarray(center_square(rgb, image_size))
    return Decoded(pixels, tuple(name for name, applies in conversions.items() if applies))


@contextmanager
def _opened(content: bytes) -> Iterator[Image.Image]:
    try:
        image = Image.open(io.BytesIO(content), formats=FORMATS)
    except UnidentifiedImageError:
        raise UnusableError(f"its content is not one of {', '.join(FORMATS)}") from None
    with image:
        yield image


def _png_bit_depth(content: bytes) -> int:
    """Bits per sample of a PNG, from its header chunk, which the format requires to be the first."""
    if content[12:16] != b"IHDR":
        raise UnusableError("its first PNG chunk is not IHDR")
    return content[24]


def _scaled(image: Image.Image) -> Image.Image:
    """A gray image of 16 bits as one of 8: value * 255 / 65535, rounded. Pillow would clip it at 255."""
    levels = np.asarray(image).astype(np.int64)
    return Image.fromarray(((levels * 255 + 32767) // 65535).astype(np.uint8))


def _to_rgb(image: Image.Image) -> Image.Image:
    # Pillow warns unless a palette with transparency is converted to RGBA first; the colors are the same.
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def _is_turned(image: Image.Image) -> bool:
    """Whether EXIF says that the image is to be shown turned or mirrored."""
    orientation = 1
    # Damaged EXIF data raise errors of many types and say nothing about the pixels, which are whole.
    with suppress(Exception):
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    return orientation in range(2, 9)


def center_square(image: Image.Image, image_size: int) -> Image.Image:
    """The central square of an image, resampled to the given side with Pillow's antialiased Lanczos filter."""
    if image.size == (image_size, image_size):
        return image
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.crop((left, top, left + side, top + side))
    return square.resize((image_size, image_size), Image.Resampling.LANCZOS)
