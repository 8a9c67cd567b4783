"""Arithmetic of the networks, and the islands in it that stay in float32."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch

from gan_mhe.errors import DeviceError


def resolve_device(name: str) -> torch.device:
    """The device a configuration names; `auto` is the first CUDA device, else the CPU.

    Raises DeviceError when a CUDA device is named that is not there.
    """
    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda":
        found = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= found:
            raise DeviceError(
                f"training.device is {name!r}, but this machine has {found} CUDA devices; use cpu or auto"
            )
    return device


class Precision:
    """How the networks compute. Weights stay float32 (float64 for `float64`) in every case."""

    def __init__(self, name: str, device: torch.device) -> None:
        if name == "tf32" and device.type != "cuda":
            raise DeviceError(f"training.precision is 'tf32', which {device.type} devices do not have; use float32")
        self.dtype = torch.float64 if name == "float64" else torch.float32
        self._tf32 = name == "tf32"
        self._bf16 = name == "bf16"
        self._device = device

    @contextmanager
    def step(self) -> Iterator[None]:
        """The whole step: TensorFloat-32 on or off in products and convolutions, as configured."""
        with _tf32(self._tf32):
            yield

    @contextmanager
    def networks(self) -> Iterator[None]:
        """Forward passes: bfloat16 autocast where configured."""
        with torch.autocast(self._device.type, torch.bfloat16) if self._bf16 else nullcontext():
            yield

    @contextmanager
    def full_precision_in_step(self) -> Iterator[None]:
        """Penalties within `step`: full precision in the middle of the networks' own."""
        # Nothing is switched that `step` has off already: a compiler cannot follow these switches.
        with _tf32(False) if self._tf32 else nullcontext(), torch.autocast(self._device.type, enabled=False):
            yield

    @contextmanager
    def full_precision(self) -> Iterator[None]:
        """What is computed outside `step`, such as pictures: full precision whatever surrounds it."""
        with _tf32(False), torch.autocast(self._device.type, enabled=False):
            yield


@contextmanager
def _tf32(enabled: bool) -> Iterator[None]:
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn.conv  # type: ignore[attr-defined]
    before = products.fp32_precision, convolutions.fp32_precision
    products.fp32_precision = convolutions.fp32_precision = "tf32" if enabled else "ieee"
    try:
        yield
    finally:
        products.fp32_precision, convolutions.fp32_precision = before
