"""Image grids, and the lossless encoding of images."""

import io
import math

import torch
from PIL import Image
from torch import Tensor

from gan_mhe.errors import ConfigError

_READABLE_SIDE = 64  # pixels; images of 32 pixels are too small to assess on a modern screen
_COMPRESSION = 6
_WEBP_EFFORT, _WEBP_METHOD = 80, 4  # the defaults of Pillow, fixed here
WEBP_SIDE = 16383  # pixels


def grid(images_uint8: Tensor, columns: int, padding: int = 2, scale: int | None = None) -> Image.Image:
    """Arrange images uint8 (n, 3, H, W) in rows of `columns`; empty positions in the last row are black.

    padding: black pixels around each image, not scaled. scale: integer factor by which each image is enlarged; None
    enlarges small images until both sides have at least 64 pixels. Raises ConfigError for no images, another shape or
    dtype, or columns, padding or scale out of range.
    """
    if images_uint8.dtype != torch.uint8 or images_uint8.ndim != 4 or images_uint8.shape[1] != 3:
        raise ConfigError(
            f"sample grid: expected uint8 images (n, 3, H, W), got {images_uint8.dtype} {tuple(images_uint8.shape)}"
        )
    n, _, height, width = images_uint8.shape
    factor = math.ceil(_READABLE_SIDE / min(height, width)) if scale is None else scale
    if min(n, columns, factor) < 1 or padding < 0:
        raise ConfigError(
            f"sample grid: expected at least 1 image, columns >= 1, padding >= 0 and scale >= 1, "
            f"got {n} images, columns {columns}, padding {padding}, scale {factor}"
        )
    enlarged = images_uint8.cpu().repeat_interleave(factor, dim=2).repeat_interleave(factor, dim=3)
    cell_height, cell_width = height * factor + padding, width * factor + padding
    rows = math.ceil(n / columns)
    canvas = torch.zeros(rows * cell_height + padding, columns * cell_width + padding, 3, dtype=torch.uint8)
    for index, image in enumerate(enlarged):
        top = index // columns * cell_height + padding
        left = index % columns * cell_width + padding
        canvas[top : top + height * factor, left : left + width * factor] = image.permute(1, 2, 0)
    return Image.fromarray(canvas.numpy())


def encode_png(image: Image.Image) -> bytes:
    """Encode as PNG without timestamps or other metadata: equal images give equal bytes on one installation."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", compress_level=_COMPRESSION)
    return buffer.getvalue()


def encode_webp(image: Image.Image) -> bytes:
    """Encode as lossless WebP without metadata: equal images give equal bytes on one installation.

    Raises ConfigError if a side has more pixels than the format can hold.
    """
    if max(image.size) > WEBP_SIDE:
        raise ConfigError(f"webp: expected at most {WEBP_SIDE} pixels a side, got {image.width} x {image.height}")
    buffer = io.BytesIO()
    image.save(buffer, format="WEBP", lossless=True, quality=_WEBP_EFFORT, method=_WEBP_METHOD)
    return buffer.getvalue()
