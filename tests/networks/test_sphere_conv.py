"""SphereConv against unfolded patches and their angles, known values, its invariances, and ordinary convolution."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gan_mhe.networks.sphere_conv import NORM_EPS, Operator, SphereConv2d, angular

OPERATORS: list[Operator] = ["cosine", "linear", "sigmoid", "learnable"]
ANGLES = torch.linspace(0.01, math.pi - 0.01, 500, dtype=torch.float64)
K = 0.3

every_operator = pytest.mark.parametrize("operator", OPERATORS)
every_shape = pytest.mark.parametrize(("kernel", "stride", "padding"), [(3, 1, 1), (4, 2, 1), (1, 1, 0), (3, 2, 0)])


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def convolution(channels: int = 3, filters: int = 4, kernel: int = 3, stride: int = 1, padding: int = 1) -> nn.Conv2d:
    conv = nn.Conv2d(channels, filters, kernel, stride, padding, device="meta").to_empty(device="cpu").double()
    conv.weight.data, conv.bias.data = random(filters, channels, kernel, kernel, seed=1), random(filters, seed=2)
    return conv


def linear_conv(weight: list[float]) -> nn.Conv2d:
    """One input, 1x1: the filters are numbers."""
    conv = nn.Conv2d(1, len(weight), 1, bias=False).double()
    conv.weight.data = torch.tensor(weight, dtype=torch.float64).view(-1, 1, 1, 1)
    return conv


def exponential_form(theta: np.ndarray, k: float) -> np.ndarray:
    """The sigmoid SphereConv as the paper prints it."""
    ratio = math.exp(-math.pi / (2 * k))
    rise = np.exp(theta / k - math.pi / (2 * k))
    return (1 + ratio) / (1 - ratio) * (1 - rise) / (1 + rise)


def response(theta: np.ndarray, operator: Operator, k: float) -> np.ndarray:
    match operator:
        case "cosine":
            return np.cos(theta)
        case "linear":
            return 1 - 2 * theta / math.pi
        case _:
            return exponential_form(theta, k)


def patches_and_filters(conv: nn.Conv2d, x: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Every zero-padded patch (B, L, D) and every filter (N, D)."""
    patches = F.unfold(x, conv.kernel_size, padding=conv.padding, stride=conv.stride).mT
    return patches.numpy(), conv.weight.detach().flatten(1).numpy()


def reference(conv: nn.Conv2d, x: Tensor, operator: Operator, k: float, eps: float) -> Tensor:
    """g of the angle between every patch and filter, plus the bias, (B, N, L)."""
    patches, filters = patches_and_filters(conv, x)
    lengths = np.sqrt((patches**2).sum(-1) + eps)[:, None, :], np.sqrt((filters**2).sum(-1) + eps)[None, :, None]
    theta = np.arccos(np.einsum("bld,nd->bnl", patches, filters) / (lengths[0] * lengths[1]))
    return torch.from_numpy(response(theta, operator, k)) + conv.bias.detach()[:, None]


@pytest.mark.parametrize(
    ("operator", "k", "expected"),
    [
        ("cosine", None, math.sqrt(0.5)), ("linear", None, 0.5), ("sigmoid", 0.3, 0.873266), ("sigmoid", 0.5, 0.715033),
        ("sigmoid", 1.0, 0.569820), ("sigmoid", 10.0, 0.500770), ("learnable", 0.5, 0.715033),
    ],
)  # fmt: skip
def test_an_operator_has_its_known_value_at_45_degrees(operator: Operator, k: float | None, expected: float) -> None:
    value = angular(torch.tensor(math.sqrt(0.5), dtype=torch.float64), operator, k)
    assert value.item() == pytest.approx(expected, abs=5e-7)


@every_operator
def test_an_operator_goes_from_1_through_0_to_minus_1(operator: Operator) -> None:
    cosine = torch.tensor([1.0, 0.0, -1.0], dtype=torch.float64)
    first, middle, last = angular(cosine, operator, K).tolist()
    assert first == pytest.approx(1, abs=1e-3)
    assert middle == pytest.approx(0, abs=1e-15)
    assert last == pytest.approx(-1, abs=1e-3)


@every_operator
def test_an_operator_is_odd_about_the_right_angle_and_decreases(operator: Operator) -> None:
    values = angular(ANGLES.cos(), operator, K)
    torch.testing.assert_close(values, -values.flip(0), rtol=0, atol=1e-12)
    assert (values.diff() < 0).all()


