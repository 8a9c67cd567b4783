"""Conversion between image bytes and floats in [-1, 1]."""

import torch
from torch import Tensor


def to_unit_range(images: Tensor) -> Tensor:
    """Convert uint8 images 0..255 of any shape to float32 in [-1, 1]: x / 127.5 - 1.

    `to_uint8` is the inverse: `to_uint8(to_unit_range(u)) == u` for all 256 values.
    """
    return images.to(torch.float32) / 127.5 - 1.0


def to_uint8(images: Tensor) -> Tensor:
    """Convert float images of any shape in [-1, 1] to uint8: floor(127.5 x + 128) clamped to 0..255.

    Every byte stands for an interval of equal width, centered on its `to_unit_range` value. Computed in float32 for
    every input precision. The result for NaN is undefined.
    """
    return torch.floor(images.to(torch.float32) * 127.5 + 128.0).clamp(0.0, 255.0).to(torch.uint8)
