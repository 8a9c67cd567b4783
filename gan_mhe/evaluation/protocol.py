"""Named evaluation protocols: everything that changes a score, as closed data with a fingerprint.

Two scores may be compared only if their fingerprints are equal. No torch here: comparing results needs none.
"""

import importlib.metadata
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType

from gan_mhe.errors import ConfigError, ScorerError
from gan_mhe.files import canonical_json, sha256_bytes

CLASSIFIER_PREFIX = "classifier:"
METRICS = ("inception_score", "inception_score_split_std", "fid", "kid", "precision", "recall")

_MAX_KID_SUBSET_SIZE = 1000
_CLASSIFIER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")  # becomes a file name: no dots, no slashes


@dataclass(frozen=True)
class ProtocolSettings:
    """What a protocol's name alone decides.

    extractor: the feature extractor, `inception-v3-compat` or `scorer-net`; splits: of the Inception score;
    resize: how images reach the extractor's own size.
    """

    extractor: str
    num_samples: int
    splits: int
    resize: str
    kid_subsets: int


_UNRESIZED = "none, the extractor is made for the image size"

_SETTINGS: Mapping[str, ProtocolSettings] = MappingProxyType(
    {
        # Salimans et al. 2016 and Heusel et al. 2017 as everybody reports them: 50,000 images, the 2015 weights,
        # TensorFlow 1's bilinear resize without half-pixel centres, logits without bias, 10 splits.
        "inception-2015": ProtocolSettings(
            extractor="inception-v3-compat",
            num_samples=50_000,
            splits=10,
            resize="TensorFlow 1 bilinear to 299x299",
            kid_subsets=100,
        ),
        # Fewer KID subsets keep a score of 2,000 images under two seconds on one core.
        "digits-v1": ProtocolSettings("scorer-net", 2_000, 10, _UNRESIZED, kid_subsets=20),
        CLASSIFIER_PREFIX: ProtocolSettings("scorer-net", 10_000, 10, _UNRESIZED, kid_subsets=100),
    }
)


def protocol_settings(name: str) -> ProtocolSettings:
    """The settings of the protocol called `name`; ConfigError when there is none."""
    if name.startswith(CLASSIFIER_PREFIX):
        if _CLASSIFIER_NAME.fullmatch(classifier_name(name)):
            return _SETTINGS[CLASSIFIER_PREFIX]
    elif name in _SETTINGS:
        return _SETTINGS[name]
    known = ", ".join(key for key in _SETTINGS if key != CLASSIFIER_PREFIX)
    raise ConfigError(
        f"evaluation.protocol: unknown protocol {name!r}; expected one of {known}, or {CLASSIFIER_PREFIX}<name> "
        "with a name of letters, digits, '-' and '_'"
    )


def classifier_name(name: str) -> str:
    """The <name> of `classifier:<name>`."""
    return name.removeprefix(CLASSIFIER_PREFIX)


@dataclass(frozen=True)
class Protocol:
    """Everything that changes a score, save the generator and the seed of its latents.

    weights_sha256: of the extractor's weights file; reference_sha256: content of the real images; shuffle_seed:
    of the order in which samples are cut into splits, and of the KID subsets; kid_degree: of the polynomial
    kernel (x.y/D + 1)^degree; prc_neighbourhood: which nearest neighbour bounds a ball.
    """

    name: str
    extractor: str
    weights_sha256: str
    reference_sha256: str
    reference_samples: int
    num_samples: int
    splits: int
    resize: str
    kid_subsets: int
    kid_subset_size: int
    ema: bool
    torch_fidelity: str
    shuffle_seed: int = 2020
    kid_degree: int = 3
    prc_neighbourhood: int = 3
    latents: str = "numpy RandomState, standard normal, float32"
    quantisation: str = "floor(127.5x+128) clamped to 0..255"
    precision: str = "float32, TF32 off, autocast off"
    generator_mode: str = "eval, running statistics"
    metrics: tuple[str, ...] = METRICS

    def fingerprint(self) -> str:
        """Hexadecimal SHA-256 of all fields as canonical JSON."""
        return sha256_bytes(canonical_json(asdict(self)))

    def describe(self) -> str:
        """One line for people."""
        return (
            f"{self.name} [{self.fingerprint()[:8]}]: {self.num_samples:,} samples in {self.splits} splits, "
            f"{self.extractor} {self.weights_sha256[:8]}, against {self.reference_samples:,} real images "
            f"{self.reference_sha256[:8]}, EMA {'on' if self.ema else 'off'}, {self.precision}"
        )


def pin_protocol(
    name: str,
    *,
    weights_sha256: str,
    reference_sha256: str,
    reference_samples: int,
    ema: bool,
    num_samples: int | None = None,
) -> Protocol:
    """The named protocol with its extractor's weights and its real images pinned by content.

    `num_samples` replaces the protocol's own number, which makes it another protocol; KID subsets shrink to
    what both sides hold. Raises ConfigError for an unknown name or fewer samples than splits, ScorerError when
    there are too few real images to be scored themselves.
    """
    settings = protocol_settings(name)
    count = settings.num_samples if num_samples is None else num_samples
    if count < settings.splits:
        raise ConfigError(
            f"evaluation.num_samples: {name} cuts samples into {settings.splits} splits and needs at least "
            f"as many; got {count}"
        )
    protocol = Protocol(
        name=name,
        extractor=settings.extractor,
        weights_sha256=weights_sha256,
        reference_sha256=reference_sha256,
        reference_samples=reference_samples,
        num_samples=count,
        splits=settings.splits,
        resize=settings.resize,
        kid_subsets=settings.kid_subsets,
        kid_subset_size=min(_MAX_KID_SUBSET_SIZE, count, reference_samples),
        ema=ema,
        torch_fidelity=importlib.metadata.version("torch-fidelity"),
    )
    # Each half of the real images needs a neighbour of the given rank for every image.
    needed = max(protocol.splits, 2 * (protocol.prc_neighbourhood + 1))
    if reference_samples < needed:
        raise ScorerError(f"{name}: expected at least {needed} real images, got {reference_samples}")
    return protocol
