"""Speed of IS and FID here against torch-fidelity's own call, for the same generator and weights.

    python -m benchmarks.evaluation [--repeats 5] [--images 500] [--device auto] [--out FILE.json]

Both sides read InceptionV3 with random weights from one file; time does not depend on the weights. torch-fidelity is
called as its users call it: the generator wrapped, `isc=True, fid=True`, its defaults otherwise, its cache off. Ours is
`Evaluator.score`, which training calls for every evaluation and which also computes KID, precision and recall. The two
sides alternate. Each of the three ratios is torch-fidelity's time over ours:

    as_called     its call, which reads the weights and processes the real images each time, against a score here, where
                  both are kept between evaluations
    both_cached   its call with the real side from its own cache, against a score here
    neither       its call, against a score here that also reads the weights and processes the real images
"""

import argparse
import contextlib
import dataclasses
import io
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch_fidelity
from torch import Tensor, nn
from torch.utils.data import Dataset
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from benchmarks.machine import describe
from gan_mhe import rng
from gan_mhe.data.datasets import ImageSet, content_sha256
from gan_mhe.data.pixels import to_uint8
from gan_mhe.evaluation.evaluator import Evaluator, reference_features
from gan_mhe.evaluation.extractors import load_extractor
from gan_mhe.evaluation.protocol import pin_protocol
from gan_mhe.files import sha256_file, write_json
from gan_mhe.networks.build import build_generator

GOALS = {"as_called": 2.0}
PROTOCOL = "inception-2015"
SIDE = 32
LATENT_DIM = 128
LATENT_SEED = 2020  # torch-fidelity's own seed of its latents
REAL_NAME = "benchmark-real"


class Quantised(nn.Module):
    """A generator that returns uint8 images, as torch-fidelity's wrapper requires."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, latents: Tensor) -> Tensor:
        return to_uint8(self.network(latents))


class Bytes(Dataset[Tensor]):
    """Plain uint8 images, the only items that torch-fidelity accepts."""

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return self.images[index]


def write_random_inception(path: Path) -> None:
    """Write a state of torch-fidelity's InceptionV3 with random weights that preserve the scale of activations."""
    generator = rng.generator("cpu", 0, "benchmark/inception")
    nothing = io.BytesIO()
    torch.save({}, nothing)
    nothing.seek(0)
    with torch.random.fork_rng(devices=[]):
        state = _Untrained("random", ["2048"], feature_extractor_weights_path=nothing).state_dict()
    for tensor in state.values():
        if tensor.ndim > 1:
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * math.sqrt(2 / tensor[0].numel()))
    torch.save(state, path)


class _Untrained(FeatureExtractorInceptionV3):  # type: ignore[misc]
    """The library's network with its initial weights: it ignores every state it is given to load."""

    def load_state_dict(self, *_: Any, **__: Any) -> None:
        pass