@pytest.mark.parametrize("k", [0.1, 0.3, 0.5, 1.0, 10.0])
def test_the_sigmoid_equals_the_exponential_form_of_the_paper(k: float) -> None:
    # The angle is known to the rounding of its cosine, 1e-14 near the ends; in its own terms g loses nothing.
    theta = ANGLES.cos().acos()
    expected = torch.from_numpy(exponential_form(theta.numpy(), k))
    torch.testing.assert_close(angular(ANGLES.cos(), "sigmoid", k), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("k", [0.1, 0.5, 2.0])
def test_the_slope_of_the_sigmoid_at_the_right_angle_is_known(k: float) -> None:
    theta = torch.tensor(math.pi / 2, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(angular(theta.cos(), "sigmoid", k), theta)
    assert slope.item() == pytest.approx(-1 / math.tanh(math.pi / (4 * k)) / (2 * k), rel=1e-12)


def test_the_sigmoid_is_closest_to_the_cosine_at_one_half() -> None:
    cosine = ANGLES.cos()
    gaps = {k: (angular(cosine, "sigmoid", k) - cosine).abs().max().item() for k in (0.3, 0.4, 0.49, 0.5, 0.51, 0.6, 1)}
    assert min(gaps, key=gaps.__getitem__) == 0.5
    assert gaps[0.5] == pytest.approx(0.0251, abs=5e-5)


def test_the_sigmoid_of_a_large_k_is_linear() -> None:
    cosine = ANGLES.cos()
    torch.testing.assert_close(angular(cosine, "sigmoid", 1e4), angular(cosine, "linear"), rtol=0, atol=1e-8)


@pytest.mark.parametrize("k", [1.1e-6, 9e5])
def test_the_ends_of_the_range_of_k_are_finite_in_float32(k: float) -> None:
    cosine = torch.tensor([-1.0, -1e-3, 0.0, 1e-3, 1.0], requires_grad=True)
    values = angular(cosine, "learnable", torch.tensor(k))
    torch.testing.assert_close(values, -values.flip(0), rtol=0, atol=0)
    assert values.isfinite().all()
    assert torch.autograd.grad(values.sum(), cosine)[0].isfinite().all()


def test_k_may_differ_from_filter_to_filter() -> None:
    cosine = ANGLES.cos().expand(2, -1)
    values = angular(cosine, "learnable", torch.tensor([[0.3], [0.7]], dtype=torch.float64))
    for row, k in zip(values, (0.3, 0.7), strict=True):
        torch.testing.assert_close(row, angular(cosine[0], "sigmoid", k), rtol=0, atol=1e-14)


@every_operator
def test_gradients_are_finite_where_rounding_leaves_the_range_of_a_cosine(operator: Operator) -> None:
    cosine = torch.tensor([-1.01, -1.0, -1 + 1e-7, 1 - 1e-7, 1.0, 1 + 2e-7], requires_grad=True)
    (first,) = torch.autograd.grad(angular(cosine, operator, K).sum(), cosine, create_graph=True)
    assert first.isfinite().all()
    if first.requires_grad:
        assert all(second.isfinite().all() for second in torch.autograd.grad(first.sum(), cosine))


@every_operator
def test_angles_are_float32_at_least(operator: Operator) -> None:
    cosine = ANGLES.cos().bfloat16()
    values = angular(cosine, operator, K)
    assert values.dtype == torch.float32
    torch.testing.assert_close(values.double(), angular(cosine.double(), operator, K), rtol=0, atol=5e-5)


@every_operator
@every_shape
@pytest.mark.parametrize("eps", [0.0, NORM_EPS])
def test_sphere_conv_is_the_operator_of_the_angle_of_every_patch(
    operator: Operator, kernel: int, stride: int, padding: int, eps: float
) -> None:
    conv, x = convolution(kernel=kernel, stride=stride, padding=padding), random(2, 3, 8, 6)
    found = SphereConv2d(conv, operator=operator, k=K, eps=eps)(x)
    assert found.dtype == torch.float64
    assert found.shape == conv(x).shape
    torch.testing.assert_close(found.flatten(2), reference(conv, x, operator, K, eps), rtol=0, atol=1e-12)


def test_a_convolution_without_bias_has_none_as_a_sphere_conv() -> None:
    conv, x = convolution(), random(2, 3, 5, 5)
    conv.bias.data.zero_()
    expected = reference(conv, x, "sigmoid", K, NORM_EPS)
    conv.bias = None
    sphere = SphereConv2d(conv, operator="sigmoid", k=K)
    assert [name for name, _ in sphere.named_parameters()] == ["weight"]
    torch.testing.assert_close(sphere(x).flatten(2), expected, rtol=0, atol=1e-12)


def test_each_filter_trains_its_own_k_from_the_given_one() -> None:
    conv, x = convolution(), random(2, 3, 5, 5)
    sphere = SphereConv2d(conv, operator="learnable", k=0.75)
    assert {name: value.shape for name, value in sphere.named_parameters()}["raw_k"] == (4, 1, 1)
    torch.testing.assert_close(sphere(x).flatten(2), reference(conv, x, "sigmoid", 0.75, NORM_EPS), rtol=0, atol=1e-12)
    sphere.raw_k.data[1] = -0.25
    changed = reference(conv, x, "sigmoid", 0.3, NORM_EPS)
    torch.testing.assert_close(sphere(x).flatten(2)[:, 1], changed[:, 1], rtol=0, atol=1e-12)


@every_operator
def test_a_patch_of_zeros_answers_the_bias_alone(operator: Operator) -> None:
    conv = convolution()
    x = torch.zeros(1, 3, 5, 5, dtype=torch.float64, requires_grad=True)
    found = SphereConv2d(conv, operator=operator, k=K)(x)
    torch.testing.assert_close(found, conv.bias[:, None, None].expand_as(found[0])[None], rtol=0, atol=1e-15)
    assert torch.autograd.grad(found.square().sum(), x)[0].isfinite().all()


def test_the_parameters_are_those_of_the_convolution_and_nothing_is_drawn() -> None:
    conv = convolution().eval()
    before = torch.random.get_rng_state()
    sphere = SphereConv2d(conv, operator="cosine")
    assert sphere.weight is conv.weight
    assert sphere.bias is conv.bias
    assert not sphere.training
    assert torch.equal(torch.random.get_rng_state(), before)


def logits(operator: Operator, length: float) -> Tensor:
    """GA-Softmax logits ||x|| g(θ) of a number x = `length` > 0 for the weights 1 and -1."""
    sphere = SphereConv2d(linear_conv([1.0, -1.0]), operator=operator, k=K, eps=0)
    return (length * sphere(torch.full((1, 1, 1, 1), length, dtype=torch.float64))).flatten()


@every_operator
def test_a_number_against_its_own_and_the_opposite_direction_gives_plus_and_minus_its_length(
    operator: Operator,
) -> None:
    expected = torch.tensor([2.0, -2.0], dtype=torch.float64)
    torch.testing.assert_close(logits(operator, 2.0), expected, rtol=0, atol=2e-3)


@pytest.mark.parametrize("margin", [1.5, 2.0, 4.0])
def test_a_margin_never_lowers_the_softmax_loss(margin: float) -> None:
    conv, x = convolution(channels=6, filters=5, kernel=1, padding=0), random(50, 6, 1, 1)
    conv.bias = None
    g_BN = SphereConv2d(conv, operator="linear", eps=0)(x).flatten(1)
    target = torch.arange(50) % 5
    lengths = x.flatten(1).norm(dim=1, keepdim=True)
    # 1 - 2 m θ / π of the target class, which stays monotone beyond π.
    own = F.one_hot(target, 5).bool()
    with_margin = torch.where(own, 1 - margin * (1 - g_BN), g_BN)
    plain, hard = (F.cross_entropy(lengths * g, target, reduction="none") for g in (g_BN, with_margin))
    assert (hard >= plain).all()


@every_operator
def test_the_lengths_of_filters_and_patches_do_not_matter(operator: Operator) -> None:
    conv, x = convolution(), random(2, 3, 5, 5)
    sphere = SphereConv2d(conv, operator=operator, k=K, eps=0)
    before = sphere(x)
    conv.weight.data *= 7
    torch.testing.assert_close(sphere(x / 7), before, rtol=0, atol=1e-13)


@every_operator
def test_the_gradient_is_orthogonal_to_each_filter_and_shrinks_with_its_length(operator: Operator) -> None:
    conv, x, force = convolution(), random(2, 3, 5, 5), random(2, 4, 5, 5, seed=3)
    sphere = SphereConv2d(conv, operator=operator, k=K, eps=0)
    (gradient,) = torch.autograd.grad((sphere(x) * force).sum(), conv.weight)
    radial = (gradient * conv.weight).flatten(1).sum(1)
    torch.testing.assert_close(radial, torch.zeros_like(radial), rtol=0, atol=1e-12)
    conv.weight.data *= 7
    (shrunk,) = torch.autograd.grad((sphere(x) * force).sum(), conv.weight)
    torch.testing.assert_close(shrunk, gradient / 7, rtol=1e-10, atol=1e-13)


def test_lengths_matter_only_near_the_root_of_epsilon() -> None:
    conv, x = convolution(filters=1, kernel=1, padding=0), random(1, 3, 1, 1)
    conv.bias = None
    sphere = SphereConv2d(conv, operator="cosine")
    direction, patch = conv.weight.data / conv.weight.data.norm(), x / x.norm()
    exact = (direction * patch).sum().item()
    ratio = {}
    for length in (1.0, 0.01):
        conv.weight.data = direction * length
        ratio[length] = sphere(patch).item() / exact
    assert ratio[1.0] == pytest.approx(1, abs=1.1e-4)
    assert ratio[0.01] == pytest.approx(math.sqrt(0.5), abs=1e-4)


def spectra(scale: float) -> tuple[Tensor, Tensor]:
    """Nonzero Hessian eigenvalues of 1/2 ||F - cos(U, V)||² at (scale U, V / scale), a minimum: in U and V, and in
    each row divided by its length. n = 4 filters, m = 5 patches, k = 2 entries."""
    u, v = random(4, 2) * scale, random(5, 2, seed=1) / scale
    conv = convolution(2, 4, 1, padding=0)
    conv.bias = None
    sphere = SphereConv2d(conv, operator="cosine", eps=0)

    def cosines(flat: Tensor) -> Tensor:
        filters, patches = flat[:8].view(4, 2, 1, 1), flat[8:].view(5, 2, 1, 1)
        return torch.func.functional_call(sphere, {"weight": filters}, (patches,)).flatten()

    at = torch.cat([u.flatten(), v.flatten()])
    target = cosines(at).detach()
    hessian = torch.autograd.functional.hessian(lambda flat: (cosines(flat) - target).square().sum() / 2, at)
    lengths = torch.cat([rows.norm(dim=1).repeat_interleave(2) for rows in (u, v)])
    # Each of the nine lengths, and a rotation of everything, leaves the objective as it is.
    return tuple(torch.linalg.eigvalsh(h)[10:] for h in (hessian, lengths[:, None] * hessian * lengths))  # type: ignore[return-value]


def test_rescaling_layers_against_each_other_spoils_the_condition_in_the_weights_themselves() -> None:
    condition = {c: (spectra(c)[0].max() / spectra(c)[0].min()).item() for c in (1.0, 16.0)}
    assert condition[1.0] < 100
    assert condition[16.0] > 1000 * condition[1.0]


def test_rescaling_layers_against_each_other_leaves_the_spectrum_in_normalised_rows() -> None:
    # What holds of the paper's Lemma 2.
    torch.testing.assert_close(spectra(16.0)[1], spectra(1.0)[1], rtol=1e-9, atol=1e-12)


def test_sphere_norm_starts_as_the_cosine_sphere_conv() -> None:
    conv, x = convolution(), random(2, 3, 5, 5)
    norm, plain = SphereConv2d(conv, operator="cosine", rescale=True), SphereConv2d(conv, operator="cosine")
    assert torch.equal(norm.rho, torch.zeros(4, 1, 1, dtype=torch.float64))
    torch.testing.assert_close(norm(x), plain(x), rtol=0, atol=1e-15)


@every_shape
@pytest.mark.parametrize("eps", [0.0, NORM_EPS])
def test_sphere_norm_can_become_the_ordinary_convolution(kernel: int, stride: int, padding: int, eps: float) -> None:
    conv, x = convolution(kernel=kernel, stride=stride, padding=padding), random(2, 3, 8, 6)
    norm = SphereConv2d(conv, operator="cosine", rescale=True, eps=eps)
    norm.rho.data.fill_(1)
    torch.testing.assert_close(norm(x), conv(x), rtol=1e-12, atol=1e-12)


def test_sphere_norm_between_the_two_scales_by_a_power_of_both_norms() -> None:
    conv, x = convolution(), random(2, 3, 5, 5)
    norm = SphereConv2d(conv, operator="cosine", rescale=True)
    rho = torch.tensor([-0.5, 0.25, 0.5, 2.0], dtype=torch.float64)
    norm.rho.data = rho.view(4, 1, 1)
    patches, filters = patches_and_filters(conv, x)
    squares = [np.square(vectors).sum(-1) + NORM_EPS for vectors in (patches, filters)]
    lengths = np.sqrt(squares[0][:, None, :] * squares[1][None, :, None])
    scale = torch.from_numpy(lengths ** rho.numpy()[:, None])
    bias = conv.bias.detach()[:, None]
    expected = scale * (reference(conv, x, "cosine", K, NORM_EPS) - bias) + bias
    torch.testing.assert_close(norm(x).flatten(2), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("operator", "rescale"), [*((operator, False) for operator in OPERATORS), ("cosine", True)])
def test_first_and_second_derivatives_equal_difference_quotients(operator: Operator, rescale: bool) -> None:
    sphere = SphereConv2d(convolution(2, 2, 2, stride=1, padding=1), operator=operator, k=K, rescale=rescale)
    if sphere.rho is not None:
        sphere.rho.data.fill_(0.5)
    names = list(dict(sphere.named_parameters()))
    inputs = [random(1, 2, 2, 2, seed=5), *(parameter.detach() for parameter in sphere.parameters())]
    inputs = [each.clone().requires_grad_() for each in inputs]

    def function(x: Tensor, *parameters: Tensor) -> Tensor:
        return torch.func.functional_call(sphere, dict(zip(names, parameters, strict=True)), (x,))

    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)


@pytest.mark.parametrize(("operator", "rescale"), [*((operator, False) for operator in OPERATORS), ("cosine", True)])
def test_autocast_narrows_the_product_alone(operator: Operator, rescale: bool) -> None:
    sphere = SphereConv2d(convolution(8, 16).float(), operator=operator, k=K, rescale=rescale)
    sphere.bias.data.zero_()
    x = random(4, 8, 16, 16).float()
    with torch.autocast("cpu", torch.bfloat16):
        narrow = sphere(x)
    assert narrow.dtype == torch.bfloat16
    torch.testing.assert_close(narrow.float(), sphere(x), rtol=0, atol=2e-2)


def test_lengths_of_bfloat16_patches_are_float32() -> None:
    sphere = SphereConv2d(convolution(channels=256).float(), operator="cosine")
    with torch.autocast("cpu", torch.bfloat16):
        squares = sphere._patch_squares(torch.full((1, 256, 3, 3), 1.0078125, dtype=torch.bfloat16))
    assert squares.dtype == torch.float32
    assert squares[0, 0, 1, 1].item() == pytest.approx(2304 * 1.0078125**2, rel=1e-6)


def test_channels_stay_last() -> None:
    sphere = SphereConv2d(convolution(), operator="sigmoid", k=K).to(memory_format=torch.channels_last)
    x = random(2, 3, 6, 6)
    found = sphere(x.contiguous(memory_format=torch.channels_last))
    assert found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found, SphereConv2d(convolution(), operator="sigmoid", k=K)(x), rtol=0, atol=1e-13)


