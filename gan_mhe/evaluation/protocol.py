"""A protocol with its weights and real images fixed: every setting that changes a score. Loads no torch."""

import importlib.metadata
from collections.abc import Collection
from dataclasses import dataclass

from gan_mhe.config.protocols import protocol_settings, too_few_samples
from gan_mhe.errors import ConfigError, ExtractorError
from gan_mhe.files import canonical_json, sha256_bytes

_MAX_KID_SUBSET_SIZE = 1000

# The real images count for the Inception score too: tables show the score of the real images beside it.
SHARED_SETTINGS = (
    *("name", "extractor", "weights_sha256", "resize", "torch_fidelity", "precision"),
    *("reference_sha256", "reference_samples"),
    *("num_samples", "ema", "latents", "quantization", "generator_mode"),
)
"""Fields of `Protocol` that change every score."""


@dataclass(frozen=True)
class Protocol:
    """Every setting that changes a score, except the generator and the seed of its latents."""

    name: str
    """Name of the protocol in the configuration."""
    extractor: str
    """Kind of the feature extractor."""
    weights_sha256: str
    """Hash of the extractor's weights file."""
    reference_sha256: str
    """Hash of the real images."""
    reference_samples: int
    """Number of real images."""
    num_samples: int
    """Number of generated images."""
    splits: int
    """Parts of the samples that the Inception score is averaged over."""
    resize: str
    """How images reach the extractor's input size."""
    kid_subsets: int
    """Pairs of subsets that KID is averaged over."""
    kid_subset_size: int
    """Images in such a subset."""
    ema: bool
    """Whether the moving average of the generator is scored."""
    torch_fidelity: str
    """Version of torch-fidelity."""
    shuffle_seed: int = 2020
    """Seed of the order in which samples are split, and of the KID subsets."""
    kid_degree: int = 3
    """Degree of KID's kernel (x.y/D + 1)^degree."""
    prc_neighborhood: int = 3
    """Precision and recall compare distances with that to the neighbor of this rank."""
    latents: str = "numpy RandomState, standard normal, float32"
    """How latents are drawn."""
    quantization: str = "floor(127.5x+128) clamped to 0..255"
    """How images x in [-1, 1] become uint8."""
    precision: str = "float32, TF32 off, autocast off"
    """Arithmetic of the generator and the extractor."""
    generator_mode: str = "eval, running statistics"
    """Mode of the generator."""

    def fingerprint(self, metric: str, settings: Collection[str]) -> str:
        """Hexadecimal SHA-256 of the name of a metric and the settings that change it.

        settings: fields that change this metric besides `SHARED_SETTINGS`.
        """
        values = {name: getattr(self, name) for name in (*SHARED_SETTINGS, *settings)}
        return sha256_bytes(canonical_json({"metric": metric, "protocol": values}))


def pin_protocol(
    name: str,
    *,
    weights_sha256: str,
    reference_sha256: str,
    reference_samples: int,
    ema: bool,
    num_samples: int | None = None,
    num_classes: int | None = None,
) -> Protocol:
    """The protocol `name` for one weights file and one set of real images, both given by their hashes.

    num_samples: replaces the protocol's own number and so changes all fingerprints. KID subsets are at most as large as
    either set of images. num_classes: of a classifier, None for other extractors. Raises ConfigError for an unknown
    name or too few samples for the number of classes, ExtractorError for too few real images. Fewer samples than any
    configuration may have are only in stored ones of older versions, whose runs must be able to continue.
    """
    settings = protocol_settings(name)
    count = settings.num_samples if num_samples is None else num_samples
    lack = too_few_samples(name, count, num_classes)
    if lack and not too_few_samples(name, count):  # what a configuration cannot know; stored ones may have fewer still
        raise ConfigError(f"evaluation.num_samples: {lack}")
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
    # The real images are also scored themselves, one half against the other.
    needed = max(protocol.splits, 2 * (protocol.prc_neighborhood + 1))
    if reference_samples < needed:
        raise ExtractorError(
            f"evaluation.protocol {name}: expected at least {needed} real images, got {reference_samples}"
        )
    return protocol
