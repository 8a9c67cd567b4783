"""Arithmetic that no surrounding autocast may narrow."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def without_autocast(values: Tensor) -> AbstractContextManager[object]:
    """A context in which operations on the device of `values` keep the dtypes of their arguments.

    The meta device has no autocast: there the context does nothing.
    """
    kind = values.device.type
    return nullcontext() if kind == "meta" else torch.autocast(kind, enabled=False)
