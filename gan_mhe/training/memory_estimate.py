"""Memory of the training device: what a step will need, what is free, what was used.

The need is found by a dry run of both updates on the meta device, which has shapes and no numbers: nothing is computed
and no generator moves. A ledger of the tensors alive at the same time gives the most bytes that a step holds.
"""

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from gan_mhe.config.constraints import ConstraintsConfig
from gan_mhe.config.run_config import RunConfig
from gan_mhe.constraints.build import constrain
from gan_mhe.constraints.gradient import gradient_penalty
from gan_mhe.constraints.penalty import PenaltyInputs
from gan_mhe.constraints.select import hidden_weights
from gan_mhe.errors import MemoryLimitError
from gan_mhe.networks.build import build_discriminator, build_generator
from gan_mhe.training.host_memory import free_bytes
from gan_mhe.training.losses import LOSSES

# On a CPU, what tensors take is within 5% of the estimate, and up to 1.6 times it with a gradient penalty or float64,
# whose kernels make copies; a process grows by 0.94 to 1.45 times an estimate above 256 MiB. A run is refused where it
# would not fit even if it took the least of that; the batch size proposed instead fits if it takes the most.
_LEAST, _MOST = 0.9, 1.6
_LARGEST_DRY_BATCH = 2**20  # beyond it bytes are proportional to the batch, and numbers of elements soon overflow


def check_fits(config: RunConfig, device: torch.device, *, data_bytes: int) -> None:
    """MemoryLimitError unless training as `config` says fits into what is free on `device`.

    To be called when all but the trainer is there. data_bytes: of the data set, where it is still to be copied to the
    device. Only training steps count, not pictures and scores, whose batches are of other sizes. Where the system does
    not say what is free, nothing is refused.
    """
    free, size = free_bytes(device), config.training.batch_size
    if free is None or bound_bytes(config) + data_bytes < free / 2:
        return
    need = step_bytes(config, size) + data_bytes
    if need * _LEAST <= free:
        return
    start = f"training.batch_size = {size} needs about {_text(need)}, {_text(free)} are free on {device}"
    least = step_bytes(config, 2) + data_bytes
    if least * _MOST > free:
        raise MemoryLimitError(
            f"{start}; even 2 needs about {_text(least)}: make the networks narrower, "
            f"generator.width is {config.generator.width:g} and discriminator.width {config.discriminator.width:g}"
        )
    # The need is convex in the batch size: between two sizes it lies below the straight line.
    fits = 2 + int((free / _MOST - least) / (need - least) * (size - 2))
    raise MemoryLimitError(f"{start}; {_rounded_down(fits):,} would fit")


def bound_bytes(config: RunConfig) -> int:
    """More than `step_bytes`, without a dry run: most runs need a small part of what is free, and start at once.

    No pair of networks takes more than 16 KiB for each pixel of the batch at width 1, with a gradient penalty, nor
    1/2 GiB for its weights, those of the latents apart; both are doubled here, the former once more for SphereConv.
    Widths below 1/8 are counted as that, because channels are whole.
    """
    width = max(config.generator.width, config.discriminator.width, 1 / 8)
    pixels = config.data.image_size**2
    sphere = 2 if config.constraints.sphere_conv else 1  # elementwise maps beside those of the convolutions
    channels, fan_in = 512 * width, 4608 * width
    of_batch = 2**15 * width * pixels * config.training.batch_size
    of_latents = 2**8 * width * pixels * config.generator.latent_dim
    weights = 2**30 * width * max(width, 1 / 4)
    of_network = int(of_batch * sphere + of_latents + weights) * (2 if config.training.precision == "float64" else 1)
    return of_network + 2 * projection_bytes(config.constraints, [(channels, fan_in)] * 7)


def projection_bytes(config: ConstraintsConfig, layers: Iterable[tuple[float, float]]) -> int:
    """What CoMHE adds in a step to the gradients, by the neurons and the fan-in of each projected layer.

    Of every projection some 13 float64 matrices over pairs are alive at once, off the CPU those of all layers; the
    matrices themselves are kept, and widened.
    """
    if config.comhe is None:
        return 0
    trained = config.comhe.projection in ("angle_preserving", "adversarial")
    copies, rows = 1 if trained else config.comhe.count, config.comhe.dimension
    return int(sum(13 * 8 * copies * count**2 + 24 * copies * rows * fan_in for count, fan_in in layers))


