"""Small classifiers and image sets that the evaluation tests share."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from gan_mhe.data.datasets import ImageSet, content_sha256, load
from gan_mhe.evaluation.classifier_net import ClassifierNet, encode_classifier
from gan_mhe.evaluation.evaluator import Evaluator

CPU = torch.device("cpu")


@pytest.fixture(scope="session")
def make_images() -> Callable[..., ImageSet]:
    """Seeded smooth random colour images as an ImageSet."""

    def make(count: int = 40, seed: int = 0, side: int = 16, name: str = "blobs") -> ImageSet:
        generator = torch.Generator().manual_seed(seed)
        coarse = torch.rand(count, 3, 4, 4, generator=generator) * 255
        smooth = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bilinear")
        images, labels = smooth.to(torch.uint8), torch.arange(count) % 4
        return ImageSet(name, images, labels, ("a", "b", "c", "d"), content_sha256(images, labels))

    return make


@pytest.fixture(scope="session")
def make_classifier_file(
    tmp_path_factory: pytest.TempPathFactory, make_images: Callable[..., ImageSet]
) -> Callable[..., Path]:
    """A weights file of a classifier with random weights whose outputs differ well between images."""

    def make(seed: int = 0, side: int = 16) -> Path:
        generator = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng(devices=[]):
            net = ClassifierNet(4, side, 0.1).eval()
        for parameter in net.parameters():
            if parameter.ndim > 1:
                scale = (2 / parameter[0].numel()) ** 0.5
                parameter.data = torch.randn(parameter.shape, generator=generator) * scale
        net.head.bias.data.zero_()
        with torch.no_grad():
            logits = net(make_images(200, seed=99, side=side).images)[1]
            net.head.weight.data *= 3 / logits.std(dim=0)[:, None]
            net.head.bias.data -= logits.mean(dim=0) * 3 / logits.std(dim=0)
        path = tmp_path_factory.mktemp("classifier") / f"tiny-{seed}.safetensors"
        metadata = {"class_names": ["a", "b", "c", "d"], "image_size": side, "width": 0.1}
        path.write_bytes(encode_classifier(net.state_dict(), metadata))
        return path

    return make


@pytest.fixture
def make_evaluator(
    make_images: Callable[..., ImageSet], make_classifier_file: Callable[..., Path], tmp_path: Path
) -> Callable[..., Evaluator]:
    """An evaluator of `classifier:tiny` with 40 samples; keywords replace what `build` is given."""

    def make(**changes: object) -> Evaluator:
        arguments = {
            "images": make_images(),
            "num_samples": 40,
            "ema": False,
            "weights": make_classifier_file(),
            "download": False,
            "cache_dir": tmp_path,
            "device": CPU,
        }
        return Evaluator.build("classifier:tiny", **(arguments | changes))  # type: ignore[arg-type]

    return make


@pytest.fixture(scope="session")
def generate() -> Callable[[Tensor], Tensor]:
    """A fixed generator of smooth images in [-1, 1] from latents (B, 8)."""
    weight = torch.randn(8, 3 * 4 * 4, generator=torch.Generator().manual_seed(5))

    def make(latents: Tensor) -> Tensor:
        coarse = torch.tanh(latents @ weight).view(-1, 3, 4, 4)
        return torch.nn.functional.interpolate(coarse, size=(16, 16), mode="bilinear")

    return make


@pytest.fixture(scope="session")
def inception_weights(tmp_path_factory: pytest.TempPathFactory, make_images: Callable[..., ImageSet]) -> Path:
    """A state of torch-fidelity's InceptionV3 with random weights that keep signals alive, and norms to fold."""
    generator = torch.Generator().manual_seed(0)
    patch = pytest.MonkeyPatch()
    patch.setattr("torch_fidelity.feature_extractor_inceptionv3.load_state_dict_from_url", lambda *_, **__: {})
    patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
    with torch.random.fork_rng(devices=[]):
        net = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])
    patch.undo()
    state = net.state_dict()
    for name, tensor in state.items():
        if tensor.ndim > 1:
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * math.sqrt(2 / tensor[0].numel()))
        elif name.endswith(("bn.weight", "bn.running_var")):
            tensor.uniform_(0.8, 1.2, generator=generator)
        elif name.endswith(("bn.bias", "bn.running_mean")):
            tensor.uniform_(-0.05, 0.05, generator=generator)
    with torch.no_grad():
        (features,) = net(make_images(4, seed=3, side=32).images)
    # What all images share says nothing about one of them, and would give them all one class.
    common = torch.nn.functional.normalize(features.mean(dim=0), dim=0)
    head = state["fc.weight"]
    head -= torch.outer(head @ common, common)
    head *= 3 / (features @ head.T).std()
    path = tmp_path_factory.mktemp("inception") / "random.pth"
    torch.save(state, path)
    return path


@pytest.fixture(scope="session")
def digits() -> ImageSet:
    """The 1,797 real digits."""
    return load("digits", root=None, split="train", image_size=32, download=False, cache_dir=Path("unused"))


@pytest.fixture(scope="session")
def digits_evaluator(digits: ImageSet, tmp_path_factory: pytest.TempPathFactory) -> Evaluator:
    """digits-v1 with the shipped classifier and 500 samples."""
    return Evaluator.build(
        "digits-v1",
        images=digits,
        num_samples=500,
        ema=False,
        weights=None,
        download=False,
        cache_dir=tmp_path_factory.mktemp("digits"),
        device=CPU,
    )
