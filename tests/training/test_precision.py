"""Missing devices, and what stays in full precision under bfloat16."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from gan_mhe.constraints.select import weight_layers
from gan_mhe.errors import DeviceError
from gan_mhe.training.precision import Precision, resolve_device
from gan_mhe.training.trainer import Trainer

CPU = torch.device("cpu")
FULL = {"none", "ieee"}  # values of PyTorch's settings that mean full precision


def pretend(monkeypatch: pytest.MonkeyPatch, devices: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: devices > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: devices)


@pytest.mark.parametrize(("name", "devices"), [("cuda", 0), ("cuda:0", 0), ("cuda:1", 1), ("cuda:7", 4)])
def test_a_missing_cuda_device_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, name: str, devices: int) -> None:
    pretend(monkeypatch, devices)
    with pytest.raises(DeviceError, match=rf"got '{name}'; it has {devices}$"):
        resolve_device(name)


@pytest.mark.parametrize(("name", "devices", "expected"), [
    ("auto", 0, "cpu"), ("auto", 2, "cuda:0"), ("cpu", 2, "cpu"), ("cuda:1", 2, "cuda:1"), ("cuda", 1, "cuda"),
])  # fmt: skip
def test_a_present_device_is_taken(monkeypatch: pytest.MonkeyPatch, name: str, devices: int, expected: str) -> None:
    pretend(monkeypatch, devices)
    assert resolve_device(name) == torch.device(expected)


def test_tf32_is_refused_on_a_cpu() -> None:
    with pytest.raises(DeviceError, match=r"tf32 needs a CUDA device, got cpu"):
        Precision("tf32", CPU)


@pytest.mark.parametrize(("name", "inside"), [("tf32", {"tf32"}), ("float32", FULL), ("bf16", FULL)])
def test_tf32_is_on_if_configured_off_in_full_precision_and_restored(name: str, inside: set[str]) -> None:
    def settings() -> tuple[str, str]:
        return torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.conv.fp32_precision

    before, precision = settings(), Precision(name, torch.device("cuda"))
    with pytest.raises(KeyError), precision.step():
        assert set(settings()) <= inside
        with precision.full_precision_in_step():
            assert set(settings()) <= FULL
        assert set(settings()) <= inside
        raise KeyError
    assert settings() == before


def test_autocast_applies_to_the_networks_and_not_in_full_precision() -> None:
    precision, x = Precision("bf16", CPU), torch.rand(4, 4)
    with precision.networks():
        assert (x @ x).dtype == torch.bfloat16
        with precision.full_precision_in_step():
            assert torch.equal(x @ x, torch.linalg.matmul(x, x)) and (x @ x).dtype == torch.float32


@pytest.mark.parametrize(("name", "dtype"), [
    ("float32", torch.float32), ("bf16", torch.float32), ("float64", torch.float64),
])  # fmt: skip
def test_weights_and_moments_have_the_dtype_of_the_precision(
    make_trainer: Callable[..., Trainer], advance: Callable[..., Trainer], name: str, dtype: torch.dtype
) -> None:
    trainer = advance(make_trainer("mhe_sn", training={"precision": name}), range(2))
    state = trainer.state()
    kept = [key for key in state if not key.endswith(("/step", "num_batches_tracked")) and not key.startswith("meter")]
    assert {state[key].dtype for key in kept} == {dtype}
    assert all(torch.isfinite(value).all() for value in state.values())
    assert trainer.nonfinite.read() is None


def first_report(trainer: Trainer) -> dict[str, float]:
    trainer.step()
    return trainer.meter.read()


@pytest.mark.parametrize(("variant", "term"), [("mhe_sn", "mhe"), ("orthonormal", "orthonormal"),
                                               ("mhe_sn_official", "official_mhe")])  # fmt: skip
def test_penalties_under_bfloat16_are_those_of_float32_to_the_last_bit(
    make_trainer: Callable[..., Trainer], variant: str, term: str
) -> None:
    half = first_report(make_trainer(variant, training={"precision": "bf16"}))
    full_precision = first_report(make_trainer(variant))
    assert half[f"penalty/{term}"] == full_precision[f"penalty/{term}"]
    assert half["d_real"] != full_precision["d_real"]  # while the networks did compute in bfloat16
    assert half["d_loss"] == pytest.approx(full_precision["d_loss"], rel=0.02)


def used_sigmas_and_vectors(trainer: Trainer, images: Tensor) -> tuple[list[float], list[Tensor]]:
    """What one forward pass divides the weights by, and the singular vectors it leaves."""
    sigmas = []
    with trainer.precision.networks():
        trainer.discriminator(images)
        trainer.discriminator.eval()
        for _, layer in weight_layers(trainer.discriminator):
            assert layer.weight.dtype == torch.float32
            sigmas.append((layer.parametrizations.weight.original.norm() / layer.weight.norm()).item())
    return sigmas, list(trainer.discriminator.buffers())


def test_power_iterations_under_bfloat16_are_those_of_float32(
    make_trainer: Callable[..., Trainer], images: Tensor
) -> None:
    x = images[:4].float() / 127.5 - 1
    half = used_sigmas_and_vectors(make_trainer("spectral_norm", training={"precision": "bf16"}), x)
    full_precision = used_sigmas_and_vectors(make_trainer("spectral_norm"), x)
    assert half[0] == full_precision[0]
    assert all(vector.dtype == torch.float32 for vector in half[1])
    assert all(torch.equal(a, b) for a, b in zip(half[1], full_precision[1], strict=True))


@pytest.mark.parametrize("variant", ["spectral_norm", "weight_norm"])
def test_normalized_weights_are_computed_once_per_forward_pass(
    make_trainer: Callable[..., Trainer], variant: str
) -> None:
    trainer = make_trainer(variant, training={"precision": "bf16"})
    layers = [layer for _, layer in weight_layers(trainer.discriminator)]
    seen = []
    for layer in layers:
        layer.parametrizations.weight[0].register_forward_hook(lambda _, inputs, weight: seen.append(weight.dtype))
    trainer.step()
    passes = 2  # one of the discriminator's update, one of the generator's
    assert seen == [torch.float32] * passes * len(layers)
