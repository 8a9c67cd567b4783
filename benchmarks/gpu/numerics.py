"""What the device and its libraries do where a good guess may be wrong: a guess, and what was found."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.gpu.kit import Results, Setup
from gan_mhe.networks.build import build_discriminator
from gan_mhe.rng import generator


def run(setup: Setup, results: Results) -> None:
    """Answer each question once."""
    device = torch.device(setup.device)
    for name, (guess, question) in QUESTIONS.items():
        results.measure(name, lambda guess=guess, question=question: {"guess": guess, **question(device)})


def adam_with_other_strides(device: torch.device) -> dict[str, Any]:
    """A fused Adam step with gradients in another memory format than their weights, against the loop of tensors."""
    weights = _randn((8, 3, 4, 4), device, "weights")
    gradients = _randn((8, 3, 4, 4), device, "gradients")
    moved = {}
    for fused in (True, False):
        weight = nn.Parameter(weights.clone())
        adam = torch.optim.Adam([weight], lr=0.1, fused=fused)
        weight.grad = gradients.to(memory_format=torch.channels_last)
        adam.step()
        moved[fused] = weight.detach() - weights
    # The first step of Adam is lr times the sign of the gradient.
    wrong = (moved[True].sign() != -gradients.sign()).float().mean().item()
    return {"share_with_wrong_sign": wrong, "largest_difference": (moved[True] - moved[False]).abs().max().item()}


def adam_with_a_large_flag(device: torch.device) -> dict[str, Any]:
    """Does a fused Adam step skip its update for every non-zero `found_inf`, or only for 1?"""
    found = {}
    for flag in (0.0, 1.0, 2.0):
        weight = nn.Parameter(torch.ones(4, device=device))
        adam = torch.optim.Adam([weight], lr=0.1, fused=True)
        adam.grad_scale, adam.found_inf = None, torch.tensor(flag, device=device)
        weight.grad = torch.ones_like(weight)
        adam.step()
        steps = adam.state[weight]["step"].item()
        found[f"found_inf_{flag:g}"] = {"moved": bool((weight != 1).any()), "steps_counted": steps}
    return found


def r1_in_bf16(device: torch.device) -> dict[str, Any]:
    """Relative error of the gradient of R1 under bfloat16 autocast, and with the penalty in float32."""
    gradients = {}
    for name, enabled in (("bf16", True), ("float32", False)):
        network, images = _network(device), _images(device).requires_grad_()
        with torch.autocast(device.type, torch.bfloat16, enabled=enabled):
            logits = network(images)
        (slope,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
        penalty = slope.square().sum(dim=(1, 2, 3)).mean()
        gradients[name] = torch.cat([g.flatten() for g in torch.autograd.grad(penalty, list(_weights(network)))])
    error = (gradients["bf16"].float() - gradients["float32"]).norm() / gradients["float32"].norm()
    return {"relative_error": error.item(), "finite": bool(torch.isfinite(gradients["bf16"]).all())}


def tf32_defaults(device: torch.device) -> dict[str, Any]:
    """PyTorch's settings of a fresh process, and the errors they cause in a product and a convolution."""
    left, right = _randn((512, 512), device, "left"), _randn((512, 512), device, "right")
    images, filters = _randn((8, 64, 16, 16), device, "images"), _randn((64, 64, 3, 3), device, "filters")
    convolve: Callable[[Tensor, Tensor], Tensor] = nn.functional.conv2d
    backends: Any = torch.backends
    return {
        "products": backends.cuda.matmul.fp32_precision,
        "convolutions": backends.cudnn.conv.fp32_precision,
        "product_error": _error(torch.mm(left, right), torch.mm(left.double(), right.double())),
        "convolution_error": _error(convolve(images, filters), convolve(images.double(), filters.double())),
    }


def captured_double_backward(device: torch.device) -> dict[str, Any]:
    """A captured gradient penalty against the same operations one by one."""
    network, images = _network(device), _images(device)

    def compute() -> list[Tensor]:
        inputs = images.detach().requires_grad_()
        (slope,) = torch.autograd.grad(network(inputs).sum(), inputs, create_graph=True)
        penalty = (slope.square().sum(dim=(1, 2, 3)).sqrt() - 1).square().mean()
        return list(torch.autograd.grad(penalty, list(_weights(network))))

    torch.use_deterministic_algorithms(True, warn_only=True)
    expected = [gradient.clone() for gradient in compute()]
    if device.type != "cuda":
        return {"captured": None}
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        compute()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = compute()
    graph.replay()
    torch.cuda.synchronize()
    pairs = list(zip(captured, expected, strict=True))
    return {
        "captured": True,
        "tensors": len(pairs),
        "other_bits": sum(not torch.equal(one, other) for one, other in pairs),
        "largest_error": max(_error(one, other) for one, other in pairs),
    }


def repeated_convolution_gradients(device: torch.device) -> dict[str, Any]:
    """Are weight gradients of a convolution the same bits twice, by the way in which cuDNN chooses its algorithm?"""
    count = 64 if device.type == "cuda" else 4
    images, filters = _randn((count, 64, 32, 32), device, "images"), _randn((128, 64, 4, 4), device, "filters")
    found = {}
    for name, benchmark, deterministic in (
        ("default", False, False),
        ("benchmarked", True, False),
        ("deterministic", False, True),
    ):
        with torch.backends.cudnn.flags(benchmark=benchmark, deterministic=deterministic):
            first, second = (_filter_gradient(images, filters) for _ in range(2))
        found[name] = bool(torch.equal(first, second))
    return found


def _filter_gradient(images: Tensor, filters: Tensor) -> Tensor:
    weight = filters.clone().requires_grad_()
    loss = nn.functional.conv2d(images, weight, stride=2, padding=1).square().sum()
    return torch.autograd.grad(loss, weight)[0]


QUESTIONS: dict[str, tuple[str, Callable[[torch.device], dict[str, Any]]]] = {
    "adam_with_other_strides": (
        "fused Adam pairs weights with gradients by memory position, as on a CPU",
        adam_with_other_strides,
    ),
    "adam_with_a_large_flag": ("only found_inf = 1 skips the update, as on a CPU", adam_with_a_large_flag),
    "r1_in_bf16": ("bfloat16 costs R1's gradient one to five percent", r1_in_bf16),
    "tf32_defaults": ("products in float32, convolutions in tf32", tf32_defaults),
    "captured_double_backward": ("a double backward pass is captured, to the same bits", captured_double_backward),
    "repeated_convolution_gradients": ("weight gradients repeat only if deterministic", repeated_convolution_gradients),
}


def _randn(shape: tuple[int, ...], device: torch.device, name: str) -> Tensor:
    return torch.randn(shape, generator=generator("cpu", 0, f"benchmark/{name}")).to(device)


def _images(device: torch.device) -> Tensor:
    return _randn((16, 3, 32, 32), device, "images")


def _network(device: torch.device) -> nn.Module:
    stream = generator("cpu", 0, "benchmark/network")
    return build_discriminator("cnn_miyato", image_size=32, width=0.25, generator=stream).to(device)


def _weights(network: nn.Module) -> list[Tensor]:
    """Without biases, on which the gradient of a slope does not depend everywhere."""
    return [parameter for parameter in network.parameters() if parameter.dim() > 1]


def _error(found: Tensor, expected: Tensor) -> float:
    return ((found.double() - expected.double()).norm() / expected.double().norm().clamp(min=1e-30)).item()
