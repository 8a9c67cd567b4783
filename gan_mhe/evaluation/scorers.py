"""Feature extractors: the small classifier, the 2015 Inception network, and where their weights come from.

A weights file is named by its content: it is hashed, and refused where the protocol pins another hash, before
anything in it is interpreted. What is missing is said and never replaced by something else.
"""

import io
import json
import urllib.error
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch_fidelity.feature_extractor_base import FeatureExtractorBase
from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3, FeatureExtractorInceptionV3

from gan_mhe.data.loader import to_unit_range
from gan_mhe.errors import ScorerError
from gan_mhe.evaluation.inception import FoldedInception
from gan_mhe.evaluation.protocol import classifier_name, protocol_settings
from gan_mhe.files import canonical_json, sha256_bytes

FORMAT = "gan-mhe-scorer"
FORMAT_VERSION = "1"
SCORER_NET = "scorer-net"

# The shipped scorer: train_scorer on the digits with width 0.1875, 100 epochs, seed 0. Training it on another
# processor gives other last bits, hence another hash and other fingerprints: the file is shipped, not made.
DIGITS_SHA256 = "ceb29dcfa245304846075799e3d4a0546cc73e3bdbf4d18c8526ce33646e33d8"
INCEPTION_SHA256 = "6726825d"  # the eight leading digits that torch-fidelity's file name promises

_BASE_CHANNELS = (64, 128, 256)
_BATCH_SIZE = 256  # images made and read at a time; Inception's activations of so many take 5 GB of a GPU
# On a CPU the activations of so few images stay in the last-level cache, and in blocks that the allocator uses
# again instead of mapping fresh pages: Inception took up to 2.5 times as long with 64 at once.
_CPU_IMAGES_AT_ONCE = {"inception": 8, "classifier": 64}


class ScorerNet(nn.Module):
    """A plain CNN classifier: three stages of two 3x3 convolutions with batch norm and ReLU, pooling between.

    Channels are 64, 128, 256 times `width`. Stage three is averaged over space: these are the features.
    """

    def __init__(self, num_classes: int, image_size: int, width: float) -> None:
        super().__init__()
        self.image_size = image_size
        channels = [max(4, round(base * width)) for base in _BASE_CHANNELS]
        stages: list[nn.Module] = []
        previous = 3
        for stage, current in enumerate(channels):
            stages += [nn.MaxPool2d(2)] if stage else []
            for _ in range(2):
                stages.append(nn.Conv2d(previous, current, 3, padding=1, bias=False))
                stages += [nn.BatchNorm2d(current), nn.ReLU()]
                previous = current
        self.body = nn.Sequential(*stages)
        self.head = nn.Linear(previous, num_classes)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, D) and logits (B, C) of uint8 images (B, 3, H, H)."""
        features_BD = self.body(to_unit_range(images)).mean(dim=(2, 3))
        return features_BD, self.head(features_BD)


def encode_scorer(tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> bytes:
    """A ScorerNet's state and its description as one safetensors file; metadata as `train_scorer` makes it."""
    # One entry holding all as JSON: safetensors writes several in an order that differs between processes, and
    # equal scorers must be equal files.
    description = canonical_json({**metadata, "format_version": FORMAT_VERSION}).decode()
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    return safetensors.torch.save(contiguous, {FORMAT: description})


def decode_scorer(content: bytes, origin: str) -> tuple[ScorerNet, dict[str, Any]]:
    """The network in eval mode and the metadata of a scorer file; ScorerError when it is something else."""
    try:
        tensors = safetensors.torch.load(content)
        metadata = _header_metadata(content)
        if metadata["format_version"] != FORMAT_VERSION:
            raise ValueError(f"format version {metadata['format_version']}")
        with torch.random.fork_rng(devices=[]):  # layers draw initial weights from the global generator
            net = ScorerNet(len(metadata["class_names"]), metadata["image_size"], metadata["width"])
        net.load_state_dict(tensors)
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise ScorerError(
            f"{origin}: expected a scorer file ({FORMAT}, version {FORMAT_VERSION}), got something else: {error}"
        ) from error
    return net.eval().requires_grad_(False), metadata


def _header_metadata(content: bytes) -> dict[str, Any]:
    # safetensors reads metadata only from a path, and the path may no longer hold the bytes that were hashed.
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    metadata: dict[str, Any] = json.loads(header["__metadata__"][FORMAT])
    return metadata


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


def locate_weights(name: str, *, weights: Path | None, download: bool, cache_dir: Path) -> Path:
    """The weights file of protocol `name`: `weights` if given, else its usual place.

    The shipped scorer lies in this package, Inception in torch hub's cache (fetched there, its hash checked,
    only if `download`), `classifier:<name>` in `cache_dir`/scorers/<name>.safetensors. Raises ScorerError
    where there is no such file.
    """
    settings = protocol_settings(name)
    if name == "digits-v1":
        place = Path(__file__).parent / "weights" / "digits-v1.safetensors"
        ways = "install the package again, or set evaluation.weights to a copy of the file"
    elif settings.extractor == SCORER_NET:
        place = cache_dir / "scorers" / f"{classifier_name(name)}.safetensors"
        ways = "train it there with `gan-mhe scorer train`, or set evaluation.weights to a scorer file"
    else:
        place = Path(torch.hub.get_dir()) / "checkpoints" / URL_INCEPTION_V3.rpartition("/")[2]
        ways = f"set evaluation.weights to a copy of {URL_INCEPTION_V3}, or evaluation.download = true"
        if weights is None and download and not place.exists():
            _download_inception(place)
    chosen = place if weights is None else weights
    if not chosen.is_file():
        raise ScorerError(
            f"evaluation.protocol {name}: the weights of its {settings.extractor} are missing, "
            f"there is no file {chosen}; {ways}"
        )
    return chosen


def _download_inception(place: Path) -> None:
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(URL_INCEPTION_V3, str(place), INCEPTION_SHA256, progress=False)
    except (urllib.error.URLError, OSError, RuntimeError) as error:
        raise ScorerError(
            f"evaluation.download: cannot fetch {URL_INCEPTION_V3} to {place}: {error}; "
            "set evaluation.weights to a copy of the file"
        ) from error


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