@pytest.mark.parametrize(("operator", "rescale"), [*((operator, False) for operator in OPERATORS), ("cosine", True)])
def test_the_compiler_follows_it_in_one_graph(operator: Operator, rescale: bool) -> None:
    torch._dynamo.reset()
    sphere = SphereConv2d(convolution(), operator=operator, k=K, rescale=rescale)
    x = random(2, 3, 5, 5).requires_grad_()
    compiled = torch.compile(sphere, fullgraph=True, backend="aot_eager")
    values = [run(x) for run in (sphere, compiled)]
    gradients = [torch.autograd.grad(value.square().sum(), [x, *sphere.parameters()]) for value in values]
    torch.testing.assert_close(values[1], values[0], rtol=0, atol=1e-13)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"operator": "sine"}, "operator: expected one of"),
        ({"operator": "sigmoid"}, "k: expected a number above 0 for sigmoid, got None"),
        ({"operator": "learnable"}, "k: expected a number above 0 for learnable, got None"),
        ({"operator": "sigmoid", "k": 0.0}, "k: expected a number between 1e-06 and"),
        ({"operator": "sigmoid", "k": 1e7}, r"and 1e\+06 for sigmoid, got 10000000"),
        ({"operator": "learnable", "k": 0.05}, r"k: expected a number between 0\.05 and"),
        ({"operator": "sigmoid", "k": math.nan}, "got nan"),
        ({"operator": "linear", "rescale": True}, "rescale: expected the cosine operator"),
        ({"operator": "cosine", "eps": -1e-9}, "eps: expected a finite number >= 0"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SphereConv2d(convolution(), **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"groups": 2}, "expected one group"), ({"dilation": 2}, "dilation 1"), ({"padding": "same"}, "got same"),
        ({"padding": 2}, r"got \(2, 2\)"), ({"padding": 1, "padding_mode": "reflect"}, "with reflect"),
    ],
)  # fmt: skip
def test_convolutions_with_other_patches_are_refused(options: dict[str, object], message: str) -> None:
    conv = nn.Conv2d(2, 2, 3, device="meta", **options)
    with pytest.raises(ValueError, match=message):
        SphereConv2d(conv, operator="cosine")
