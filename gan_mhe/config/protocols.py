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


_UNRESIZED = "none, the extractor is made for the image size"

PROTOCOLS: Mapping[str, ProtocolSettings] = MappingProxyType(
    {
        "digits-v1": ProtocolSettings(
            extractor="scorer-net",
            num_samples=2_000,
            splits=10,
            resize=_UNRESIZED,
            kid_subsets=20,  # keeps a score under two seconds on one CPU core
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
            weights_url="https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
            "weights-inception-2015-12-05-6726825d.pth",
            weights_sha256="6726825d",
        ),
        _CLASSIFIER: ProtocolSettings(
            extractor="scorer-net", num_samples=10_000, splits=10, resize=_UNRESIZED, kid_subsets=100
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
