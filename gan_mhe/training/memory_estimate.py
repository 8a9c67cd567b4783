"""Estimate the device memory of a training step, and refuse runs that do not fit into free memory.

The estimate is a dry run of both updates on PyTorch's meta device, whose tensors have shapes but no data. It computes
no values, draws no random numbers and needs no memory. A ledger records the bytes of all tensors alive at one time.
"""

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gan_mhe.config.run_config import RunConfig
from gan_mhe.constraints.penalty import PenaltyInputs
from gan_mhe.errors import MemoryLimitError
from gan_mhe.training import host_memory
from gan_mhe.training.losses import LOSSES
from gan_mhe.training.networks import build_networks, real_and_fake_logits, takes_joint_batch

_META = torch.device("meta")

# On a CPU, the tensors of a step take 0.95 to 1.15 times the estimate, up to 1.6 times where kernels make copies, and
# 0.7 times with CoMHE. A process grows by 0.94 to 1.5 times an estimate above 256 MiB. A run is refused only if it does
# not fit at the lower limit; the batch size suggested instead fits at the upper limit.
_LEAST, _MOST = 0.9, 1.6
_PLACE_BYTES = 2 * 8  # an offset in a step, and an entry of the order of the images
_LARGEST_DRY_BATCH = 2**20  # larger batches are extrapolated, because numbers of elements would overflow

# A dry run takes about half a second of a CPU; runs of one process that differ in their seeds alone share it.
_estimates: dict[tuple[str, int], int] = {}


def check_fits(config: RunConfig, device: torch.device, *, data_bytes: int) -> None:
    """Raise MemoryLimitError unless a training step fits into the free memory of `device`.

    Call this when everything but the trainer is loaded. data_bytes: size of the images if they are still to be copied
    to the device. The memory for image grids and scores is not included. Nothing is refused on systems that do not
    report free memory.
    """
    free, batch_size = host_memory.free_bytes(device), config.training.batch_size
    if free is None:
        return
    need = step_bytes(config, batch_size) + data_bytes
    if need * _LEAST <= free:
        return
    start = f"training.batch_size = {batch_size} needs about {_text(need)}, but {_text(free)} are free on {device}"
    smallest = step_bytes(config, 2) + data_bytes
    if smallest * _MOST > free:
        raise MemoryLimitError(
            f"{start}; even 2 needs about {_text(smallest)}: reduce generator.width, now {config.generator.width:g}, "
            f"discriminator.width, now {config.discriminator.width:g}, or training.n_dis, now {config.training.n_dis}"
        )
    # The need is convex in the batch size: between two sizes it lies below the straight line.
    fits = 2 + int((free / _MOST - smallest) / (need - smallest) * (batch_size - 2))
    raise MemoryLimitError(f"{start}; {_rounded_down(fits):,} would fit")


def step_bytes(config: RunConfig, batch_size: int) -> int:
    """Peak bytes of the trainer's tensors in a generator step in which every penalty is due.

    The estimate includes the weights of both networks, Adam's moments, the moving average, the state of the penalties,
    the random numbers of a step, and the most that is alive during an update: activations, gradients and all
    intermediate results of the penalties.

    It does not include memory inside kernels, nor the further graphs that the `cuda_graph` engine records for steps in
    which other penalties are due. With bfloat16, all activations count as bfloat16. CoMHE counts as it runs on a GPU,
    with all projections at once; a CPU computes them in pieces.
    """
    key = config.digest("without_seed"), batch_size
    if key not in _estimates:
        _estimates[key] = _dry_run_bytes(config, batch_size)
    return _estimates[key]


def _dry_run_bytes(config: RunConfig, batch_size: int) -> int:
    dry_batch = min(batch_size, _LARGEST_DRY_BATCH)
    with _META:
        run = _DryRun(config)
        peak = max(_peak_bytes(update, dry_batch) for update in (run.update_discriminator, run.update_generator))
        return run.kept_bytes() + peak * batch_size // dry_batch + _drawn_bytes(config, batch_size)


def _drawn_bytes(config: RunConfig, batch_size: int) -> int:
    """Bytes of what is drawn before a step for all of its updates: latents, mixing weights, and places in the data."""
    number = 8 if config.training.precision == "float64" else 4
    images, latent_dim = config.training.n_dis * batch_size, config.generator.latent_dim
    return images * (latent_dim + 1) * number + batch_size * latent_dim * number + images * _PLACE_BYTES


