"""Scores of generators against one set of real images under one pinned protocol."""

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor

from gan_mhe.config.protocols import protocol_settings, too_few_samples
from gan_mhe.data.datasets import ImageSet
from gan_mhe.data.pixels import to_uint8
from gan_mhe.errors import ExtractorError, MemoryLimitError, is_out_of_memory
from gan_mhe.evaluation import scores
from gan_mhe.evaluation.extractors import Extractor, load_extractor
from gan_mhe.evaluation.feature_metrics import RealStatistics, ScoreInputs
from gan_mhe.evaluation.metrics import score_computations
from gan_mhe.evaluation.protocol import Protocol, pin_protocol
from gan_mhe.evaluation.weights import locate_weights
from gan_mhe.files import canonical_json, sha256_bytes, write_cached
from gan_mhe.records.events import RunControl, StopRequested

_STATISTICS = tuple(field.name for field in dataclasses.fields(RealStatistics))
_LATENTS_AT_ONCE = 2**22  # numbers drawn and copied to the device in one piece: 32 MiB
_CACHE_FORMAT = "reference-2"  # part of every cache key; increase it when the content of the files changes


class Evaluator:
    """Scores generators under `protocol`; keeps the extractor and the features of the real images in memory."""

    def __init__(
        self,
        protocol: Protocol,
        extractor: Extractor,
        reference: dict[str, Tensor],
        image_shape: tuple[int, ...],
        device: torch.device,
        notes: tuple[str, ...] = (),
    ) -> None:
        """Use `build` instead. reference: what `reference_features` returns, on the CPU."""
        self.protocol = protocol
        self.notes = notes
        """Messages about what the scores mean that the user should see."""
        self._extractor = extractor
        self._real_logits = reference["logits"]
        self._real_features = reference["features"].to(device)
        self._statistics = RealStatistics(**{name: reference[name] for name in _STATISTICS}).to(device)
        self._image_shape = image_shape
        self._device = device
        self._real_scores: dict[str, float] | None = None

    @classmethod
    def build(
        cls,
        name: str,
        *,
        images: ImageSet,
        num_samples: int | None,
        ema: bool,
        weights: Path | None,
        download: bool,
        cache_dir: Path,
        device: torch.device,
    ) -> "Evaluator":
        """Load the extractor of protocol `name` and compute the features of the real `images`.

        num_samples: replaces the protocol's own number and so changes all fingerprints; ema: whether the scored
        generators are moving averages, which is only recorded; weights: the extractor's weights file, None for its
        default path; download: whether to download missing Inception weights.

        Features of the real images are computed once and cached in `cache_dir`/reference.

        Raises ConfigError for an unknown protocol or too few samples; ExtractorError if the weights are missing, have
        another hash than the protocol pins, are for images of another size, or cannot tell images apart;
        MemoryLimitError if memory runs out.
        """
        path = locate_weights(name, weights=weights, download=download, cache_dir=cache_dir)
        extractor = load_extractor(name, path, device=device)
        side = images.images.shape[-1]
        if extractor.image_size not in (None, side):
            raise ExtractorError(
                f"evaluation.protocol {name}: expected images of {extractor.image_size} pixels, as its extractor was "
                f"trained on; {images.name} has {side}"
            )
        protocol = pin_protocol(
            name,
            weights_sha256=extractor.weights_sha256,
            reference_sha256=images.content_sha256,
            reference_samples=len(images.images),
            ema=ema,
            num_samples=num_samples,
            num_classes=extractor.num_classes,
        )
        with _memory_named(f"evaluation.protocol {name}: the features of {side} pixel images", extractor):
            reference = reference_features(extractor, images.images, protocol, cache_dir=cache_dir, device=device)
        notes = meaning(protocol, extractor, images)
        return cls(protocol, extractor, reference, tuple(images.images.shape[1:]), device, notes)

    def score(
        self,
        generate: Callable[[Tensor], Tensor],
        *,
        latent_dim: int,
        latent_seed: int,
        control: RunControl | None = None,
    ) -> dict[str, float]:
        """The scores of a generator, by name.

        generate: maps latents float32 (B, latent_dim) on the evaluator's device to images float (B, 3, H, W) in
        [-1, 1], which `to_uint8` quantizes. Gradients, autocast and TF32 are off during the call. The caller sets the
        generator to eval mode and back. Latents come from numpy's RandomState(latent_seed), whatever the batch size;
        global random generators stay as they are. control: asked before every batch and before the metrics.

        All scores are NaN if an image has a non-finite value. Raises ExtractorError if the images have another shape
        than the real ones, StopRequested if `control` wants a stop, MemoryLimitError if memory runs out.
        """
        finite = torch.ones((), dtype=torch.bool, device=self._device)

        def batches() -> Iterator[Tensor]:
            for latents in self._latents(latent_dim, latent_seed):
                _stop_if_wanted(control)
                made = generate(latents)
                if tuple(made.shape) != (len(latents), *self._image_shape):
                    raise ExtractorError(
                        f"the generator: expected images of shape {(len(latents), *self._image_shape)}, as the real "
                        f"ones have; got {tuple(made.shape)}"
                    )
                finite.logical_and_(torch.isfinite(made).all())
                yield to_uint8(made)

        with _memory_named(f"evaluation.num_samples = {self.protocol.num_samples:,}: a score", self._extractor):
            fake = scores.extract(self._extractor.network, batches(), self._device)
            _stop_if_wanted(control)
            if not finite.item():
                return dict.fromkeys(score_computations(), math.nan)
            return scores.compute_scores(self._inputs(fake["logits"], fake["features"]))

    def bytes_needed(self, num_samples: int) -> int:
        """Bytes of the features and logits of so many generated images: in parts, and then in one piece."""
        return 2 * 4 * num_samples * (self._real_features.shape[1] + self._real_logits.shape[1])

    def _latents(self, latent_dim: int, latent_seed: int) -> Iterator[Tensor]:
        # The stream does not depend on the pieces it is drawn in. A piece is many batches, because its copy to the
        # device waits for the batches before it.
        stream, left, batch = np.random.RandomState(latent_seed), self.protocol.num_samples, self._extractor.batch_size
        piece = batch * max(1, _LATENTS_AT_ONCE // (batch * latent_dim))
        while left > 0:
            drawn = stream.randn(min(piece, left), latent_dim)
            yield from torch.split(torch.from_numpy(drawn).float().to(self._device), batch)
            left -= len(drawn)

    def _inputs(self, logits_NC: Tensor, features_ND: Tensor) -> ScoreInputs:
        return ScoreInputs(logits_NC, features_ND, self._real_features, self._statistics, self.protocol)

    def real_scores(self) -> dict[str, float]:
        """The scores of the real images, by name; computed once.

        A metric that reads the generated images alone is computed for as many real images as are generated, a random
        choice of them, or for all if there are no more: its name is its own. It is left out if the real images are too
        few for the protocol. A metric that compares is computed for one random half of all real images against the
        other: its name ends in `_between_halves`. Such a value is no lower bound for generators, because a half has
        fewer images and FID grows as their number shrinks.
        """
        if self._real_scores is None:
            halves = scores.compute_scores(self._halves(), score_computations(compares=True))
            self._real_scores = {
                **self._real_scores_alone(),
                **{f"{name}_between_halves": value for name, value in halves.items()},
            }
        return dict(self._real_scores)

    def _real_scores_alone(self) -> dict[str, float]:
        """The scores that read one set of images: of as many real images as are generated."""
        count = min(self.protocol.num_samples, self.protocol.reference_samples)
        if too_few_samples(self.protocol.name, count, self._extractor.num_classes):
            return {}
        logits, features = self._real_logits.to(self._device), self._real_features
        if count < self.protocol.reference_samples:
            chosen = self._real_order()[:count]
            logits, features = logits[chosen], features[chosen]
        return scores.compute_scores(self._inputs(logits, features), score_computations(compares=False))

    def _real_order(self) -> NDArray[Any]:
        """The real images in random order."""
        return np.random.RandomState(self.protocol.shuffle_seed).permutation(self.protocol.reference_samples)

    def _halves(self) -> ScoreInputs:
        """One random half of the real images in place of generated ones, and the other half as the real images."""
        order = self._real_order()
        first, second = order[: len(order) // 2], order[len(order) // 2 :]
        size = min(self.protocol.kid_subset_size, len(first))
        real = self._real_features[second]
        return ScoreInputs(
            self._real_logits[first].to(self._device),
            self._real_features[first],
            real,
            scores.real_statistics(real, self.protocol),
            dataclasses.replace(self.protocol, kid_subset_size=size),
        )


def meaning(protocol: Protocol, extractor: Extractor, images: ImageSet) -> tuple[str, ...]:
    """Notices about scores that mean less than they seem to: few images, a classifier of other data, few real images.

    The counts that a protocol and its own data set have by themselves need no notice.
    """
    found = []
    capped = too_few_samples(protocol.name, protocol.num_samples)
    if capped:  # a run of an older version
        found.append(f"evaluation.num_samples: {capped}; its Inception scores are capped")
    facts, settings = extractor.facts, protocol_settings(protocol.name)
    mismatch = facts and facts.mismatch(images.name, images.class_names, images.content_sha256)
    if mismatch:
        found.append(f"evaluation.protocol {protocol.name}: {mismatch}")
    own = settings.data == images.name and protocol.num_samples == settings.num_samples
    if protocol.reference_samples < protocol.num_samples and not own:
        few = too_few_samples(protocol.name, protocol.reference_samples, extractor.num_classes)
        shown = "they have none" if few else "theirs is too low beside that of the generator"
        found.append(
            f"evaluation.num_samples: {protocol.num_samples:,} images are generated, but only "
            f"{protocol.reference_samples:,} are real; the Inception score rises with their number: {shown}"
        )
    return tuple(found)


def _stop_if_wanted(control: RunControl | None) -> None:
    if control is not None and control.should_stop():
        raise StopRequested


@contextmanager
def _memory_named(what: str, extractor: Extractor) -> Iterator[None]:
    """Turn a failed allocation in the body into a MemoryLimitError that says `what` needed the memory."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise MemoryLimitError(
            f"{what} ran out of memory, with {extractor.batch_size} images at once: {error or type(error).__name__}; "
            "fewer samples or a smaller generator need less"
        ) from error


def reference_features(
    extractor: Extractor, images: Tensor, protocol: Protocol, *, cache_dir: Path, device: torch.device
) -> dict[str, Tensor]:
    """Features, logits and the fields of RealStatistics of real images uint8 (M, 3, H, H), on the CPU, cached on disk.

    The file name is a hash of everything that the content depends on; a damaged file is replaced. Raises ExtractorError
    if a feature is not finite.
    """
    key = reference_key(protocol, device)
    path = cache_dir / "reference" / f"{key}.safetensors"
    cached = _read_cache(path)
    if cached is not None:
        return cached
    found = scores.extract(extractor.network, torch.split(images, extractor.batch_size), device)
    if not scores.all_finite(*found.values()):
        raise ExtractorError(
            f"evaluation.protocol {protocol.name}: expected finite features of the real images, got NaN or infinity "
            f"from its {protocol.extractor}; the weights are damaged or belong to another network"
        )
    statistics = scores.real_statistics(found["features"], protocol)
    found |= {name: getattr(statistics, name) for name in _STATISTICS}
    reference = {name: tensor.cpu().contiguous() for name, tensor in found.items()}
    write_cached(path, safetensors.torch.save(reference, {"sha256": _digest(reference)}))
    return reference


def reference_key(protocol: Protocol, device: torch.device) -> str:
    """Hash of everything that the features and statistics of the real images depend on."""
    depends_on = {
        "format": _CACHE_FORMAT,
        "images": protocol.reference_sha256,
        "extractor": protocol.extractor,
        "weights": protocol.weights_sha256,
        "resize": protocol.resize,
        "precision": protocol.precision,
        "neighbourhood": protocol.prc_neighborhood,  # spelled as in the keys of existing caches
        "torch_fidelity": protocol.torch_fidelity,
        "torch": torch.__version__,
        "device": device.type,
    }
    return sha256_bytes(canonical_json(depends_on))


def _digest(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        array = tensors[name].contiguous().numpy()
        digest.update(json.dumps([name, str(array.dtype), array.shape]).encode())
        digest.update(array.data)
    return digest.hexdigest()


def _read_cache(path: Path) -> dict[str, Tensor] | None:
    """The tensors, or None if the file is missing or damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
            expected = (file.metadata() or {}).get("sha256")
    except (OSError, SafetensorError):
        return None
    return tensors if _digest(tensors) == expected else None
