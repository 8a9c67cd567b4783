"""The machine's ceilings (arithmetic and copies), and the operations and bytes of a computation."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

import gan_mhe.sphere.gram  # noqa: F401  # registers the operation gan_mhe::gram, which is counted here
from gan_mhe.records.environment import describe_environment
from gan_mhe.tf32 import CUDA, float32_precision

_BF16_FLAGS = ("avx512_bf16", "amx_bf16", "bf16")  # as Linux names them on x86, and on Arm
_REPEATS = 5


def describe(device: torch.device) -> dict[str, Any]:
    """JSON values: a run's description of its machine, with the processor, the cores and the date."""
    return describe_environment(device) | {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu_model": _cpu_line("model name") or "unknown",
        "bf16_instructions": has_bf16_instructions(device),
    }


def has_bf16_instructions(device: torch.device) -> bool:
    """Whether products of bfloat16 numbers are instructions of the device; emulated, they are slower than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    flags = (_cpu_line("flags") or _cpu_line("Features")).split()
    return any(flag in flags for flag in _BF16_FLAGS)


def _cpu_line(key: str) -> str:
    """The first core's value in /proc/cpuinfo; empty where there is none."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(errors="replace").splitlines() if path.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.split(":")[0].strip() == key), "")


def synchronize(device: torch.device) -> None:
    """Wait until a GPU has finished its queued work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


# --- ceilings


def ceilings(device: torch.device) -> dict[str, float]:
    """The best of several square products by precision, in GFLOP/s (10⁹), and of large copies, in GB/s (10⁹).

    A product of two N x N matrices counts 2 N³ operations. A copy counts bytes read and bytes written, between buffers
    that were written before, so that no page fault is measured. Keys: float32, float64, bfloat16 if the device has
    instructions for it, tf32 on CUDA, copy.
    """
    # 2048: large enough for full speed on a CPU, in a fraction of a second. 8192: large enough to fill a large GPU.
    size = 8192 if device.type == "cuda" else 2048
    types = {"float32": torch.float32, "float64": torch.float64}
    if has_bf16_instructions(device):
        types["bfloat16"] = torch.bfloat16
    found = {name: _product_gflops(size, dtype, device) for name, dtype in types.items()}
    if device.type == "cuda":
        found["tf32"] = _product_gflops(size, torch.float32, device, tf32=True)
    return found | {"copy": _copy_gigabytes(device)}


def _product_gflops(size: int, dtype: torch.dtype, device: torch.device, *, tf32: bool = False) -> float:
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    product = torch.empty_like(left)
    with float32_precision("tf32" if tf32 else "ieee", CUDA):
        return 2 * size**3 / _best_seconds(lambda: torch.mm(left, right, out=product), device) / 1e9


def _copy_gigabytes(device: torch.device) -> float:
    count = 2**28 if device.type == "cuda" else 2**25  # float32: 1 GiB and 128 MiB, beyond every cache
    source, target = torch.ones(count, device=device), torch.zeros(count, device=device)
    return 2 * source.nbytes / _best_seconds(lambda: target.copy_(source), device) / 1e9


def _best_seconds(work: Callable[[], object], device: torch.device) -> float:
    work()
    taken = []
    for _ in range(_REPEATS):
        synchronize(device)
        began = time.perf_counter()
        work()
        synchronize(device)
        taken.append(time.perf_counter() - began)
    return min(taken)


# --- cost of a computation


@dataclass(frozen=True)
class Cost:
    """flops: operations of convolutions and products, multiplications and additions counted separately, zeros of the
    padding included. bytes: sizes of all tensors that operations read and write, the traffic without any cache."""

    flops: int
    bytes: int


def cost(work: Callable[[], object]) -> Cost:
    """Run `work` and sum the costs of its operations, backward passes included.

    Uses PyTorch's own formulas and two more: a matrix-vector product counts 2 N D, and gan_mhe::gram 2 N² D, the whole
    product, although on a CPU it computes one triangle. FlopCounterMode fails under autograd.grad, hence this class.
    """
    with _Counter() as counter:
        work()
    return Cost(counter.flops, counter.bytes)


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = 0
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        formula = _FORMULAS.get(func._overloadpacket)
        if formula:
            self.flops += formula(*args, **(kwargs or {}), out_val=result)
        self.bytes += _traffic(func, args, kwargs or {}, result)
        return result


def _matrix_vector(matrix: Tensor, vector: Tensor, **_: Any) -> int:
    return 2 * matrix.numel()


def _whole_gram(weight_ND: Tensor, **_: Any) -> int:
    return 2 * weight_ND.shape[-2] * weight_ND.numel()


_ATEN = torch.ops.aten
_FORMULAS: dict[Any, Callable[..., int]] = {
    **flop_registry,
    _ATEN.mv: _matrix_vector,
    torch.ops.gan_mhe.gram: _whole_gram,
}
_TOUCH_NOTHING = (_ATEN.empty, _ATEN.empty_like, _ATEN.empty_strided, _ATEN.new_empty, _ATEN.new_empty_strided)
_ONLY_WRITE = (_ATEN.copy_, _ATEN.fill_, _ATEN.zero_)


def _traffic(func: Any, args: Any, kwargs: Any, result: Any) -> int:
    """Bytes that one operation reads and writes; 0 for views and for uninitialized memory."""
    changed = _tensors(_changed_arguments(func, args, kwargs))
    read = _tensors((args, kwargs))
    made = _tensors(result)
    if func._overloadpacket in _TOUCH_NOTHING or (not changed and made and _addresses(made) <= _addresses(read)):
        return 0
    held = _addresses(changed)
    if func._overloadpacket in _ONLY_WRITE or "out" in kwargs:
        read = [tensor for tensor in read if tensor.data_ptr() not in {each.data_ptr() for each in changed}]
    written = [*changed, *(tensor for tensor in made if not _addresses([tensor]) <= held)]
    return sum(_size(tensor) for tensor in [*read, *written])


def _changed_arguments(func: Any, args: Any, kwargs: Any) -> list[Any]:
    """The arguments that the operation writes to, by its schema."""
    changed = []
    for index, argument in enumerate(func._schema.arguments):
        if argument.alias_info and argument.alias_info.is_write:
            changed.append(args[index] if index < len(args) else kwargs.get(argument.name))
    return changed


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _addresses(tensors: list[Tensor]) -> set[int]:
    return {tensor.untyped_storage().data_ptr() for tensor in tensors}


def _size(tensor: Tensor) -> int:
    # An expanded tensor has more elements than its memory holds.
    return min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())
