"""The sections of a configuration besides its constraints."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from gan_mhe.config.protocols import PROTOCOLS, find_protocol, unknown_protocol

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Every = Annotated[int, Field(ge=0)]
Beta = Annotated[float, Field(ge=0, lt=1)]
ScheduleKind = Literal["constant", "linear_decay", "cosine_decay"]


class Section(BaseModel):
    """A closed, immutable group of fields: an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, use_attribute_docstrings=True)


class Schedule(Section):
    """How a number changes with the generator step, as a factor between 0 and 1."""

    kind: ScheduleKind = "constant"
    """`constant`; `linear_decay` or `cosine_decay` to 0 at the last step."""
    warmup_steps: Every = 0
    """Generator steps over which the factor first rises linearly from 0; 0 starts at full strength."""


class DataConfig(Section):
    """Real images."""

    name: Literal["digits", "cifar10", "cifar100", "stl10", "mnist", "fashion_mnist", "image_folder", "synthetic"] = (
        "digits"
    )
    """Data set. `digits` ships with scikit-learn and needs no download."""
    root: Path | None = None
    """Folder of an `image_folder`, or where torchvision keeps its files."""
    split: Literal["train", "test", "unlabeled"] = "train"
    """Part of the data set to train on and to score against."""
    image_size: Literal[32, 48, 64] = 32
    """Side of the square images in pixels."""
    resize: Literal["error", "crop"] = "error"
    """What to do with an image of another size: refuse it, or centre-crop and resize."""
    download: bool = False
    """Whether torchvision may fetch a missing data set."""
    flip: bool = False
    """Mirror each real image left to right with probability 1/2."""


class GeneratorConfig(Section):
    """The generator network."""

    architecture: Literal["cnn", "resnet"] = "cnn"
    """`cnn`: Miyato et al. 2018, Table 3; `resnet`: their Table 4."""
    width: Positive = 1.0
    """Factor on every hidden channel count; 0.125 trains on a CPU."""
    latent_dim: Count = 128
    """Dimension of the normal latent z."""
    ema_halflife_steps: NonNegative = 0.0
    """Half-life, in generator steps, of a moving average of the weights; 0 keeps none."""


class DiscriminatorConfig(Section):
    """The discriminator network."""

    architecture: Literal["cnn_miyato", "cnn_official", "resnet"] = "cnn_miyato"
    """`cnn_miyato`: Table 3; `cnn_official`: the wider one of the MHE code; `resnet`: Table 4."""
    width: Positive = 1.0
    """Factor on every hidden channel count."""


class OptimizerConfig(Section):
    """Adam, for both networks."""

    generator_lr: Positive = 2e-4
    """Learning rate of the generator."""
    discriminator_lr: Positive = 2e-4
    """Learning rate of the discriminator."""
    beta1: Beta = 0.5
    """Decay of the first moment."""
    beta2: Beta = 0.999
    """Decay of the second moment."""
    epsilon: Positive = 1e-8
    """Added to the root of the second moment."""
    schedule: Schedule = Schedule()
    """Factor on both learning rates over the generator steps."""


class TrainingConfig(Section):
    """How long, how large and on what."""

    steps: Count = 1000
    """Generator updates: the one clock of a run."""
    batch_size: Annotated[int, Field(ge=2)] = 64
    """Real images, and generated images, in one update."""
    n_dis: Count = 1
    """Discriminator updates per generator update, each with fresh real and generated images."""
    precision: Literal["float32", "tf32", "bf16", "float64"] = "float32"
    """Arithmetic of the networks; energies, norms, penalties and losses never go below float32."""
    engine: Literal["auto", "eager", "compiled", "cuda_graph"] = "auto"
    """How a step is executed: `eager`; `compiled` by torch.compile; `cuda_graph`, captured whole; `auto` chooses."""
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    """`auto` takes the first CUDA device where there is one, else the CPU."""
    report_every_steps: Count = 50
    """Generator steps between two reports of losses and diagnostics."""


class SamplingConfig(Section):
    """Grids of images from fixed latents."""

    every_steps: Every = 250
    """Generator steps between two grids; 0 draws only the first and the last."""
    num_images: Annotated[int, Field(ge=1, le=1024)] = 64
    """Images in a grid."""


class EvaluationConfig(Section):
    """Scores under a named protocol."""

    protocol: Annotated[
        str, Field(description=f"{', '.join(f'`{name}`' for name in PROTOCOLS)}, or `none` for no scores.")
    ] = "digits-v1"
    every_steps: Every = 0
    """Generator steps between two evaluations; 0 scores only the final generator."""
    num_samples: Count | None = None
    """Generated images in a score; unset takes the protocol's own number. Another number is another protocol."""
    ema: bool = False
    """Score the moving average of the generator instead of the generator itself."""
    weights: Path | None = None
    """File with the extractor's weights, where the protocol's usual place is not used."""
    download: bool = False
    """Whether missing Inception weights may be fetched."""

    @field_validator("protocol")
    @classmethod
    def _known_protocol(cls, protocol: str) -> str:
        if protocol != "none" and find_protocol(protocol) is None:
            raise ValueError(unknown_protocol(protocol))
        return protocol


class CheckpointConfig(Section):
    """What is kept to resume from and to sample from."""

    every_steps: Every = 500
    """Generator steps between two checkpoints; 0 saves only at the end and on a stop."""
    keep_last: Count = 2
    """Newest checkpoints kept."""
    keep_best: bool = True
    """Keep the checkpoint with the best score as well."""
