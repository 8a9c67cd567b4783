"""Discriminators: the published tables row by row, parameter counts, slots, logits."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gan_mhe.errors import ConfigError
from gan_mhe.networks.discriminators import MiyatoDiscriminator, OfficialDiscriminator, ResNetDiscriminator
from gan_mhe.networks.layers import NormSlot

Discriminator = type[MiyatoDiscriminator] | type[OfficialDiscriminator] | type[ResNetDiscriminator]
ALL: list[Discriminator] = [MiyatoDiscriminator, OfficialDiscriminator, ResNetDiscriminator]
CNNS: list[type[MiyatoDiscriminator] | type[OfficialDiscriminator]] = [MiyatoDiscriminator, OfficialDiscriminator]


def stream(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.rand(*shape, generator=stream(0), dtype=dtype) * 2 - 1


def parameter_count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


# name, kernel side, stride, input channels, output channels, fan-in n, neurons N
OFFICIAL_ROWS = [
    ("c0_0", 3, 1, 3, 64, 27, 64),
    ("c0_1", 4, 2, 64, 128, 1024, 128),
    ("c1_0", 3, 1, 128, 128, 1152, 128),
    ("c1_1", 4, 2, 128, 256, 2048, 256),
    ("c2_0", 3, 1, 256, 256, 2304, 256),
    ("c2_1", 4, 2, 256, 512, 4096, 512),
    ("c3_0", 3, 1, 512, 512, 4608, 512),
]
MIYATO_ROWS = [
    ("c0_0", 3, 1, 3, 64, 27, 64),
    ("c0_1", 4, 2, 64, 64, 1024, 64),
    ("c1_0", 3, 1, 64, 128, 576, 128),
    ("c1_1", 4, 2, 128, 128, 2048, 128),
    ("c2_0", 3, 1, 128, 256, 1152, 256),
    ("c2_1", 4, 2, 256, 256, 4096, 256),
    ("c3_0", 3, 1, 256, 512, 2304, 512),
]


@pytest.mark.parametrize(
    ("discriminator_class", "rows"), [(OfficialDiscriminator, OFFICIAL_ROWS), (MiyatoDiscriminator, MIYATO_ROWS)]
)
def test_the_convolutions_are_the_rows_of_the_published_table(
    discriminator_class: Discriminator, rows: list[tuple[str, int, int, int, int, int, int]]
) -> None:
    measured = []
    for name, layer in discriminator_class().named_modules():
        if isinstance(layer, nn.Conv2d):
            weight_ND = layer.weight.flatten(1)
            kernel, stride = layer.kernel_size[0], layer.stride[0]
            shape = (layer.in_channels, layer.out_channels, weight_ND.shape[1], weight_ND.shape[0])
            measured.append((name.removesuffix(".conv"), kernel, stride, *shape))
            assert layer.bias is not None
    assert measured == rows


@pytest.mark.parametrize(
    ("discriminator_class", "dense_bias"), [(OfficialDiscriminator, False), (MiyatoDiscriminator, True)]
)
def test_the_dense_layer_sees_all_8192_features(discriminator_class: Discriminator, dense_bias: bool) -> None:
    dense = discriminator_class().dense
    assert isinstance(dense, nn.Linear)
    assert dense.weight.shape == (1, 8192)
    assert (dense.bias is not None) == dense_bias


def test_the_official_discriminator_has_5860864_parameters() -> None:
    assert parameter_count(OfficialDiscriminator()) == 5_860_864


def test_the_discriminator_of_table_3_has_2_94_million_parameters() -> None:
    convolutions = sum((fan_in + 1) * neurons for *_, fan_in, neurons in MIYATO_ROWS)
    assert convolutions + 8192 + 1 == 2_935_873
    assert parameter_count(MiyatoDiscriminator()) == 2_935_873


def test_the_residual_discriminator_has_the_parameters_of_table_4() -> None:
    wide = 128 * 9 * 128 + 128
    first = (3 * 9 * 128 + 128) + wide + (3 * 128 + 128)
    second = 2 * wide + (128 * 128 + 128)
    assert first + second + 2 * (2 * wide) + 128 == 1_053_824
    assert parameter_count(ResNetDiscriminator()) == 1_053_824


@pytest.mark.parametrize("discriminator_class", ALL)
@pytest.mark.parametrize(("image_size", "width"), [(32, 1 / 8), (32, 0.001), (48, 0.02), (64, 0.02)])
def test_a_batch_of_images_gives_one_finite_logit_each(
    discriminator_class: Discriminator, image_size: int, width: float
) -> None:
    network = discriminator_class(image_size=image_size, width=width)
    network.initialize(stream(1))
    logits = network(images(3, 3, image_size, image_size))
    assert logits.shape == (3,)
    assert logits.dtype == torch.float32
    assert logits.isfinite().all()


@pytest.mark.parametrize("discriminator_class", ALL)
def test_a_single_image_gives_a_batch_of_one_logit(discriminator_class: Discriminator) -> None:
    assert discriminator_class(width=0.02)(images(1, 3, 32, 32)).shape == (1,)


@pytest.mark.parametrize("discriminator_class", ALL)
def test_the_number_of_image_channels_can_be_chosen(discriminator_class: Discriminator) -> None:
    assert discriminator_class(width=0.02, channels=1)(images(2, 1, 32, 32)).shape == (2,)


@pytest.mark.parametrize("discriminator_class", ALL)
def test_a_logit_depends_on_its_own_image_alone(discriminator_class: Discriminator) -> None:
    network = discriminator_class(width=0.02).double()
    batch = images(4, 3, 32, 32, dtype=torch.float64)
    alone = torch.cat([network(image[None]) for image in batch])
    torch.testing.assert_close(network(batch), alone, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("discriminator_class", CNNS)
def test_a_cnn_is_its_convolutions_leaky_relus_and_dense_layer(
    discriminator_class: type[MiyatoDiscriminator] | type[OfficialDiscriminator],
) -> None:
    network = discriminator_class(width=1 / 16).double()
    network.initialize(stream(2))
    state = network.state_dict()
    h = batch = images(2, 3, 32, 32, dtype=torch.float64)
    for name, _, stride, *_ in OFFICIAL_ROWS:
        h = F.conv2d(h, state[f"{name}.conv.weight"], state[f"{name}.conv.bias"], stride, padding=1)
        h = torch.maximum(h, 0.1 * h)
    expected = (h.flatten(1) * state["dense.weight"]).sum(1) + state.get("dense.bias", 0)
    torch.testing.assert_close(network(batch), expected, rtol=1e-10, atol=0)


def test_the_residual_discriminator_sums_over_all_pixels() -> None:
    network = ResNetDiscriminator(width=1 / 16).double()
    batch = images(2, 3, 32, 32, dtype=torch.float64)
    h = batch
    for name in ("block1", "block2", "block3", "block4"):
        h = network.get_submodule(name)(h)
    assert h.shape == (2, 8, 8, 8)
    weight_C = network.dense.weight[0]
    expected = torch.einsum("bchw,c->b", h.clamp(min=0), weight_C)
    torch.testing.assert_close(network(batch), expected, rtol=1e-10, atol=1e-12)


def slots(network: nn.Module) -> list[tuple[str, int, bool]]:
    return [(name, m.channels, m.first) for name, m in network.named_modules() if isinstance(m, NormSlot)]


@pytest.mark.parametrize(
    ("discriminator_class", "rows"), [(OfficialDiscriminator, OFFICIAL_ROWS), (MiyatoDiscriminator, MIYATO_ROWS)]
)
def test_every_convolution_of_a_cnn_is_followed_by_a_slot(
    discriminator_class: Discriminator, rows: list[tuple[str, int, int, int, int, int, int]]
) -> None:
    expected = [(f"{name}.norm", out, name == "c0_0") for name, _, _, _, out, _, _ in rows]
    assert slots(discriminator_class()) == expected


def test_every_activation_of_the_residual_discriminator_follows_a_slot() -> None:
    assert slots(ResNetDiscriminator(width=0.5)) == [
        ("block1.norm2", 64, True),
        ("block2.norm1", 64, False),
        ("block2.norm2", 64, False),
        ("block3.norm1", 64, False),
        ("block3.norm2", 64, False),
        ("block4.norm1", 64, False),
        ("block4.norm2", 64, False),
        ("norm", 64, False),
    ]


@pytest.mark.parametrize("discriminator_class", ALL)
def test_what_passes_through_a_slot_has_the_channels_it_names(discriminator_class: Discriminator) -> None:
    network = discriminator_class(width=0.02)
    seen: dict[str, tuple[int, int]] = {}
    for name, module in network.named_modules():
        if isinstance(module, NormSlot):

            def record(slot: nn.Module, inputs: tuple[torch.Tensor], _: object, name: str = name) -> None:
                assert isinstance(slot, NormSlot)
                seen[name] = (slot.channels, inputs[0].shape[1])

            module.register_forward_hook(record)
    network(images(1, 3, 32, 32))
    assert set(seen) == {name for name, _, _ in slots(network)}
    assert all(named == actual for named, actual in seen.values())


@pytest.mark.parametrize("discriminator_class", ALL)
@pytest.mark.parametrize(("field", "value"), [("image_size", 28), ("width", -0.5)])
def test_a_size_out_of_range_is_refused(discriminator_class: Discriminator, field: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"{field}: expected .*, got {value}"):
        discriminator_class(**{field: value})  # type: ignore[arg-type]
