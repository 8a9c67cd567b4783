"""The one conversion between bytes and [-1, 1]."""

import torch
from torch import Tensor


def to_unit_range(images: Tensor) -> Tensor:
    """x / 127.5 - 1: uint8 images 0..255 of any shape become float32 in [-1, 1].

    `to_uint8` is its inverse: `to_uint8(to_unit_range(u)) == u` for all 256 values.
    """
    return images.to(torch.float32) / 127.5 - 1.0


def to_uint8(images: Tensor) -> Tensor:
    """floor(127.5 x + 128) clamped to 0..255: float images of any shape in [-1, 1] become uint8.

    Every byte owns an interval of equal width, centred on its `to_unit_range` value. Computed in float32
    whatever the input's precision. A NaN has no byte: what it becomes is not defined.
    """
    return torch.floor(images.to(torch.float32) * 127.5 + 128.0).clamp(0.0, 255.0).to(torch.uint8)
