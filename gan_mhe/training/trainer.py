"""One generator step: n_dis discriminator updates, one generator update, and the moving average.

`set_step` runs on the host and sets everything that depends on the step number, including the noise. `step` executes
`_compute` with an engine. `_compute` is pure computation on the device without files, clocks, generators or values read
back, and with fixed tensor addresses, so that it can be compiled or captured as a whole.

Shape letters: B batch size, Z latent dimension, K discriminator updates per step.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from gan_mhe.config.run_config import RunConfig
from gan_mhe.config.sections import OptimizerConfig
from gan_mhe.constraints.penalty import PenaltyInputs, PenaltyModule
from gan_mhe.constraints.select import original_weight, weight_layers
from gan_mhe.data.batches import BatchOrder
from gan_mhe.training import state as states
from gan_mhe.training.coefficients import AdaptiveCoefficients
from gan_mhe.training.ema import Ema
from gan_mhe.training.engine import Engine, choose_engine
from gan_mhe.training.losses import LOSSES
from gan_mhe.training.metering import Meter, NonFiniteFlag
from gan_mhe.training.networks import build_networks, real_and_fake_logits, takes_joint_batch
from gan_mhe.training.noise import Noise
from gan_mhe.training.precision import Precision
from gan_mhe.training.schedule import factor

Gradients = dict[str, Tensor]
Norms = dict[str, Tensor]


class Update(NamedTuple):
    """The computed part of an update: gradients by parameter, scalars to report, scalars that must be finite."""

    gradients: Gradients
    scalars: Mapping[str, Tensor]
    must_be_finite: Mapping[str, Tensor]


class Trainer:
    """Both networks, their optimizers and random numbers; deterministic in (config, images, step).

    images: uint8 (M, 3, H, H), copied to `device` and kept there. engine: replaces the configured one.
    """

    def __init__(
        self, config: RunConfig, images: Tensor, device: torch.device, *, engine: Engine | None = None
    ) -> None:
        self.config = config
        self.device = device
        self.precision = Precision(config.training.precision, device)
        self.generator, self.discriminator, self.constraints, self.penalties = build_networks(
            config, device, self.precision.dtype
        )
        halflife = config.generator.ema_halflife_steps
        self.ema = Ema(self.generator, halflife) if halflife else None
        self.loss = LOSSES[config.loss]
        self.order = BatchOrder(
            images.to(device),
            batch_size=config.training.batch_size,
            batches_per_step=config.training.n_dis,
            flip=config.data.flip,
            seed=config.seed,
        )
        self.noise = Noise(config, device, self.precision.dtype)
        self.meter = Meter(device)
        self.nonfinite = NonFiniteFlag(device)
        self.adam_generator = self._adam(self.generator, config.optimizer.generator_lr)
        self.adam_discriminator = self._adam(self.discriminator, config.optimizer.discriminator_lr)
        self.coefficients = AdaptiveCoefficients(self.constraints.penalties, config.training.steps, device)
        self._step_number = torch.zeros((), dtype=torch.int64, device=device)
        self._joint_pass = takes_joint_batch(self.discriminator)
        self._layer_weights = _names_of_layer_weights(self.discriminator)
        self.engine = engine or choose_engine(config.training.engine, config.training.precision, device)
        self._discriminator_update = self.engine.prepare(self._compute_discriminator_update)
        self._generator_update = self.engine.prepare(self._compute_generator_update)
        self.set_step(0)

    def _adam(self, network: nn.Module, lr: float) -> torch.optim.Adam:
        config: OptimizerConfig = self.config.optimizer
        adam = torch.optim.Adam(
            network.parameters(),
            lr=torch.tensor(lr, device=self.device),
            betas=(config.beta1, config.beta2),
            eps=config.epsilon,
            fused=True,
            capturable=self.device.type == "cuda",
        )
        # The fused kernel skips its update on the device while the flag is set, without a host synchronization.
        adam.grad_scale, adam.found_inf = None, self.nonfinite.flag  # type: ignore[attr-defined]
        return adam

    def set_step(self, step: int) -> None:
        """Set all that depends on the step: noise, batches, learning rates, penalty coefficients, due penalties."""
        total = self.config.training.steps
        self._due = [penalty for penalty in self.constraints.penalties if penalty.due(step)]
        self._step_number.fill_(step)
        self.noise.set_step(step)
        self.order.set_step(step)
        optimizer = self.config.optimizer
        lr_factor = factor(optimizer.schedule, step, total)
        self.adam_generator.param_groups[0]["lr"].fill_(optimizer.generator_lr * lr_factor)
        self.adam_discriminator.param_groups[0]["lr"].fill_(optimizer.discriminator_lr * lr_factor)
        self.coefficients.set_step(step, self._due)
        for penalty in self._due:
            if isinstance(penalty.function, PenaltyModule):
                penalty.function.set_step(step)

    def step(self) -> None:
        """Execute the step chosen by `set_step`; add its scalars to `meter` and check them with `nonfinite`."""
        with self.precision.step():
            self.engine.run(self._compute, tuple(penalty.name for penalty in self._due))

    def _compute(self) -> None:
        for index in range(self.config.training.n_dis):
            self._update_discriminator(index)
        self._update_generator()
        if self.ema:
            self.ema.update(self.generator, apply=1 - self.nonfinite.flag)

    def _update_discriminator(self, index: int) -> None:
        real = self.order.draw(index).to(self.precision.dtype, memory_format=torch.channels_last)
        update = self._discriminator_update(real, self.noise.discriminator_KBZ[index], self.noise.mix_KB111[index])
        self._apply(self.adam_discriminator, self.discriminator, update)
        for project in self.constraints.after_update:
            project(self.discriminator)

    def _update_generator(self) -> None:
        self._apply(self.adam_generator, self.generator, self._generator_update(self.noise.generator_BZ))

    def _compute_discriminator_update(self, real: Tensor, latents_BZ: Tensor, mix_B111: Tensor) -> Update:
        with torch.no_grad():
            fake = self._fake_images(latents_BZ).to(self.precision.dtype)
        real_logits, fake_logits = real_and_fake_logits(self._discriminate, real, fake, joint=self._joint_pass)
        loss = self.loss.discriminator(real_logits, fake_logits)
        gradients = _gradients(loss, self.discriminator)
        norms = _norms(gradients)
        must_be_finite = {"d_loss": loss.detach(), "d_gradient": _total(norms)}
        scalars = must_be_finite | {"d_real": real_logits.detach().mean(), "d_fake": fake_logits.detach().mean()}

        inputs = PenaltyInputs(self.discriminator, real, fake, mix_B111)
        for penalty in self._due:
            with self.precision.full_precision_in_step():
                raw = penalty.function(inputs)
                penalty_grad = _gradients(raw, self.discriminator)
            raw, penalty_norms = raw.detach(), _norms(penalty_grad)
            coefficient = self.coefficients.update(penalty.name, _total(penalty_norms), must_be_finite["d_gradient"])
            penalty_grad, penalty_norms = _scaled(penalty_grad, coefficient), _scaled(penalty_norms, coefficient)
            gradients = _sum(gradients, penalty_grad)
            scalars |= {
                f"penalty/{penalty.name}": raw,
                f"penalty_weighted/{penalty.name}": coefficient * raw,
                f"strength/{penalty.name}": coefficient,
            }
            scalars |= self._ratios(f"gradient_ratio/{penalty.name}", penalty_norms, norms)
            must_be_finite |= {
                f"penalty/{penalty.name}": raw,
                f"penalty_gradient/{penalty.name}": _total(penalty_norms),
            }
        return Update(gradients, scalars, must_be_finite)

    def _compute_generator_update(self, latents_BZ: Tensor) -> Update:
        loss = self.loss.generator(self._discriminate(self._fake_images(latents_BZ)))
        gradients = _gradients(loss, self.generator)
        scalars = {"g_loss": loss.detach(), "g_gradient": _total(_norms(gradients))}
        return Update(gradients, scalars, scalars)

    def _apply(self, adam: torch.optim.Adam, network: nn.Module, update: Update) -> None:
        self.meter.add(update.scalars)
        self.nonfinite.watch(update.must_be_finite, self._step_number)
        for name, parameter in network.named_parameters():
            parameter.grad = states.match_strides(parameter, update.gradients[name])
        adam.step()
        adam.zero_grad()  # parameters that keep a gradient would make torch.compile recompile at the next step

    def _ratios(self, name: str, penalty_grad: Norms, loss_grad: Norms) -> dict[str, Tensor]:
        """||lambda grad penalty|| / ||grad loss|| of all parameters, and of each layer weight the penalty affects."""
        layers = {layer: weight for layer, weight in self._layer_weights.items() if weight in penalty_grad}
        penalty_grads = torch.stack([_total(penalty_grad), *(penalty_grad[weight] for weight in layers.values())])
        loss_grads = torch.stack([_total(loss_grad), *(loss_grad[weight] for weight in layers.values())])
        names = [name, *(f"{name}/{layer}" for layer in layers)]
        return dict(zip(names, (penalty_grads / loss_grads).unbind(), strict=True))

    def _fake_images(self, latents_BZ: Tensor) -> Tensor:
        with self.precision.networks():
            images: Tensor = self.generator(latents_BZ)
        return images

    def _discriminate(self, images: Tensor) -> Tensor:
        with self.precision.networks():
            logits: Tensor = self.discriminator(images)
        return logits

    @torch.no_grad()
    def generate(self, latents_BZ: Tensor, *, ema: bool = False) -> Tensor:
        """Images float32 (B, 3, H, H) in [-1, 1] from the generator in evaluation mode and full precision.

        ema: use the moving average, where there is one. The mode of the generator is restored.
        """
        network = self.ema.network if ema and self.ema else self.generator
        was_training = network.training
        network.eval()
        try:
            with self.precision.full_precision():
                images: Tensor = network(latents_BZ.to(self.device, self.precision.dtype))
        finally:
            network.train(was_training)
        return images.float()

    def state(self) -> dict[str, Tensor]:
        """All tensors that steps change, by name: networks, optimizers, penalties, coefficients and meter."""
        return {
            **states.prefixed(self.generator.state_dict(), "generator"),
            **states.prefixed(self.discriminator.state_dict(), "discriminator"),
            **(states.prefixed(self.ema.network.state_dict(), "ema") if self.ema else {}),
            **states.prefixed(states.optimizer_state(self.adam_generator, self.generator), "adam_generator"),
            **states.prefixed(
                states.optimizer_state(self.adam_discriminator, self.discriminator), "adam_discriminator"
            ),
            **states.prefixed(self.penalties.state_dict(), "penalties"),
            **states.prefixed(self.coefficients.state(), "strength"),
            **states.prefixed(self.meter.state(), "meter"),
        }

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Inverse of `state`. Raises CheckpointError if a tensor is missing, unknown or of another shape."""
        sections = {
            *("generator", "discriminator", "adam_generator", "adam_discriminator"),
            *("penalties", "strength", "meter"),
        }
        states.check_sections(state, sections | ({"ema"} if self.ema else set()))
        states.load_module(self.generator, state, "generator")
        states.load_module(self.discriminator, state, "discriminator")
        if self.ema:
            states.load_module(self.ema.network, state, "ema")
        states.load_optimizer(self.adam_generator, self.generator, state, "adam_generator")
        states.load_optimizer(self.adam_discriminator, self.discriminator, state, "adam_discriminator")
        states.load_module(self.penalties, state, "penalties")
        self.coefficients.load_state(states.section(state, "strength"))
        self.meter.load_state(states.section(state, "meter"))
        self.engine.reset()  # Adam's moments have new addresses


