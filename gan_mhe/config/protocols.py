"""Evaluation protocols: one table with everything that the name of a protocol decides. Loads no torch."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from gan_mhe.errors import ConfigError

CLASSIFIER_PREFIX = "classifier:"
"""Protocols with this prefix score with a classifier that the user has trained."""

_CLASSIFIER = f"{CLASSIFIER_PREFIX}<name>"
_CLASSIFIER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")  # becomes a file name: no dots, no slashes


@dataclass(frozen=True)
class ProtocolSettings:
    """What the name of a protocol decides."""

    extractor: str
    """Kind of the feature extractor, a key of `gan_mhe.evaluation.extractors.EXTRACTORS`."""
    num_samples: int
    """Generated images in a score."""
    splits: int
    """Parts of the samples that the Inception score is averaged over."""
    resize: str
    """How images reach the extractor's input size."""
    kid_subsets: int
    """Pairs of subsets that KID is averaged over."""
    images_per_split: int = 2
    """Fewest images of a split; see `smallest_num_samples`."""
    values_per_image: int = 1
    """Features and logits that a score keeps of each generated image, at the least."""
    smallest_skill: float = 0.25
    """Smallest (accuracy - chance) / (1 - chance) of a classifier on held-out images, where its file states it."""
    data: str | None = None
    """The data set that it is made for, whose runs it scores by default; None if the user decides."""
    image_size: int | None = None
    """The only image size that the protocol scores, in pixels; None where the extractor's weights decide."""
    weights_file: str | None = None
    """Weights file that ships with the package, in `gan_mhe/evaluation/weights/`."""
    weights_url: str | None = None
    """Where missing weights are downloaded from if `evaluation.download` is set.

    Without file and URL the weights are a classifier of the user's in the cache directory.
    """
    weights_sha256: str = ""
    """Leading hexadecimal digits that the SHA-256 of the weights file must have; empty accepts any file."""

    def smallest_num_samples(self, num_classes: int | None = None) -> int:
        """The fewest generated images of a score.

        The Inception score of a split of n images is at most n, whatever they show: with one image it is exactly 1. So
        a split has at least as many images as the score could reach.

        num_classes: of the classifier whose weights are used, None if unknown.
        """
        return self.splits * max(self.images_per_split, num_classes or 0)


_UNRESIZED = "none, the extractor is made for the image size"

PROTOCOLS: Mapping[str, ProtocolSettings] = MappingProxyType(
    {
        "digits-v1": ProtocolSettings(
            extractor="scorer-net",
            num_samples=2_000,
            splits=10,
            resize=_UNRESIZED,
            kid_subsets=20,  # keeps a score under two seconds on one CPU core
            images_per_split=10,  # as many as classes
            values_per_image=48 + 10,
            data="digits",
            image_size=32,
            # `train_classifier` on the digits with width 0.1875, 100 epochs, seed 0. Training on another processor
            # differs in the last bits and so in the hash and all fingerprints; therefore the file ships.
            weights_file="digits-v1.safetensors",
            weights_sha256="ceb29dcfa245304846075799e3d4a0546cc73e3bdbf4d18c8526ce33646e33d8",
        ),
        # Salimans et al. 2016 and Heusel et al. 2017 as usually reported: 50,000 images, the weights of 2015,
        # TensorFlow 1's bilinear resize without half-pixel centers, logits without bias, 10 splits.
        "inception-2015": ProtocolSettings(
            extractor="inception-v3-compat",
            num_samples=50_000,
            splits=10,
            resize="TensorFlow 1 bilinear to 299x299",
            kid_subsets=100,
            # Of the 1,008 classes one data set shows few: no published score of photographs of 32 to 64 pixels, real
            # ones included, reaches 100.
            images_per_split=100,
            values_per_image=2048 + 1008,
            weights_url="https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
            "weights-inception-2015-12-05-6726825d.pth",
            weights_sha256="6726825d",
        ),
        _CLASSIFIER: ProtocolSettings(
            extractor="scorer-net",
            num_samples=10_000,
            splits=10,
            resize=_UNRESIZED,
            kid_subsets=100,
            values_per_image=4 + 2,  # of the smallest classifier
        ),
    }
)
"""All protocols; `classifier:<name>` stands for the protocol of every trained classifier."""


def find_protocol(name: str) -> ProtocolSettings | None:
    """The settings of the protocol `name`, None if there is no such protocol."""
    if name.startswith(CLASSIFIER_PREFIX):
        return PROTOCOLS[_CLASSIFIER] if _CLASSIFIER_NAME.fullmatch(classifier_name(name)) else None
    return PROTOCOLS.get(name)


def protocol_settings(name: str) -> ProtocolSettings:
    """The settings of the protocol `name`. Raises ConfigError if there is no such protocol."""
    found = find_protocol(name)
    if found is None:
        raise ConfigError(f"evaluation.protocol: {unknown_protocol(name)}")
    return found


def default_protocol(data: str) -> str:
    """The protocol that scores runs on the data set `data` unless they name another: the one made for it, or `none`."""
    return next((name for name, settings in PROTOCOLS.items() if settings.data == data), "none")


def too_few_samples(name: str, num_samples: int, num_classes: int | None = None) -> str | None:
    """Why the protocol `name` cannot score so few images, with the smallest number allowed; None if it can.

    num_classes: of the classifier whose weights are used, None if unknown.
    """
    settings = protocol_settings(name)
    smallest = settings.smallest_num_samples(num_classes)
    if num_samples >= smallest:
        return None
    return (
        f"expected at least {smallest:,}, because the Inception score of {name} is a mean of {settings.splits} splits "
        f"and that of a split of n images cannot exceed n: at least {smallest // settings.splits} images each; "
        f"got {num_samples}"
    )


def unknown_protocol(name: str) -> str:
    """The error message for a name that is no protocol."""
    return (
        f"unknown protocol {name!r}; expected one of none, {', '.join(PROTOCOLS)}, "
        "where <name> consists of letters, digits, '-' and '_'"
    )


def classifier_name(name: str) -> str:
    """The `<name>` of `classifier:<name>`."""
    return name.removeprefix(CLASSIFIER_PREFIX)


def classifier_file(name: str, cache_dir: Path) -> Path:
    """The file in which `gan-mhe scorer train NAME` leaves the weights of the classifier `name`."""
    return cache_dir / "scorers" / f"{name}.safetensors"
