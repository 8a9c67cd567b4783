"""Feature extractors: the small classifier and the Inception network of 2015.

A weights file is hashed, and refused if the protocol pins another hash, before any of its content is interpreted.
"""

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn
from torch_fidelity.feature_extractor_base import FeatureExtractorBase
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from gan_mhe.config.protocols import protocol_settings
from gan_mhe.errors import ExtractorError
from gan_mhe.evaluation.classifier_facts import ClassifierFacts
from gan_mhe.evaluation.classifier_net import decode_classifier
from gan_mhe.evaluation.inception import FoldedInception
from gan_mhe.files import sha256_bytes

_BATCH_SIZE = 256  # images generated and extracted at once; Inception's activations take 5 GB of GPU memory
# On a CPU the activations of so few images fit into the last-level cache and into blocks that the allocator reuses
# instead of mapping fresh pages: Inception took up to 2.5 times as long with 64 images at once.
_CPU_IMAGES_AT_ONCE = {"inception": 8, "classifier": 64}


class ClassifierExtractor(FeatureExtractorBase):  # type: ignore[misc]
    """A ClassifierNet with torch-fidelity's interface, so that `torch_fidelity.calculate_metrics` accepts it too.

    Layers: "features" (penultimate, pooled) and "logits". feature_extractor_weights_path: a path, or a file open for
    reading. Other keywords come from calculate_metrics and are ignored.
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
            raise ExtractorError(f"{name}: expected feature_extractor_weights_path, a weights file; got None")
        content = Path(source).read_bytes() if isinstance(source, str | Path) else source.read()
        self.net, self.metadata = decode_classifier(content, name)
        self.net.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """The requested layers, in the order requested, of uint8 images (B, 3, H, H)."""
        channels_last = images.contiguous(memory_format=torch.channels_last)
        features, logits = _in_parts(self.net, channels_last, _CPU_IMAGES_AT_ONCE["classifier"])
        return tuple({"features": features, "logits": logits}[layer] for layer in self.features_list)

    @staticmethod
    def get_provided_features_list() -> tuple[str, ...]:
        """Names of the available layers."""
        return "features", "logits"

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        """The layer that torch-fidelity reads for a metric: logits for the Inception score, else features."""
        return "logits" if metric == "isc" else "features"


class InceptionExtractor(FeatureExtractorInceptionV3):  # type: ignore[misc]
    """torch-fidelity's InceptionV3 with the forward pass of `FoldedInception`; calculate_metrics accepts it too.

    Layers: "2048" (pooled features) and "logits_unbiased". The arguments are those of the base class.
    """

    def __init__(self, name: str, features_list: list[str], **kwargs: Any) -> None:
        super().__init__(name, features_list, **kwargs)
        folded = FoldedInception(self)
        for layer, _ in list(self.named_children()):
            delattr(self, layer)  # otherwise the device would hold every weight twice
        self.folded = folded

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """The requested layers, in the order requested, of uint8 images (B, 3, H, W)."""
        features, logits = _in_parts(self.folded, images, _CPU_IMAGES_AT_ONCE["inception"])
        return tuple({"2048": features, "logits_unbiased": logits}[layer] for layer in self.features_list)

    @staticmethod
    def get_provided_features_list() -> tuple[str, ...]:
        """Names of the available layers."""
        return "2048", "logits_unbiased"


def _in_parts(
    network: Callable[[Tensor], tuple[Tensor, Tensor]], images: Tensor, cpu_images_at_once: int
) -> tuple[Tensor, Tensor]:
    if images.device.type != "cpu":
        return network(images)
    features, logits = zip(*(network(part) for part in torch.split(images, cpu_images_at_once)), strict=True)
    return torch.cat(features), torch.cat(logits)


@dataclass(frozen=True)
class Extractor:
    """A feature extractor with its weights."""

    network: nn.Module
    """torch-fidelity feature extractor in eval mode on its device."""
    weights_sha256: str
    """Hash of the weights file."""
    facts: ClassifierFacts | None
    """What the weights file says about a classifier; None for a network that scores any images."""
    batch_size: int = _BATCH_SIZE
    """Images to generate and to extract at once."""

    @property
    def image_size(self) -> int | None:
        """The only image size that it accepts, in pixels; None for any."""
        return self.facts.image_size if self.facts else None

    @property
    def num_classes(self) -> int | None:
        """Classes of a classifier; None for a network that scores any images."""
        return len(self.facts.class_names) if self.facts else None


def load_extractor(name: str, path: Path, *, device: torch.device, expected_sha256: str | None = None) -> Extractor:
    """The extractor of protocol `name` with the weights in `path`, in eval mode on `device`.

    expected_sha256: what the hash of the file must begin with, None for the one that the protocol pins. Raises
    ExtractorError if the file has another hash, cannot be read, or contains a classifier that cannot tell images apart.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ExtractorError(f"{path}: cannot read the weights of {name}: {error.strerror or error}") from error
    settings, sha256 = protocol_settings(name), sha256_bytes(content)
    expected = settings.weights_sha256 if expected_sha256 is None else expected_sha256
    if not sha256.startswith(expected):
        raise ExtractorError(f"{path}: expected the weights of {name}, SHA-256 {expected}...; got SHA-256 {sha256}")
    network, facts = EXTRACTORS[settings.extractor](content, path)
    if facts is not None:
        facts.check(str(path), smallest_skill=settings.smallest_skill)
    return Extractor(network.to(device), sha256, facts)


def _classifier(content: bytes, path: Path) -> tuple[nn.Module, ClassifierFacts | None]:
    network = ClassifierExtractor(str(path), ["features", "logits"], io.BytesIO(content))
    return network, ClassifierFacts.of(network.metadata)


def _inception(content: bytes, path: Path) -> tuple[nn.Module, ClassifierFacts | None]:
    # torch-fidelity unpickles whatever it is given. So it never gets the file, but tensors that were read without the
    # full powers of pickle and written again.
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        tensors_only = io.BytesIO()
        torch.save(state, tensors_only)
        tensors_only.seek(0)
        with torch.random.fork_rng(devices=[]):
            network = InceptionExtractor(
                "inception-v3-compat", ["2048", "logits_unbiased"], feature_extractor_weights_path=tensors_only
            )
    except Exception as error:  # unpickling foreign bytes can raise anything
        raise ExtractorError(f"{path}: expected the state of torch-fidelity's InceptionV3: {error}") from error
    return network, None


EXTRACTORS: Mapping[str, Callable[[bytes, Path], tuple[nn.Module, ClassifierFacts | None]]] = MappingProxyType(
    {"scorer-net": _classifier, "inception-v3-compat": _inception}
)
"""The loader of each kind (`ProtocolSettings.extractor`): content and path of a weights file -> network, facts."""