class Contest:
    """One generator, one set of real images and one weights file, scored by both sides."""

    def __init__(self, folder: Path, images: int, device: torch.device) -> None:
        self.folder, self.images, self.device = folder, images, device
        self.weights = folder / "inception.pth"
        write_random_inception(self.weights)
        self.weights_sha256 = sha256_file(self.weights)
        stream = rng.generator("cpu", 0, "benchmark/generator")
        network = build_generator("cnn", image_size=SIDE, latent_dim=LATENT_DIM, width=1.0, generator=stream)
        self.network = network.eval().to(device)
        noise = torch.rand(images, 3, SIDE, SIDE, generator=rng.generator("cpu", 0, "benchmark/real"))
        real = (noise * 256).to(torch.uint8)
        self.real = ImageSet(REAL_NAME, real, None, (), content_sha256(real, None))

    def library(self, *, cached: bool) -> dict[str, float]:
        """torch-fidelity's own call; cached: with the features and statistics of the real images from its cache."""
        names = {"input2_cache_name": REAL_NAME, "cache_root": str(self.folder / "cache")} if cached else {}
        found = torch_fidelity.calculate_metrics(
            input1=torch_fidelity.GenerativeModelModuleWrapper(Quantised(self.network), LATENT_DIM, "normal", 0),
            input1_model_num_samples=self.images,
            input2=Bytes(self.real.images),
            cuda=self.device.type == "cuda",
            isc=True,
            fid=True,
            feature_extractor_weights_path=str(self.weights),
            cache=cached,
            verbose=False,
            **names,
        )
        return {"inception_score": found["inception_score_mean"], "fid": found["frechet_inception_distance"]}

    def evaluator(self, cache_dir: Path) -> Evaluator:
        """Our evaluator, built as `Evaluator.build` does it but with another weights file than the protocol pins."""
        extractor = load_extractor(PROTOCOL, self.weights, device=self.device, expected_sha256=self.weights_sha256)
        pinned = pin_protocol(
            PROTOCOL,
            weights_sha256=extractor.weights_sha256,
            reference_sha256=self.real.content_sha256,
            reference_samples=self.images,
            ema=False,
        )
        # Fewer images than the protocol accepts: what they cost is measured, not what they score.
        protocol = dataclasses.replace(pinned, num_samples=self.images)
        real = self.real.images
        reference = reference_features(extractor, real, protocol, cache_dir=cache_dir, device=self.device)
        return Evaluator(protocol, extractor, reference, tuple(real.shape[1:]), self.device)

    def score(self, evaluator: Evaluator) -> dict[str, float]:
        """One scheduled evaluation."""
        return evaluator.score(self.network, latent_dim=LATENT_DIM, latent_seed=LATENT_SEED)

    def from_scratch(self) -> dict[str, float]:
        """The first evaluation of a run with an empty cache."""
        with tempfile.TemporaryDirectory(dir=self.folder) as empty:
            return self.score(self.evaluator(Path(empty)))


def _timed(call: Callable[[], dict[str, float]], device: torch.device) -> tuple[float, dict[str, float]]:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    found = call()  # returns numbers on the host, so all device work is done
    return time.perf_counter() - start, found


def measure(repeats: int, *, images: int = 500, device: str = "auto") -> dict[str, Any]:
    """Times, ratios and the agreement of values, of `images` generated against as many real images of 32 x 32.

    repeats: rounds of all four calls in turn, after one that is not counted; device: "cpu", "cuda" or "auto". Raises
    ExtractorError if there are too few images for a score.
    """
    chosen = torch.device(device if device != "auto" else "cuda" if torch.cuda.is_available() else "cpu")
    seconds: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        contest = Contest(Path(name), images, chosen)
        evaluator = contest.evaluator(Path(name))
        calls: dict[str, Callable[[], dict[str, float]]] = {
            "library": lambda: contest.library(cached=False),
            "ours": lambda: contest.score(evaluator),
            "library_cached": lambda: contest.library(cached=True),
            "ours_from_scratch": contest.from_scratch,
        }
        values = {}
        for round_number in range(repeats + 1):
            for side, call in calls.items():
                with contextlib.redirect_stderr(io.StringIO()):  # the library prints about its cache there
                    took, values[side] = _timed(call, chosen)
                if round_number:  # the first round fills caches and warms up the allocator
                    seconds.setdefault(side, []).append(took)
    return {
        "images": images,
        "device": chosen.type,
        "threads": torch.get_num_threads(),
        "seconds": {side: _summary(each) for side, each in seconds.items()},
        "ratios": _ratios(seconds),
        "goals": GOALS,
        "difference": {name: abs(values["ours"][name] - value) for name, value in values["library"].items()},
    }


def _ratios(seconds: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    pairs = {
        "as_called": ("library", "ours"),
        "both_cached": ("library_cached", "ours"),
        "neither": ("library", "ours_from_scratch"),
    }
    return {
        name: _summary([theirs / ours for theirs, ours in zip(seconds[library], seconds[side], strict=True)])
        for name, (library, side) in pairs.items()
    }


def _summary(values: list[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(values), 3),
        "lowest": round(min(values), 3),
        "highest": round(max(values), 3),
    }


def main() -> None:
    """Measure, print, and write to `--out` if given."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    found = measure(arguments.repeats, images=arguments.images, device=arguments.device)
    document = {"machine": describe(torch.device(found["device"])), **found}
    sys.stdout.write(json.dumps(document, indent=2) + "\n")
    if arguments.out:
        write_json(arguments.out, document)


if __name__ == "__main__":
    main()
