"""What configurations will cost, in units that do not depend on the device."""

from collections.abc import Sequence
from typing import Any

from gan_mhe.config.protocols import protocol_settings
from gan_mhe.config.run_config import RunConfig
from gan_mhe.config.summaries import SUMMARIES


def of_job(config: RunConfig) -> dict[str, Any]:
    """Return the cost of one job: steps, images (real ones, trained on), scored_images, and a note in words."""
    counts = _counts(config)
    work = SUMMARIES[config.task].work(config)
    note = f"{work}, and {counts['scored_images']:,} images to score; the time this takes depends on the slot"
    return {**counts, "note": note}


def of_experiment(configs: Sequence[RunConfig]) -> dict[str, Any]:
    """Return the cost of several jobs, summed up. Keys as of `of_job`."""
    each = [_counts(config) for config in configs]
    total = {name: sum(counts[name] for counts in each) for name in each[0]}
    note = (
        f"{len(configs):,} jobs with {total['steps']:,} generator steps on {total['images']:,} real images in all, and "
        f"{total['scored_images']:,} images to score; the time this takes depends on the slots"
    )
    return {**total, "note": note}


def _counts(config: RunConfig) -> dict[str, int]:
    training, evaluation = config.training, config.evaluation
    scored = 0
    if evaluation.protocol != "none":
        samples = evaluation.num_samples or protocol_settings(evaluation.protocol).num_samples
        times = training.steps // evaluation.every_steps if evaluation.every_steps else 0
        scored = max(times, 1) * samples
    images = training.steps * SUMMARIES[config.task].images_per_step(config)
    return {"steps": training.steps, "images": images, "scored_images": scored}
