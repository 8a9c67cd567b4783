"""Seconds of an Inception score and FID here and by torch-fidelity's own call; cost only, the weights are random."""

import contextlib
import io
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.evaluation import Contest
from benchmarks.gpu.kit import Results, Setup


def run(setup: Setup, results: Results) -> None:
    """Ours with the protocol's 50,000 images; the library's with 5,000, from which its rate is known."""
    ours, theirs = (200, 200) if setup.tiny else (50_000, 5_000)
    results.measure("ours", lambda: measured(setup, ours, library=False))
    results.measure("library", lambda: measured(setup, theirs, library=True))


def measured(setup: Setup, images: int, *, library: bool) -> dict[str, Any]:
    """Seconds of one score: ours with real images processed before, the library's with them in its call.

    The device is used before, so that neither pays for its context. Otherwise the library starts cold, as in a script
    that calls it once, while our extractor has run on the real images.
    """
    device = torch.device(setup.device)
    torch.zeros(1, device=device).item()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
        contest = Contest(Path(folder), images, device)
        if library:
            seconds, values = _timed(lambda: contest.library(cached=False))
        else:
            began = time.perf_counter()
            evaluator = contest.evaluator(Path(folder))
            real_seconds = time.perf_counter() - began
            seconds, values = _timed(lambda: contest.score(evaluator))
    found = {"images": images, "seconds_of_score": seconds, "images_per_second": images / seconds}
    return found if library else found | {"seconds_of_real_images": real_seconds, "scores": sorted(values)}


def _timed(call: Callable[[], dict[str, float]]) -> tuple[float, dict[str, float]]:
    began = time.perf_counter()
    values = call()  # returns numbers on the host, so all device work is done
    return time.perf_counter() - began, values
