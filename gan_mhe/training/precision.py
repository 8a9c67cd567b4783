"""Numerical precision of the networks, and full precision for penalties and for what is computed outside a step."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch

from gan_mhe.errors import DeviceError
from gan_mhe.tf32 import CUDA, float32_precision


def resolve_device(name: str) -> torch.device:
    """The device that a configuration names; `auto` is the first CUDA device if there is one, else the CPU.

    Raises DeviceError if the named CUDA device does not exist.
    """
    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda":
        found = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= found:
            raise DeviceError(
                f"training.device: expected cpu, auto or a CUDA device of this machine, got {name!r}; it has {found}"
            )
    return device


class Precision:
    """Contexts for the configured precision. Weights are float64 with `float64` and float32 in all other cases."""

    def __init__(self, name: str, device: torch.device) -> None:
        if name == "tf32" and device.type != "cuda":
            raise DeviceError(f"training.precision: tf32 needs a CUDA device, got {device.type}; use float32")
        self.dtype = torch.float64 if name == "float64" else torch.float32
        self._tf32 = name == "tf32"
        self._bf16 = name == "bf16"
        self._device = device

    @contextmanager
    def step(self) -> Iterator[None]:
        """Context of a whole step: TensorFloat-32 in matrix products and convolutions if configured, else off."""
        with float32_precision("tf32" if self._tf32 else "ieee", CUDA):
            yield

    @contextmanager
    def networks(self) -> Iterator[None]:
        """Context of the forward passes: bfloat16 autocast if configured."""
        with torch.autocast(self._device.type, torch.bfloat16) if self._bf16 else nullcontext():
            yield

    @contextmanager
    def full_precision_in_step(self) -> Iterator[None]:
        """Full precision inside `step`, for penalties."""
        # Only disables tf32 where `step` enabled it: torch.compile cannot trace this switch.
        tf32_off = float32_precision("ieee", CUDA) if self._tf32 else nullcontext()
        with tf32_off, torch.autocast(self._device.type, enabled=False):
            yield

    @contextmanager
    def full_precision(self) -> Iterator[None]:
        """Full precision outside `step`, for generated images, independent of ambient settings."""
        with float32_precision("ieee", CUDA), torch.autocast(self._device.type, enabled=False):
            yield
