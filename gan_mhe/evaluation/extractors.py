"""Feature extractors: the small classifier, the 2015 Inception network, and where their weights come from.

A weights file is named by its content: it is hashed, and refused where the protocol pins another hash, before
anything in it is interpreted. What is missing is said and never replaced by something else.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn
from torch_fidelity.feature_extractor_base import FeatureExtractorBase
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from gan_mhe.errors import ScorerError
from gan_mhe.evaluation.classifier_net import SCORER_NET, decode_scorer
from gan_mhe.evaluation.inception import FoldedInception
from gan_mhe.evaluation.protocol import protocol_settings
from gan_mhe.evaluation.weights import DIGITS_SHA256, INCEPTION_SHA256
from gan_mhe.files import sha256_bytes

_BATCH_SIZE = 256  # images made and read at a time; Inception's activations of so many take 5 GB of a GPU
# On a CPU the activations of so few images stay in the last-level cache, and in blocks that the allocator uses
# again instead of mapping fresh pages: Inception took up to 2.5 times as long with 64 at once.
_CPU_IMAGES_AT_ONCE = {"inception": 8, "classifier": 64}


class ClassifierExtractor(FeatureExtractorBase):  # type: ignore[misc]
    """A ScorerNet as torch-fidelity wants it, usable by `torch_fidelity.calculate_metrics` too.

    Layers: "features" (penultimate, pooled) and "logits". `feature_extractor_weights_path`: a path, or a file
    open for reading. Other keywords are calculate_metrics' own and ignored.
    """

    def __init__(
        self,
        name: str,
        features_list: list[str],
        feature_extractor_weights_path: str | Path | BinaryIO | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(name, features_list)
        source = feature_extractor_weights_path
        if source is None:
            raise ScorerError(f"{name}: expected feature_extractor_weights_path, a scorer file; got none")
        content = Path(source).read_bytes() if isinstance(source, str | Path) else source.read()
        self.net, self.metadata = decode_scorer(content, name)
        self.net.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """The requested layers, in the order requested, of uint8 images (B, 3, H, H)."""
        channels_last = images.contiguous(memory_format=torch.channels_last)
        features, logits = _in_parts(self.net, channels_last, _CPU_IMAGES_AT_ONCE["classifier"])
        return tuple({"features": features, "logits": logits}[layer] for layer in self.features_list)

    @staticmethod
    def get_provided_features_list() -> tuple[str, ...]:
        """Names of the layers on offer."""
        return "features", "logits"

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        """The Inception score reads logits, everything else features."""
        return "logits" if metric == "isc" else "features"


class InceptionExtractor(FeatureExtractorInceptionV3):  # type: ignore[misc]
    """torch-fidelity's InceptionV3 with its forward pass by `FoldedInception`; usable by calculate_metrics too.

    Layers: "2048" (pooled features) and "logits_unbiased". Arguments are the library's.
    """

    def __init__(self, name: str, features_list: list[str], **kwargs: Any) -> None:
        super().__init__(name, features_list, **kwargs)
        folded = FoldedInception(self)
        for layer, _ in list(self.named_children()):
            delattr(self, layer)  # or the device would hold every weight twice
        self.folded = folded

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """The requested layers, in the order requested, of uint8 images (B, 3, H, W)."""
        features, logits = _in_parts(self.folded, images, _CPU_IMAGES_AT_ONCE["inception"])
        return tuple({"2048": features, "logits_unbiased": logits}[layer] for layer in self.features_list)

    @staticmethod
    def get_provided_features_list() -> tuple[str, ...]:
        """Names of the layers on offer."""
        return "2048", "logits_unbiased"


def _in_parts(
    network: Callable[[Tensor], tuple[Tensor, Tensor]], images: Tensor, cpu_images_at_once: int
) -> tuple[Tensor, Tensor]:
    if images.device.type != "cpu":
        return network(images)
    features, logits = zip(*(network(part) for part in torch.split(images, cpu_images_at_once)), strict=True)
    return torch.cat(features), torch.cat(logits)


@dataclass(frozen=True)
class Scorer:
    """An extractor in eval mode on its device.

    image_size: the only one it takes, or None for any; batch_size: images to make and to give it at a time.
    """

    extractor: nn.Module
    weights_sha256: str
    image_size: int | None
    batch_size: int


def load_scorer(name: str, path: Path, *, device: torch.device, expected_sha256: str | None = None) -> Scorer:
    """The extractor of protocol `name` with the weights in `path`, in eval mode on `device`.

    `expected_sha256`: what the file's hash must begin with, unset the one the protocol pins
    (`classifier:<name>` pins none: its fingerprint carries whatever the file is). Raises ScorerError for
    another file or for one that cannot be read.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ScorerError(f"{path}: cannot read the weights of {name}: {error.strerror or error}") from error
    sha256 = sha256_bytes(content)
    pinned = {"digits-v1": DIGITS_SHA256, "inception-2015": INCEPTION_SHA256}.get(name, "")
    expected = pinned if expected_sha256 is None else expected_sha256
    if not sha256.startswith(expected):
        raise ScorerError(f"{path}: the weights of {name} have sha256 {expected}..., this file has {sha256}")
    if protocol_settings(name).extractor == SCORER_NET:
        classifier = ClassifierExtractor(SCORER_NET, ["features", "logits"], io.BytesIO(content))
        return Scorer(classifier.to(device), sha256, classifier.net.image_size, _BATCH_SIZE)
    return Scorer(_inception(content, path).to(device), sha256, None, _BATCH_SIZE)


def _inception(content: bytes, path: Path) -> nn.Module:
    # torch-fidelity unpickles whatever it is given. It is given tensors that were read without pickle's full
    # powers and written again, and never the file itself.
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        tensors_only = io.BytesIO()
        torch.save(state, tensors_only)
        tensors_only.seek(0)
        with torch.random.fork_rng(devices=[]):
            extractor: nn.Module = InceptionExtractor(
                "inception-v3-compat",
                ["2048", "logits_unbiased"],
                feature_extractor_weights_path=tensors_only,
            )
    except Exception as error:  # unpickling foreign bytes raises whatever the bytes provoke
        raise ScorerError(f"{path}: expected the state of torch-fidelity's InceptionV3: {error}") from error
    return extractor
