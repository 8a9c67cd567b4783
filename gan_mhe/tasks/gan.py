"""The GAN as a task: a trainer, an evaluator, fixed latents and diagnostics."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from gan_mhe.config import names
from gan_mhe.config.run_config import RunConfig
from gan_mhe.config.summaries import SUMMARIES
from gan_mhe.constraints.diagnostics import layer_geometry
from gan_mhe.data import datasets
from gan_mhe.data.datasets import ImageSet
from gan_mhe.data.pixels import to_uint8
from gan_mhe.errors import DivergedError, MemoryLimitError
from gan_mhe.evaluation.evaluator import Evaluator
from gan_mhe.evaluation.metrics import fingerprints
from gan_mhe.files import default_cache_dir
from gan_mhe.images import grids, latents
from gan_mhe.records.events import RunControl
from gan_mhe.rng import derive_seed
from gan_mhe.training import host_memory, memory_estimate
from gan_mhe.training.coefficients import missed_targets
from gan_mhe.training.precision import resolve_device
from gan_mhe.training.trainer import Trainer


def load_images(config: RunConfig) -> ImageSet:
    """The configuration's real images. DataError if they are missing, broken or of another size."""
    return datasets.load(
        config.data.name,
        root=config.data.root,
        split=config.data.split,
        image_size=config.data.image_size,
        download=config.data.download,
        cache_dir=default_cache_dir(),
        resize=config.data.resize,
    )


def build_evaluator(config: RunConfig, images: ImageSet, device: torch.device) -> Evaluator | None:
    """The configuration's evaluator, or None for protocol `none`.

    Raises ExtractorError if its weights are missing, MemoryLimitError if a score cannot fit into memory.
    """
    if config.evaluation.protocol == "none":
        return None
    evaluator = Evaluator.build(
        config.evaluation.protocol,
        images=images,
        num_samples=config.evaluation.num_samples,
        ema=config.evaluation.ema,
        weights=config.evaluation.weights,
        download=config.evaluation.download,
        cache_dir=default_cache_dir(),
        device=device,
    )
    _check_score_fits(evaluator, device)
    return evaluator


def _check_score_fits(evaluator: Evaluator, device: torch.device) -> None:
    free, count = host_memory.free_bytes(device), evaluator.protocol.num_samples
    need = evaluator.bytes_needed(count)
    if free is None or need <= free:
        return
    raise MemoryLimitError(
        f"evaluation.num_samples = {count:,} needs {need / 2**30:,.1f} GiB for the features of a score, but "
        f"{free / 2**30:,.1f} GiB are free on {device}; {free // evaluator.bytes_needed(1):,} would fit"
    )


def _score_notes(config: RunConfig, evaluator: Evaluator | None) -> tuple[str, ...]:
    """Messages about what the scores of a run mean, or that it has none."""
    if evaluator is not None:
        return evaluator.notes
    if names.DATASETS[config.data.name].bundled:  # their preset scores the digits; the other set is for tests
        return ()
    return (
        f"evaluation.protocol is none, so the run is not scored: no protocol is made for {config.data.name}; "
        "inception-2015 scores any images, classifier:<name> those that `gan-mhe scorer train <name>` was trained on",
    )


class GanTask:
    """A generator and a discriminator that train each other; see `gan_mhe.tasks.base.Task`."""

    metric = names.TASKS["gan"].metric

    def __init__(self, config: RunConfig, *, to_train: bool = False) -> None:
        """Load the data and the evaluator, and build the networks; see `gan_mhe.tasks.base.TaskConstructor`.

        Raises here, before training, if data (DataError), weights (ExtractorError), the device (DeviceError) or, with
        `to_train`, memory (MemoryLimitError) is missing.
        """
        self._config = config
        device = resolve_device(config.training.device)
        images = load_images(config)
        self.data = images.summary
        self._evaluator = build_evaluator(config, images, device)
        self.score_notes = _score_notes(config, self._evaluator)
        if to_train:
            memory_estimate.check_fits(config, device, data_bytes=images.images.nbytes if device.type == "cuda" else 0)
        self.trainer = Trainer(config, images.images, device)
        self._steps = 0
        self._missed_targets: list[str] = []
        self.images_per_step = SUMMARIES["gan"].images_per_step(config)
        self.protocol = self._evaluator.protocol.name if self._evaluator else None
        self.weights_sha256 = self._evaluator.protocol.weights_sha256 if self._evaluator else None
        self.fingerprints: Mapping[str, str] = fingerprints(self._evaluator.protocol) if self._evaluator else {}
        self._latents = latents.fixed_latents(
            config.sampling.num_images, config.generator.latent_dim, derive_seed(config.seed, "latents/samples", 0)
        )

    @property
    def warnings(self) -> tuple[str, ...]:
        notes = *self.score_notes, *self.trainer.constraints.notes
        return self.trainer.engine.description, *notes, *self._missed_targets

    def set_step(self, step: int) -> None:
        self._steps = step + 1
        self.trainer.set_step(step)

    def step(self) -> None:
        self.trainer.step()

    def check(self) -> None:
        nonfinite = self.trainer.nonfinite.read()
        if nonfinite:
            raise DivergedError(*nonfinite)

    def scalars(self) -> dict[str, float]:
        means, settings = self.trainer.meter.read(), self._config.training
        self._missed_targets += missed_targets(
            self.trainer.constraints.penalties,
            means,
            since=(self._steps - 1) // settings.report_every_steps * settings.report_every_steps,
            step=self._steps,
            n_dis=settings.n_dis,
            total_steps=settings.steps,
        )
        return means | layer_geometry(self.trainer.discriminator)

    def grid(self) -> bytes:
        images = to_uint8(self.trainer.generate(self._latents, ema=self._config.evaluation.ema))
        return grids.encode_png(grids.grid(images, columns=math.isqrt(len(images) - 1) + 1))

    def evaluate(self, *, fresh: bool, control: RunControl | None = None) -> dict[str, float]:
        assert self._evaluator is not None, "evaluate() without a protocol"
        stream = "latents/evaluation/fresh" if fresh else "latents/evaluation"
        return self._evaluator.score(
            lambda latents: self.trainer.generate(latents, ema=self._config.evaluation.ema),
            latent_dim=self._config.generator.latent_dim,
            latent_seed=derive_seed(self._config.seed, stream, 0) % 2**32,
            control=control,
        )

    def real_scores(self) -> dict[str, float]:
        assert self._evaluator is not None, "real_scores() without a protocol"
        return self._evaluator.real_scores()

    def peak_memory_bytes(self) -> int:
        return host_memory.peak_bytes(self.trainer.device)

    def state(self) -> dict[str, Tensor]:
        return self.trainer.state()

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        self.trainer.load_state(state)
