"""The sections of a configuration other than its constraints."""

from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from gan_mhe.config.names import (
    DATASETS,
    DISCRIMINATORS,
    GENERATORS,
    DatasetName,
    DiscriminatorName,
    GeneratorName,
    ImageSize,
    Split,
    describe,
)
from gan_mhe.config.protocols import PROTOCOLS, find_protocol, unknown_protocol
from gan_mhe.config.types import members

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Every = Annotated[int, Field(ge=0)]
Beta = Annotated[float, Field(ge=0, lt=1)]
MAX_INTEGER = 2**53 - 1
"""Largest integer of a configuration: every JSON parser reads it exactly, and every column can hold it."""
ScheduleKind = Literal["constant", "linear_decay", "cosine_decay"]


class Section(BaseModel):
    """An immutable group of fields.

    An unknown key, a truth value as a number, an integer beyond MAX_INTEGER and a NUL in a path are errors.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, use_attribute_docstrings=True)

    @field_validator("*", mode="before")
    @classmethod
    def _of_its_kind(cls, value: Any, info: ValidationInfo) -> Any:
        assert info.field_name is not None
        expected = _kinds(cls, info.field_name)
        given = value if isinstance(value, list | tuple) else [value]
        if expected & {int, float} and bool not in expected and any(isinstance(item, bool) for item in given):
            raise PydanticCustomError("wrong_type", "Expected a number")
        if Path in expected and "\0" in str(value):
            raise PydanticCustomError("wrong_path", "Expected a path without NUL")
        return value

    @field_validator("*", mode="after")
    @classmethod
    def _readable_by_all(cls, value: Any) -> Any:
        if isinstance(value, int) and abs(value) > MAX_INTEGER:
            raise PydanticCustomError("too_large", "Expected an integer of at most 2**53 - 1")
        return value


@cache  # every stored configuration in a list of jobs is validated
def _kinds(section: type[Section], field: str) -> frozenset[Any]:
    """The types that a field allows."""
    return frozenset(members(section.model_fields[field].annotation))


class Schedule(Section):
    """A factor between 0 and 1 as a function of the generator step."""

    kind: ScheduleKind = "constant"
    """`constant`, or a `linear_decay` or `cosine_decay` to 0 at the last step."""
    warmup_steps: Every = 0
    """Generator steps over which the factor first rises linearly from 0; 0 means no warmup."""


class DataConfig(Section):
    """The real images."""

    name: Annotated[DatasetName, Field(description=f"Data set: {describe(DATASETS)}.")] = "digits"
    root: Path | None = None
    """Folder of an `image_folder`, or where torchvision keeps its files."""
    split: Split = "train"
    """Part of the data set that is trained on and scored against."""
    image_size: ImageSize = 32
    """Side of the square images in pixels."""
    resize: Literal["error", "crop"] = "error"
    """Treatment of images of another size: `error` refuses them, `crop` center-crops and resizes them."""
    download: bool = False
    """Whether torchvision may download a missing data set."""
    flip: bool = False
    """Flip each real image horizontally with probability 1/2."""


class GeneratorConfig(Section):
    """The generator network."""

    architecture: Annotated[GeneratorName, Field(description=f"Network: {describe(GENERATORS)}.")] = "cnn"
    width: Positive = 1.0
    """Factor on every hidden channel count; 0.125 is small enough to train on a CPU."""
    latent_dim: Count = 128
    """Dimension of the normal latent z."""
    ema_halflife_steps: NonNegative = 0.0
    """Half-life, in generator steps, of an exponential moving average of the weights; 0 keeps no average."""


class DiscriminatorConfig(Section):
    """The discriminator network."""

    architecture: Annotated[DiscriminatorName, Field(description=f"Network: {describe(DISCRIMINATORS)}.")] = (
        "cnn_miyato"
    )
    width: Positive = 1.0
    """Factor on every hidden channel count."""


class OptimizerConfig(Section):
    """The Adam optimizers of both networks."""

    generator_lr: Positive = 2e-4
    """Learning rate of the generator."""
    discriminator_lr: Positive = 2e-4
    """Learning rate of the discriminator."""
    beta1: Beta = 0.5
    """Decay rate of the first moment."""
    beta2: Beta = 0.999
    """Decay rate of the second moment."""
    epsilon: Positive = 1e-8
    """Added to the square root of the second moment."""
    schedule: Schedule = Schedule()
    """Factor on both learning rates over the generator steps."""


class TrainingConfig(Section):
    """Length, batch size and execution of the training."""

    steps: Count = 1000
    """Number of generator updates; every other step count of a configuration counts them too."""
    batch_size: Annotated[int, Field(ge=2)] = 64
    """Number of real images, and of generated images, in one update."""
    n_dis: Count = 1
    """Discriminator updates per generator update, each on new real and generated images."""
    precision: Literal["float32", "tf32", "bf16", "float64"] = "float32"
    """Precision of the networks; energies, norms, penalties and losses are computed in float32 or above."""
    engine: Literal["auto", "eager", "compiled", "cuda_graph", "compiled_graph"] = "auto"
    """Execution of a step: `eager`, `compiled` by torch.compile, a captured `cuda_graph`, or both; `auto` chooses."""
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    """Device: `cpu`, `cuda`, `cuda:N`, or `auto` for the first CUDA device if there is one and the CPU if not."""
    report_every_steps: Count = 50
    """Generator steps between two reports of losses and diagnostics."""


class SamplingConfig(Section):
    """The sample grids: images from fixed latents."""

    every_steps: Every = 250
    """Generator steps between two grids; 0 writes only the first and the last."""
    num_images: Annotated[int, Field(ge=1, le=1024)] = 64
    """Number of images in a grid."""


class EvaluationConfig(Section):
    """The scores, measured under a named protocol."""

    protocol: Annotated[
        str,
        Field(
            description=f"{', '.join(f'`{name}`' for name in PROTOCOLS)}, or `none` for no scores. The default is that "
            "of the data set `digits`; it is `none` for the others."
        ),
    ] = "digits-v1"
    every_steps: Every = 0
    """Generator steps between two evaluations; 0 scores only the final generator."""
    num_samples: Annotated[
        Count | None,
        Field(
            description="Generated images per score; the protocol's own number if unset. Scores of different numbers "
            "do not compare. At least 100 under `digits-v1`, 1,000 under `inception-2015`, 10 for each class of a "
            "`classifier:<name>`."
        ),
    ] = None
    ema: bool = False
    """Score the moving average of the generator instead of the generator."""
    weights: Path | None = None
    """File with the extractor's weights, if it is not at the protocol's default path."""
    download: bool = False
    """Whether missing Inception weights may be downloaded."""

    @field_validator("protocol")
    @classmethod
    def _known_protocol(cls, protocol: str) -> str:
        if protocol != "none" and find_protocol(protocol) is None:
            raise ValueError(unknown_protocol(protocol))
        return protocol


class CheckpointConfig(Section):
    """The checkpoints, from which a run is resumed, sampled and scored."""

    every_steps: Every = 500
    """Generator steps between two checkpoints; 0 saves only at the end and on a stop."""
    keep_last: Count = 2
    """Number of newest checkpoints that are kept."""
    keep_best: bool = True
    """Also keep the checkpoint with the best score."""