def step_bytes(config: RunConfig, batch_size: int) -> int:
    """The most bytes that the trainer's tensors take at one time of a generator step.

    Weights, gradients and both moments of Adam of both networks, the moving average, and the most that is alive during
    an update: activations, the gradient penalty's second graph, and new gradients beside those of the step before.
    Penalties of the weights are not run, but taken to hold three times what these do, and what `projection_bytes` says.
    With bfloat16 the networks' passes are counted in it whole. What kernels take for themselves is not seen, and each
    further step that an engine keeps recorded, because other penalties are due in it, holds its activations once more.
    """
    made = min(batch_size, _LARGEST_DRY_BATCH)
    with torch.device("meta"):
        networks = _Networks(config)
        kept = networks.kept_bytes()
        most = max(_most_alive(networks.update_discriminator, made), _most_alive(networks.update_generator, made))
        most = max(most * batch_size // made, networks.weight_penalty_bytes())
        return kept + most


def _most_alive(update: Callable[[int], None], batch_size: int) -> int:
    ledger = _Ledger()
    with ledger:
        update(batch_size)
    return ledger.most


class _Networks:
    """Both networks and their updates as `Trainer` has them, less what takes no memory to speak of, without numbers."""

    def __init__(self, config: RunConfig) -> None:
        self._config = config
        self._loss = LOSSES[config.loss]
        self._side = config.data.image_size
        self._dtype = torch.float64 if config.training.precision == "float64" else torch.float32
        self._pass_dtype = torch.bfloat16 if config.training.precision == "bf16" else self._dtype
        unused = torch.Generator("cpu")
        maker, judge = config.generator, config.discriminator
        self._generator = build_generator(
            maker.architecture,
            image_size=self._side,
            latent_dim=maker.latent_dim,
            width=maker.width,
            generator=unused,
        )
        self._discriminator = build_discriminator(
            judge.architecture, image_size=self._side, width=judge.width, generator=unused
        )
        constrain(self._discriminator, _without_iterations(config.constraints), seed=0)
        self._joint_pass = not any(isinstance(module, nn.BatchNorm2d) for module in self._discriminator.modules())

    def kept_bytes(self) -> int:
        """What stays from step to step."""
        maker, judge = _weight_bytes(self._generator), _weight_bytes(self._discriminator)
        average = maker if self._config.generator.ema_halflife_steps else 0
        return 4 * (maker + judge) + average

    def weight_penalty_bytes(self) -> int:
        """Of penalties that have no batch: both kinds of gradients, and as much again for Gram matrices and angles."""
        active = self._config.constraints
        energies = (active.mhe, active.official_mhe, active.comhe, active.uniformity)
        if not (active.orthonormal or active.weight_decay or any(energies)):
            return 0
        layers = [
            (float(len(weight_ND)), float(weight_ND.shape[1])) for weight_ND in hidden_weights(self._discriminator)
        ]
        return 3 * _weight_bytes(self._discriminator) + projection_bytes(active, layers[1:])

    def update_discriminator(self, batch_size: int) -> None:
        real = torch.empty(batch_size, 3, self._side, self._side, dtype=self._dtype)
        with torch.no_grad():
            fake = self._generate(batch_size).to(self._dtype)
        held = _gradients(self._loss.discriminator(*self._judge(real, fake)), self._discriminator)
        if self._config.constraints.gradient_penalty:
            penalty = gradient_penalty(self._config.constraints.gradient_penalty)
            mix = torch.empty(batch_size, 1, 1, 1, dtype=self._dtype)
            inputs = PenaltyInputs(self._discriminator.to(self._dtype), real, fake, mix)
            held += _gradients(penalty.function(inputs), self._discriminator)

    def update_generator(self, batch_size: int) -> None:
        _gradients(self._loss.generator(self._discriminate(self._generate(batch_size))), self._generator)

    def _generate(self, batch_size: int) -> Tensor:
        latents = torch.empty(batch_size, self._config.generator.latent_dim, dtype=self._pass_dtype)
        images: Tensor = self._generator.to(self._pass_dtype)(latents)
        return images

    def _judge(self, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
        if self._joint_pass:
            real_logits, fake_logits = self._discriminate(torch.cat([real, fake])).chunk(2)
            return real_logits, fake_logits
        return self._discriminate(real), self._discriminate(fake)

    def _discriminate(self, images: Tensor) -> Tensor:
        logits: Tensor = self._discriminator.to(self._pass_dtype)(images.to(self._pass_dtype))
        return logits


def _without_iterations(config: ConstraintsConfig) -> ConstraintsConfig:
    """The same for memory, in a fraction of the time.

    Weight normalisation keeps one scaled copy of each weight as spectral normalisation does, without iterations.
    """
    normalization = "weight" if config.normalization == "spectral" else config.normalization
    return config.model_copy(update={"normalization": normalization, "orthonormal": None})


def _weight_bytes(network: nn.Module) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in network.parameters())


def _gradients(loss: Tensor, network: nn.Module) -> tuple[Tensor | None, ...]:
    return torch.autograd.grad(loss, tuple(network.parameters()), allow_unused=True)


class _Ledger(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The bytes of storages that operations made and that are still held; `most` is the most there were at one time."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.most = 0
        self._alive = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else (result,):
            if isinstance(value, Tensor):
                self._enter(value.untyped_storage())
        return result

    def _enter(self, storage: torch.UntypedStorage) -> None:
        if id(storage) in self._known:  # as long as it lives, a storage is one Python object
            return
        self._known.add(id(storage))
        self._alive += storage.nbytes()
        self.most = max(self.most, self._alive)
        weakref.finalize(storage, self._leave, id(storage), storage.nbytes())

    def _leave(self, key: int, size: int) -> None:
        self._known.discard(key)
        self._alive -= size


def _rounded_down(number: int) -> int:
    """To three binary digits."""
    below = max(number.bit_length() - 3, 0)
    return number >> below << below


def _text(size: float) -> str:
    """Bytes for people."""
    return f"{size / 2**30:,.1f} GiB" if size >= 2**30 else f"{size / 2**20:,.0f} MiB"