def _names_of_layer_weights(network: nn.Module) -> dict[str, str]:
    """Layer name -> parameter name of its original weight."""
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    return {layer: names[id(original_weight(module))] for layer, module in weight_layers(network)}


def _gradients(loss: Tensor, network: nn.Module) -> Gradients:
    """d loss / d parameter by name, for the parameters of `network` only."""
    names, parameters = zip(*network.named_parameters(), strict=True)
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    return {name: gradient for name, gradient in zip(names, gradients, strict=True) if gradient is not None}


def _scaled(by_name: dict[str, Tensor], coefficient: Tensor) -> dict[str, Tensor]:
    return dict(zip(by_name, torch._foreach_mul(list(by_name.values()), coefficient), strict=True))


def _norms(gradients: Gradients) -> Norms:
    return dict(zip(gradients, torch._foreach_norm(list(gradients.values())), strict=True))


def _total(norms: Norms) -> Tensor:
    total: Tensor = torch.linalg.vector_norm(torch.stack(list(norms.values())))
    return total


def _sum(gradients: Gradients, penalty_grad: Gradients) -> Gradients:
    added = torch._foreach_add([gradients[name] for name in penalty_grad], list(penalty_grad.values()))
    return gradients | dict(zip(penalty_grad, added, strict=True))