def _peak_bytes(update: Callable[[int], None], batch_size: int) -> int:
    ledger = Ledger()
    with ledger:
        update(batch_size)
    return ledger.peak


class _DryRun:
    """Both updates of `Trainer` on the meta device, without what needs little memory: optimizers and metrics."""

    def __init__(self, config: RunConfig) -> None:
        self._config = config
        self._loss = LOSSES[config.loss]
        self._dtype = torch.float64 if config.training.precision == "float64" else torch.float32
        self._networks = build_networks(config, _META, self._dtype)
        self._joint = takes_joint_batch(self._networks.discriminator)

    def kept_bytes(self) -> int:
        """Bytes kept between steps: weights and two moments of each, the moving average, the state of penalties."""
        generator, discriminator = _bytes(self._networks.generator), _bytes(self._networks.discriminator)
        average = generator if self._config.generator.ema_halflife_steps else 0
        return 3 * (generator + discriminator) + average + _bytes(self._networks.penalty_modules)

    def update_discriminator(self, batch_size: int) -> None:
        network, side = self._networks.discriminator, self._config.data.image_size
        real = torch.empty(batch_size, 3, side, side, dtype=self._dtype)
        with torch.no_grad():
            fake = self._generate(batch_size).to(self._dtype)
        logits = real_and_fake_logits(self._discriminate, real, fake, joint=self._joint)
        gradients = _gradients(self._loss.discriminator(*logits), network)
        inputs = PenaltyInputs(network, real, fake, torch.empty(batch_size, 1, 1, 1, dtype=self._dtype))
        for penalty in self._networks.constraints.penalties:
            penalty_grad = _gradients(penalty.function(inputs), network)
            penalty_grad = {name: gradient * 1.0 for name, gradient in penalty_grad.items()}
            gradients |= {name: gradients[name] + gradient for name, gradient in penalty_grad.items()}

    def update_generator(self, batch_size: int) -> None:
        logits = self._discriminate(self._generate(batch_size))
        _gradients(self._loss.generator(logits), self._networks.generator)

    def _generate(self, batch_size: int) -> Tensor:
        latents = torch.empty(batch_size, self._config.generator.latent_dim, dtype=self._dtype)
        return self._forward(self._networks.generator, latents)

    def _discriminate(self, images: Tensor) -> Tensor:
        return self._forward(self._networks.discriminator, images)

    def _forward(self, network: nn.Module, inputs: Tensor) -> Tensor:
        if self._config.training.precision != "bf16":
            outputs: Tensor = network(inputs)
            return outputs
        # The meta device has no autocast. Like autocast, this makes a bfloat16 copy of every weight.
        narrow = {name: tensor.to(torch.bfloat16) for name, tensor in network.state_dict(keep_vars=True).items()}
        outputs = torch.func.functional_call(network, narrow, inputs.to(torch.bfloat16))
        return outputs


def _gradients(loss: Tensor, network: nn.Module) -> dict[str, Tensor]:
    names, parameters = zip(*network.named_parameters(), strict=True)
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    return {name: gradient for name, gradient in zip(names, gradients, strict=True) if gradient is not None}


def _bytes(module: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))


class Ledger(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records the bytes of the tensors that operations create while it is active, until they are freed.

    `peak` is the most bytes alive at one time. Memory that an operation uses internally is not counted.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._alive = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {id(tensor.untyped_storage()) for tensor in _tensors((args, kwargs))}
        result = func(*args, **(kwargs or {}))
        for tensor in _tensors(result):
            storage = tensor.untyped_storage()
            # Views share the storage of an argument. As long as it is alive, a storage is one Python object.
            if id(storage) not in given and id(storage) not in self._known:
                self._enter(storage)
        return result

    def _enter(self, storage: torch.UntypedStorage) -> None:
        self._known.add(id(storage))
        self._alive += storage.nbytes()
        self.peak = max(self.peak, self._alive)
        weakref.finalize(storage, self._leave, id(storage), storage.nbytes())

    def _leave(self, key: int, size: int) -> None:
        self._known.discard(key)
        self._alive -= size


def _tensors(values: object) -> list[Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, Tensor)]


def _rounded_down(number: int) -> int:
    """Round down to three binary digits."""
    below = max(number.bit_length() - 3, 0)
    return number >> below << below


def _text(size: float) -> str:
    return f"{size / 2**30:,.1f} GiB" if size >= 2**30 else f"{size / 2**20:,.0f} MiB"
