"""Scores of a generator against a set of real images under one pinned protocol."""

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from gan_mhe.data.datasets import ImageSet
from gan_mhe.data.pixels import to_uint8
from gan_mhe.errors import ScorerError
from gan_mhe.evaluation import scores
from gan_mhe.evaluation.extractors import Scorer, load_scorer
from gan_mhe.evaluation.feature_metrics import RealStatistics
from gan_mhe.evaluation.protocol import Protocol, pin_protocol, protocol_settings
from gan_mhe.evaluation.weights import locate_weights
from gan_mhe.files import atomic_write, canonical_json, sha256_bytes

_STATISTICS = tuple(field.name for field in dataclasses.fields(RealStatistics))
_CACHE_FORMAT = "reference-2"  # part of every cache key; another content needs another number


class Evaluator:
    """Scores generators under `protocol`, with the extractor and the real images' features held ready."""

    def __init__(
        self,
        protocol: Protocol,
        scorer: Scorer,
        reference: dict[str, Tensor],
        image_shape: tuple[int, ...],
        device: torch.device,
    ) -> None:
        """Take the parts that `build` puts together; `reference` as `reference_features` gives it, on the CPU."""
        self.protocol = protocol
        self._scorer = scorer
        self._logits = reference["logits"]
        self._real = {"features": reference["features"].to(device)}
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
        """The evaluator of protocol `name` against all of `images`.

        num_samples: instead of the protocol's own number, which makes it another protocol; ema: whether what is
        scored is a moving average (recorded, nothing else); weights: the extractor's file, unless in its usual
        place; download: whether missing Inception weights may be fetched.

        Features of the real images are computed once and kept in `cache_dir`/reference.

        Raises ConfigError for an unknown protocol or too few samples; ScorerError for weights that are missing
        or other than pinned, and for images of a size the extractor was not made for.
        """
        protocol_settings(name)
        path = locate_weights(name, weights=weights, download=download, cache_dir=cache_dir)
        scorer = load_scorer(name, path, device=device)
        side = images.images.shape[-1]
        if scorer.image_size not in (None, side):
            raise ScorerError(
                f"evaluation.protocol {name}: its scorer was made for images of {scorer.image_size} pixels; "
                f"{images.name} has {side}"
            )
        protocol = pin_protocol(
            name,
            weights_sha256=scorer.weights_sha256,
            reference_sha256=images.content_sha256,
            reference_samples=len(images.images),
            ema=ema,
            num_samples=num_samples,
        )
        reference = reference_features(scorer, images.images, protocol, cache_dir=cache_dir, device=device)
        return cls(protocol, scorer, reference, tuple(images.images.shape[1:]), device)

    def score(self, generate: Callable[[Tensor], Tensor], *, latent_dim: int, latent_seed: int) -> dict[str, float]:
        """All metrics of the protocol for the images that `generate` makes.

        generate: latents float32 (B, latent_dim) on the evaluator's device -> float images (B, 3, H, W) in
        [-1, 1], quantised by `to_uint8`. It is called without gradients, autocast or TF32 in modules left in
        whatever mode they are: the caller puts the generator in eval mode and back. Latents come from numpy's
        RandomState(latent_seed) and do not depend on the batch size; no global generator is touched.

        A generator that gives a non-finite value has no score: every metric is NaN. Raises ScorerError for
        images of another shape than the real ones.
        """
        finite = torch.ones((), dtype=torch.bool, device=self._device)

        def batches() -> Iterator[Tensor]:
            for latents in self._latents(latent_dim, latent_seed):
                made = generate(latents)
                if tuple(made.shape) != (len(latents), *self._image_shape):
                    raise ScorerError(
                        f"the generator gave images {tuple(made.shape)}; "
                        f"expected {(len(latents), *self._image_shape)}, as the real images are"
                    )
                finite.logical_and_(torch.isfinite(made).all())
                yield to_uint8(made)

        fake = scores.extract(self._scorer.extractor, batches(), self._device)
        if not finite.item():
            return dict.fromkeys(self.protocol.metrics, math.nan)
        return scores.metrics_from_features(fake, self._real, self.protocol, statistics=self._statistics)

    def _latents(self, latent_dim: int, latent_seed: int) -> tuple[Tensor, ...]:
        # All at once: a copy to the device per batch would wait for the batches before it.
        drawn = np.random.RandomState(latent_seed).randn(self.protocol.num_samples, latent_dim)
        return torch.split(torch.from_numpy(drawn).float().to(self._device), self._scorer.batch_size)

    def real_scores(self) -> dict[str, float]:
        """What the real images score, computed once: a ceiling for the Inception score, a floor for distances.

        inception_score and inception_score_split_std are of all real images. fid_between_halves,
        kid_between_halves, precision_between_halves and recall_between_halves compare one random half with
        the other; halves are smaller than what generators are scored on, and FID is biased upwards the more
        the fewer images there are, so that these are no bounds.
        """
        if self._real_scores is None:
            features = self._real["features"]
            order = np.random.RandomState(self.protocol.shuffle_seed).permutation(len(features))
            first, second = features[order[: len(order) // 2]], features[order[len(order) // 2 :]]
            size = min(self.protocol.kid_subset_size, len(first))
            halves = scores.distances(first, second, dataclasses.replace(self.protocol, kid_subset_size=size))
            self._real_scores = {
                **scores.inception_score(self._logits.to(self._device), self.protocol),
                **{f"{name}_between_halves": value for name, value in halves.items()},
            }
        return dict(self._real_scores)


def reference_features(
    scorer: Scorer, images: Tensor, protocol: Protocol, *, cache_dir: Path, device: torch.device
) -> dict[str, Tensor]:
    """Features, logits and the fields of RealStatistics of real images uint8 (M, 3, H, H), on the CPU, cached on disk.

    The file's name is a hash of all that its content depends on; a file that does not hold what was written
    is made again. Raises ScorerError when a feature is not finite.
    """
    key = reference_key(protocol, device)
    path = cache_dir / "reference" / f"{key}.safetensors"
    cached = _read_cache(path)
    if cached is not None:
        return cached
    found = scores.extract(scorer.extractor, torch.split(images, scorer.batch_size), device)
    if not scores.all_finite(found):
        raise ScorerError(
            f"evaluation.protocol {protocol.name}: expected finite features of the real images, but its "
            f"{protocol.extractor} gives values that are not; the weights are damaged or of another network"
        )
    statistics = scores.real_statistics(found["features"], protocol)
    found |= {name: getattr(statistics, name) for name in _STATISTICS}
    reference = {name: tensor.cpu().contiguous() for name, tensor in found.items()}
    atomic_write(path, safetensors.torch.save(reference, {"sha256": _digest(reference)}))
    return reference


def reference_key(protocol: Protocol, device: torch.device) -> str:
    """Hash of what the features and the statistics of the real images depend on."""
    depends_on = {
        "format": _CACHE_FORMAT,
        "images": protocol.reference_sha256,
        "extractor": protocol.extractor,
        "weights": protocol.weights_sha256,
        "resize": protocol.resize,
        "precision": protocol.precision,
        "neighbourhood": protocol.prc_neighbourhood,
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
    """The tensors, or None when the file is missing or is not what was written."""
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
            expected = (file.metadata() or {}).get("sha256")
    except (OSError, SafetensorError):
        return None
    return tensors if _digest(tensors) == expected else None
