"""Features of images from a torch-fidelity extractor, and scores of features.

Only the library's networks are used, on tensors in memory. Its own entry point has habits that change a score silently:
a cache keyed by names instead of content, a float64 option without effect, autocast and TF32 inherited from the caller,
forking loaders, generators left in eval mode, and precision and recall on another network. A test checks that it gives
the same values all the same.
"""

import contextlib
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from gan_mhe.evaluation.feature_metrics import RealStatistics, ScoreInputs
from gan_mhe.evaluation.metrics import Compute, score_computations
from gan_mhe.evaluation.protocol import Protocol
from gan_mhe.tf32 import CPU, CUDA, float32_precision


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """Turn off TF32, bfloat16 products and autocast for float32 arithmetic; restore the settings afterwards."""
    full = float32_precision("ieee", CUDA + CPU)
    with full, torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
        yield


def extract(network: Any, batches: Iterable[Tensor], device: torch.device) -> dict[str, Tensor]:
    """Features (N, D) and logits (N, C), float32 on `device`, of all uint8 batches (B, 3, H, W).

    network: a torch-fidelity feature extractor in eval mode on `device`; "features" is the layer it uses for FID,
    "logits" the one for the Inception score. Gradients, autocast and TF32 are off, also while `batches` are made. The
    batch size changes results by float32 rounding at most.
    """
    layers = {
        "features": network.get_default_feature_layer_for_metric("fid"),
        "logits": network.get_default_feature_layer_for_metric("isc"),
    }
    collected: dict[str, list[Tensor]] = {name: [] for name in layers}
    with full_precision(), torch.no_grad():
        for batch in batches:
            found = network.convert_features_tuple_to_dict(network(batch.to(device)))
            for name, layer in layers.items():
                collected[name].append(found[layer])
        return {name: torch.cat(parts).float() for name, parts in collected.items()}


def real_statistics(real_MD: Tensor, protocol: Protocol) -> RealStatistics:
    """The statistics of real features (M, D) that the metrics of `protocol` need."""
    with full_precision():
        return RealStatistics.of(real_MD, protocol.prc_neighborhood)


def compute_scores(inputs: ScoreInputs, computations: Mapping[str, Compute] | None = None) -> dict[str, float]:
    """The scores of `inputs` by name; all of them are NaN if a feature or logit of a generated image is not finite.

    computations: which scores, by default all that `metrics.METRICS` defines.
    """
    chosen = score_computations() if computations is None else computations
    if not all_finite(inputs.fake_ND, inputs.logits_NC):
        return dict.fromkeys(chosen, math.nan)
    with full_precision():
        values = [compute(inputs) for compute in chosen.values()]
    return dict(zip(chosen, torch.stack(values).tolist(), strict=True))  # one copy to the host


def all_finite(*tensors: Tensor) -> bool:
    """Whether no element of any tensor is infinite or NaN."""
    return bool(torch.stack([torch.isfinite(tensor).all() for tensor in tensors]).all())
