"""The phases of a step: their order, networks, images and penalty coefficients."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from gan_mhe.config.sections import Schedule
from gan_mhe.constraints import hyperspherical
from gan_mhe.constraints.diagnostics import layer_geometry
from gan_mhe.training.schedule import factor
from gan_mhe.training.trainer import Trainer
from tests.support.trained import SHALLOW, each_kind

State = dict[str, Tensor]


def parameters(network: nn.Module) -> State:
    return {name: parameter.detach().clone() for name, parameter in network.named_parameters()}


def same(first: State, second: State) -> bool:
    return all(torch.equal(value, second[name]) for name, value in first.items())


def watch_inputs(network: nn.Module) -> list[Tensor]:
    """The list that every input of the network will be added to."""
    seen: list[Tensor] = []
    network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach().clone()))
    return seen


def test_the_discriminators_update_leaves_the_generators_weights_alone(make_trainer: Callable[..., Trainer]) -> None:
    trainer = make_trainer()
    g, d = parameters(trainer.generator), parameters(trainer.discriminator)
    trainer._update_discriminator(0)
    assert same(g, parameters(trainer.generator))
    assert not same(d, parameters(trainer.discriminator))
    assert all(parameter.grad is None for parameter in trainer.generator.parameters())


def test_the_generators_update_leaves_the_discriminators_weights_alone(make_trainer: Callable[..., Trainer]) -> None:
    trainer = make_trainer()
    g, d = parameters(trainer.generator), parameters(trainer.discriminator)
    trainer._update_generator()
    assert same(d, parameters(trainer.discriminator))
    assert not same(g, parameters(trainer.generator))
    assert all(parameter.grad is None for parameter in trainer.discriminator.parameters())


def test_each_discriminator_update_sees_its_own_real_images_and_latents(
    make_trainer: Callable[..., Trainer], images: Tensor
) -> None:
    trainer = make_trainer(training={"n_dis": 3})
    discriminated, latents = watch_inputs(trainer.discriminator), watch_inputs(trainer.generator)
    trainer.step()
    assert [len(batch) for batch in discriminated] == [8, 8, 8, 4]  # real and generated at once, then the generator's
    real = torch.cat([batch[:4] for batch in discriminated[:3]])
    distances = torch.cdist(real.flatten(1), (images.float() / 127.5 - 1).flatten(1))
    shown = distances.argmin(dim=1)
    assert torch.equal(real, images[shown].float() / 127.5 - 1)
    assert len(set(shown.tolist())) == 12
    assert len(torch.cat(latents).unique(dim=0)) == 16


def test_latents_differ_between_steps_and_return_with_their_step(make_trainer: Callable[..., Trainer]) -> None:
    trainer = make_trainer()
    latents = watch_inputs(trainer.generator)
    for step in (0, 1, 0):
        trainer.set_step(step)
        trainer.step()
    assert not torch.equal(latents[0], latents[2])
    assert torch.equal(torch.cat(latents[:2]), torch.cat(latents[4:]))


@pytest.mark.parametrize(("variant", "passes"), [
    ("batch_norm", [4, 4, 4]), ("none", [8, 4]), ("layer_norm", [8, 4]), ("spectral_norm", [8, 4]),
])  # fmt: skip
def test_only_batch_statistics_keep_real_and_generated_images_apart(
    make_trainer: Callable[..., Trainer], variant: str, passes: list[int]
) -> None:
    trainer = make_trainer(variant)
    discriminated = watch_inputs(trainer.discriminator)
    trainer.step()
    assert [len(batch) for batch in discriminated] == passes


def test_batch_norm_sees_the_real_images_first_and_by_themselves(make_trainer: Callable[..., Trainer]) -> None:
    trainer = make_trainer("batch_norm")
    discriminated = watch_inputs(trainer.discriminator)
    trainer.step()
    assert torch.equal(discriminated[0], trainer.order.draw(0))


def test_a_penalty_is_computed_once_per_discriminator_update(
    make_trainer: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, energies = [], hyperspherical.hyperspherical_energies
    monkeypatch.setattr(
        hyperspherical,
        "hyperspherical_energies",
        lambda weights, **options: calls.append(len(weights)) or energies(weights, **options),
    )
    trainer = make_trainer("mhe_sn", training={"n_dis": 3})
    trainer.step()
    assert calls == [len(SHALLOW)] * 3  # convolutions, at each update


def coefficients(trainer: Trainer, steps: int) -> list[float]:
    """The coefficient of the raw MHE term at each step, 0 where it was not computed."""
    found = []
    for step in range(steps):
        trainer.set_step(step)
        trainer.step()
        report = trainer.meter.read()
        assert ("penalty/mhe" in report) == ("gradient_ratio/mhe/c1_0.conv" in report)
        found.append(report["penalty_weighted/mhe"] / report["penalty/mhe"] if "penalty/mhe" in report else 0.0)
    return found


def test_a_penalty_with_an_interval_is_multiplied_by_it_and_keeps_its_mean_coefficient(
    make_trainer: Callable[..., Trainer],
) -> None:
    every = coefficients(make_trainer("mhe_sn", constraints={"mhe": {"lambda_hidden": 2.5}}), 8)
    fourth = coefficients(make_trainer("mhe_sn", constraints={"mhe": {"lambda_hidden": 2.5, "interval": 4}}), 8)
    assert every == pytest.approx([2.5] * 8, rel=1e-6)
    assert fourth == pytest.approx([10.0, 0.0, 0.0, 0.0] * 2, rel=1e-6)


def test_the_coefficient_of_a_penalty_follows_its_schedule(make_trainer: Callable[..., Trainer]) -> None:
    schedule = {"kind": "cosine_decay", "warmup_steps": 3}
    sections = {"constraints": {"mhe": {"lambda_hidden": 2.0, "schedule": schedule}}, "training": {"steps": 8}}
    expected = [2.0 * factor(Schedule(**schedule), step, 8) for step in range(8)]
    assert coefficients(make_trainer("mhe", **sections), 8) == pytest.approx(expected, rel=1e-6)


def test_ratio_and_update_use_the_weighted_gradient(make_trainer: Callable[..., Trainer]) -> None:
    # Doubling lambda doubles every ratio at the first step, where both runs have the same weights.
    reports = []
    for strength in (1.0, 2.0):
        trainer = make_trainer("mhe", constraints={"mhe": {"lambda_hidden": strength}})
        trainer.step()
        reports.append(trainer.meter.read())
    ratios = [key for key in reports[0] if key.startswith("gradient_ratio/")]
    assert len(ratios) == 1 + len(SHALLOW)  # the whole, and the convolutions: MHE does not apply to the output
    for key in ratios:
        assert reports[1][key] == pytest.approx(2 * reports[0][key], rel=1e-5)
    assert reports[0]["gradient_ratio/mhe/c1_0.conv"] > 0


def test_lambda_zero_trains_exactly_as_no_constraint(
    make_trainer: Callable[..., Trainer], advance: Callable[..., Trainer]
) -> None:
    none = advance(make_trainer("none"), range(4))
    zero = advance(make_trainer("mhe", constraints={"mhe": {"lambda_hidden": 0.0}}), range(4))
    full = advance(make_trainer("mhe"), range(4))
    assert same(parameters(none.discriminator), parameters(zero.discriminator))
    assert same(parameters(none.generator), parameters(zero.generator))
    assert not same(parameters(none.discriminator), parameters(full.discriminator))


def test_clipping_holds_after_every_step_for_convolutions_only(make_trainer: Callable[..., Trainer]) -> None:
    trainer = make_trainer("weight_clipping", training={"n_dis": 2})
    for step in range(3):
        trainer.set_step(step)
        trainer.step()
        weights = {name: p.abs().max().item() for name, p in trainer.discriminator.named_parameters()}
        bound = torch.tensor(0.01).item()
        assert all(value == bound for name, value in weights.items() if name.endswith("conv.weight"))
        assert weights["dense.weight"] > 0.02


class NoWaitingOperation(TorchDispatchMode):
    """Refuses operations whose result, or its size, depends on values that the device has yet to compute."""

    REFUSED = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select", "_unique2", "unique_dim")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.name().removeprefix("aten::").split(".")[0] in self.REFUSED:
            raise AssertionError(f"{func.name()} waits for the device")
        return func(*args, **(kwargs or {}))


class NoReadingMethod(TorchFunctionMode):
    """Refuses the methods that hand a tensor's numbers to Python; some bypass the dispatcher on a CPU."""

    REFUSED = ("item", "tolist", "numpy", "cpu", "__bool__", "__int__", "__float__", "__index__", "__contains__")

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in self.REFUSED:
            raise AssertionError(f"{func.__name__} waits for the device")
        return func(*args, **(kwargs or {}))


