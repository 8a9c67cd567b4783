"""PyTorch's precision of float32 products and convolutions, changed for a while and given back as it was found.

A setting such as `torch.backends.cuda.matmul.fp32_precision` has a value of its own or follows a more general one. What
it returns when read is the resolved value. If that were written back, the setting would stop following, and a later
`torch.backends.fp32_precision = "ieee"` of the caller would have no effect on it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch

_backends: Any = torch.backends  # these settings are missing from torch's annotations

CUDA = (_backends.cuda.matmul, _backends.cudnn.conv)
"""Products and convolutions on a GPU."""
CPU = (_backends.mkldnn.matmul, _backends.mkldnn.conv)
"""Products and convolutions on a CPU, which may use bfloat16."""

_FULL = ("none", "ieee")  # values that mean full precision


@contextmanager
def float32_precision(precision: Literal["ieee", "tf32"], settings: tuple[Any, ...]) -> Iterator[None]:
    """Compute float32 products and convolutions in `precision` in the body; settings: CUDA, CPU or both.

    Afterwards every setting has its value again, and follows the more general one again where that gives this value.
    The exception is PyTorch's initial setting of cuDNN's convolutions, tf32 until a more general one is set, which
    cannot be restored: it remains tf32.
    """
    before = [(each, each.fp32_precision) for each in settings]
    changed = [(each, value) for each, value in before if precision == "tf32" or value not in _FULL]
    try:
        for each, _ in changed:
            each.fp32_precision = precision
        yield
    finally:
        for each, value in changed:
            each.fp32_precision = "none"  # to follow
            if each.fp32_precision != value:
                each.fp32_precision = value
