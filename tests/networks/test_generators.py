"""Generators: parameter counts, layer by layer structure, output shape and range."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gan_mhe.errors import ConfigError
from gan_mhe.networks.generators import CnnGenerator, ResNetGenerator


def stream(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def parameter_count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_the_cnn_has_the_parameters_of_the_authors_code() -> None:
    assert parameter_count(CnnGenerator()) == 3_820_547


def test_the_resnet_has_the_parameters_of_table_4() -> None:
    dense, image = 128 * 4096 + 4096, 256 * 27 + 3
    block = 2 * (256 * 9 * 256 + 256) + (256 * 256 + 256) + 2 * (256 + 256)
    assert dense + 3 * block + 2 * 256 + image == 4_276_739
    assert parameter_count(ResNetGenerator()) == 4_276_739


def test_the_cnn_has_the_parameter_shapes_of_the_authors_code() -> None:
    shapes = [(name, tuple(value.shape)) for name, value in CnnGenerator().named_parameters()]
    assert shapes == [
        ("dense.weight", (8192, 128)),
        ("norm0.weight", (8192,)),
        ("norm0.bias", (8192,)),
        ("deconv1.weight", (512, 256, 4, 4)),
        ("deconv1.bias", (256,)),
        ("norm1.weight", (256,)),
        ("norm1.bias", (256,)),
        ("deconv2.weight", (256, 128, 4, 4)),
        ("deconv2.bias", (128,)),
        ("norm2.weight", (128,)),
        ("norm2.bias", (128,)),
        ("deconv3.weight", (128, 64, 4, 4)),
        ("deconv3.bias", (64,)),
        ("norm3.weight", (64,)),
        ("norm3.bias", (64,)),
        ("image.weight", (3, 64, 3, 3)),
        ("image.bias", (3,)),
    ]


@pytest.mark.parametrize("generator_class", [CnnGenerator, ResNetGenerator])
def test_batch_norm_uses_the_constants_of_the_authors_code(
    generator_class: type[CnnGenerator] | type[ResNetGenerator],
) -> None:
    norms = [m for m in generator_class(width=0.02).modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    assert len(norms) == (4 if generator_class is CnnGenerator else 7)
    assert {(norm.eps, norm.momentum, norm.affine) for norm in norms} == {(2e-5, 0.1, True)}


def cnn_step_by_step(state: dict[str, torch.Tensor], z: torch.Tensor) -> torch.Tensor:
    """The CNN in train mode from its state alone; a transposed convolution as dilation and flipped correlation."""

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        dims = [d for d in range(x.dim()) if d != 1]
        mean, variance = x.mean(dims, keepdim=True), x.var(dims, keepdim=True, correction=0)
        shape = [-1] + [1] * (x.dim() - 2)
        gamma, beta = state[f"{name}.weight"].view(shape), state[f"{name}.bias"].view(shape)
        return (x - mean) / (variance + 2e-5).sqrt() * gamma + beta

    def deconvolve(x: torch.Tensor, name: str) -> torch.Tensor:
        batch, channels, side, _ = x.shape
        dilated = x.new_zeros(batch, channels, 2 * side - 1, 2 * side - 1)
        dilated[:, :, ::2, ::2] = x
        weight = state[f"{name}.weight"].flip(2, 3).transpose(0, 1)
        return F.conv2d(F.pad(dilated, (2, 2, 2, 2)), weight, state[f"{name}.bias"])

    h = norm(z @ state["dense.weight"].T, "norm0").clamp(min=0)
    h = h.reshape(len(z), -1, 4, 4)
    for index in (1, 2, 3):
        h = norm(deconvolve(h, f"deconv{index}"), f"norm{index}").clamp(min=0)
    return torch.tanh(F.conv2d(h, state["image.weight"], state["image.bias"], padding=1))


def test_the_cnn_equals_its_layers_written_out() -> None:
    network = CnnGenerator(latent_dim=5, width=1 / 64).double()
    with torch.no_grad():
        for index, parameter in enumerate(network.parameters()):
            parameter.normal_(generator=stream(index))
    z = torch.randn(6, 5, generator=stream(100), dtype=torch.float64)
    expected = cnn_step_by_step(network.state_dict(), z)
    torch.testing.assert_close(network(z), expected, rtol=1e-9, atol=1e-9)


def test_the_resnet_equals_its_parts_in_the_order_of_table_4() -> None:
    network = ResNetGenerator(latent_dim=5, width=1 / 64).double()
    z = torch.randn(6, 5, generator=stream(101), dtype=torch.float64)
    h = network.get_submodule("dense")(z).reshape(6, 4, 4, 4)
    for name in ("block1", "block2", "block3", "norm"):
        h = network.get_submodule(name)(h)
    expected = torch.tanh(network.get_submodule("image")(h.clamp(min=0)))
    torch.testing.assert_close(network(z), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("generator_class", [CnnGenerator, ResNetGenerator])
@pytest.mark.parametrize(("image_size", "width"), [(32, 1 / 8), (32, 0.001), (48, 0.02), (64, 0.02)])
def test_images_have_the_asked_size_and_lie_between_minus_one_and_one(
    generator_class: type[CnnGenerator] | type[ResNetGenerator], image_size: int, width: float
) -> None:
    network = generator_class(image_size=image_size, latent_dim=16, width=width)
    network.initialize(stream(0))
    with torch.no_grad():
        images = network(10 * torch.randn(4, 16, generator=stream(1)))
    assert images.shape == (4, 3, image_size, image_size)
    assert images.dtype == torch.float32
    assert -1 <= images.min() < -1e-4 and 1e-4 < images.max() <= 1


@pytest.mark.parametrize("generator_class", [CnnGenerator, ResNetGenerator])
def test_the_number_of_image_channels_can_be_chosen(
    generator_class: type[CnnGenerator] | type[ResNetGenerator],
) -> None:
    assert generator_class(width=0.05, channels=1)(torch.zeros(2, 128)).shape == (2, 1, 32, 32)


@pytest.mark.parametrize("generator_class", [CnnGenerator, ResNetGenerator])
@pytest.mark.parametrize(
    ("field", "value"), [("image_size", 40), ("latent_dim", 0), ("width", 0.0), ("width", float("inf"))]
)
def test_a_size_out_of_range_is_refused(
    generator_class: type[CnnGenerator] | type[ResNetGenerator], field: str, value: float
) -> None:
    with pytest.raises(ConfigError, match=rf"{field}: expected .*, got {value}"):
        generator_class(**{field: value})  # type: ignore[arg-type]