@each_kind
def test_a_step_never_waits_for_a_value(make_trainer: Callable[..., Trainer], variant: str) -> None:
    # Unseen by this mode, the CPU kernel of fused Adam reads its learning rate and flag, which live in host
    # memory; on a GPU that kernel reads both from device memory.
    trainer = make_trainer(
        variant, data={"name": "synthetic", "flip": True}, generator={"ema_halflife_steps": 5.0}, training={"n_dis": 2}
    )
    for step in range(2):  # Adam's first step also makes its state
        trainer.set_step(step)
        with NoWaitingOperation(), NoReadingMethod():
            trainer.step()


class NoNewNumbers(TorchDispatchMode):
    """Refuses tensors made from Python numbers: on a GPU they are copied from the host, which a capture forbids."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.name().removeprefix("aten::").split(".")[0] in ("lift_fresh", "lift_fresh_copy", "lift"):
            raise AssertionError(f"{func.name()} brings numbers from the host")
        return func(*args, **(kwargs or {}))


@each_kind
def test_a_step_copies_no_numbers_from_the_host_after_the_first(
    make_trainer: Callable[..., Trainer], variant: str
) -> None:
    trainer = make_trainer(variant, generator={"ema_halflife_steps": 5.0})
    trainer.step()
    trainer.set_step(1)
    with NoNewNumbers():
        trainer.step()
        with pytest.raises(AssertionError, match="brings numbers"):
            torch.tensor([1.0])


@pytest.mark.parametrize("watch", [NoWaitingOperation, NoReadingMethod])
@pytest.mark.parametrize("read", [Tensor.item, bool, float, lambda value: value if value else None])
def test_the_test_modes_refuse_reading_a_value(
    watch: type[NoWaitingOperation | NoReadingMethod], read: Callable[[Tensor], object]
) -> None:
    with pytest.raises(AssertionError, match="waits"), watch():
        read(torch.ones(()))


def test_the_reports_of_a_trainer_wait(make_trainer: Callable[..., Trainer]) -> None:
    trainer = make_trainer()
    trainer.step()
    for read in (trainer.meter.read, trainer.nonfinite.read):
        with pytest.raises(AssertionError, match="waits"), NoReadingMethod():
            read()


@pytest.mark.parametrize("variant", ["mhe_sn", "batch_norm"])
def test_observing_does_not_disturb(
    make_trainer: Callable[..., Trainer],
    advance: Callable[..., Trainer],
    snapshot: Callable[[Trainer], State],
    assert_same: Callable[[State, State], None],
    variant: str,
) -> None:
    sections = {"generator": {"ema_halflife_steps": 5.0}}
    watched, alone = make_trainer(variant, **sections), advance(make_trainer(variant, **sections), range(4))
    for step in range(4):
        advance(watched, range(step, step + 1))
        layer_geometry(watched.discriminator)
        for ema in (False, True):
            watched.generate(torch.zeros(3, 6), ema=ema)
        watched.state()
        watched.nonfinite.read()
        if step < 3:
            watched.meter.read()
    alone.meter.read()
    watched.meter.read()
    assert_same(snapshot(watched), snapshot(alone))


def test_generated_images_are_a_function_of_the_latents_alone(make_trainer: Callable[..., Trainer]) -> None:
    trainer = make_trainer()
    trainer.step()
    latents = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
    together = trainer.generate(latents)
    one_by_one = torch.cat([trainer.generate(latent[None]) for latent in latents])
    torch.testing.assert_close(together, one_by_one, rtol=1e-5, atol=1e-6)
    assert together.dtype == torch.float32 and together.abs().max() <= 1
    assert trainer.generator.training
