"""What a run is: one frozen, closed description, TOML on disk and JSON on the wire.

`RunConfig.model_validate(document)` fills in the document's variant beneath its explicit keys, checks every field
and every pair of fields that can contradict each other, and never touches a device, a file or the network.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from gan_mhe.files import canonical_json, sha256_bytes
from gan_mhe.suggest import nearest
from gan_mhe.variants import VARIANTS

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Every = Annotated[int, Field(ge=0)]
Beta = Annotated[float, Field(ge=0, lt=1)]

ScheduleKind = Literal["constant", "linear_decay", "cosine_decay"]

# Those of `gan_mhe.evaluation.protocol`, and none at all. A user's own scorer is `classifier:<name>`.
PROTOCOLS = ("none", "digits-v1", "inception-2015")


# What says where and how a run is executed and what is kept of it, not what it computes.
EXECUTION_KEYS = frozenset(
    {
        "data.root",
        "data.download",
        "training.device",
        "training.engine",
        "evaluation.weights",
        "evaluation.download",
        "checkpoint.every_steps",
        "checkpoint.keep_last",
        "checkpoint.keep_best",
    }
)


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the keys of `over` laid on top, table by table."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        both_tables = isinstance(below, Mapping) and isinstance(value, Mapping)
        merged[key] = merge(below, value) if both_tables else value  # type: ignore[arg-type]
    return merged


def flatten(document: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as one level of dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in document.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Inverse of `flatten`: every dotted key as nested tables, in tables within it too; a later key wins."""
    tables: dict[str, Any] = {}
    for key, value in flat.items():
        nested: Any = unflatten(value) if isinstance(value, Mapping) else value
        for part in reversed(key.split(".")):
            nested = {part: nested}
        tables = merge(tables, nested)
    return tables


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


class RatioConfig(Section):
    """A strength by what it does: the share of the adversarial gradient that the penalty's gradient is to have."""

    target: Positive = 0.1
    """||lambda grad penalty|| / ||grad GAN||, over all parameters of the discriminator; times the schedule's factor."""
    mode: Literal["track", "calibrate"] = "track"
    """`track` follows the two gradients slowly all along; `calibrate` measures at the start and keeps lambda."""
    horizon: Count = 200
    """Computations of the penalty that lambda is a (geometric) mean over; with `calibrate` the first ones."""


class PenaltyTiming(Section):
    """When a penalty is computed, how its strength changes, and whether that is given as a ratio of gradients."""

    interval: Count = 1
    """Compute the penalty at every n-th generator step, times n, so that its mean strength stays."""
    schedule: Schedule = Schedule()
    """Factor on the coefficient over the generator steps."""
    ratio: RatioConfig | None = None
    """A target ratio of gradient norms in place of the coefficient, unless that is 0; `false` removes a variant's."""

    @field_validator("ratio", mode="before")
    @classmethod
    def _false_is_none(cls, ratio: Any) -> Any:
        return None if ratio is False else ratio


class ClippingConfig(Section):
    """Weight clipping, Arjovsky et al. 2017."""

    bound: Positive = 0.01
    """Conv weights are clamped to [-bound, bound] after every discriminator update."""


class GradientPenaltyConfig(PenaltyTiming):
    """(||grad D(x)|| - target)^2 at points between real and generated images, Gulrajani et al. 2017."""

    coefficient: NonNegative = 10.0
    """Factor of the penalty."""
    target: NonNegative = 1.0
    """Gradient norm at which the penalty vanishes."""


class OrthonormalConfig(PenaltyTiming):
    """||W W^T - I||^2 over the layers, Brock et al. 2017."""

    coefficient: NonNegative = 1e-3
    """Factor of the penalty; 0 leaves the initialisation alone."""
    initialise: bool = True
    """Start from weights with orthonormal rows (or columns, where there are more rows than columns)."""


class EnergyConfig(PenaltyTiming):
    """What MHE and CoMHE share."""

    lambda_hidden: NonNegative = 1.0
    """Factor of the hidden layers' energies; 0 is the control that runs the same code."""
    lambda_output: NonNegative = 0.0
    """Factor of the output layer's energy, always full space; a scalar output has one neuron and adds exactly 0."""
    layer_factors: tuple[NonNegative, ...] = ()
    """Factors on lambda_hidden, one for each hidden layer in order; none at all is 1 for each."""
    s: Annotated[float, Field(ge=0, le=16, allow_inf_nan=False)] = 0.0
    """Riesz power: 0 is the logarithmic energy, 1 the Coulomb energy."""
    distance: Literal["euclidean", "geodesic"] = "euclidean"
    """Chord between unit filters, or the angle (A-MHE)."""
    half_space: bool = False
    """Count w and -w as the same direction in the hidden layers."""


class MinibatchConfig(Section):
    """An unbiased estimate of the hidden layers' energies from some of their pairs, drawn anew at each step."""

    of: Literal["neurons", "partners"] = "neurons"
    """`neurons`: all pairs among a random subset; `partners`: every neuron with a few random others."""
    size: Annotated[int, Field(ge=2)] = 64
    """Neurons in the subset (all, in a layer that has fewer), or partners of each neuron."""


class MheConfig(EnergyConfig):
    """Minimum hyperspherical energy, Liu et al. 2018: pair mean E / (N (N - 1)), summed over layers."""

    minibatch: MinibatchConfig | None = None
    """Estimate the energies from some pairs."""


class ComheConfig(EnergyConfig):
    """Compressive MHE, Lin et al. 2020: the energies of neurons projected to few dimensions, half space and s = 2."""

    s: Annotated[float, Field(ge=0, le=16, allow_inf_nan=False)] = 2.0
    """Riesz power; 2 in the authors' code."""
    half_space: bool = True
    """Count w and -w as the same direction in the hidden layers; on in the authors' code."""
    projection: Literal["random", "angle_preserving", "adversarial", "group"] = "random"
    """Gaussian matrices; one matrix trained to keep the angles, or to raise the energy; blocks of coordinates."""
    dimension: Annotated[int, Field(ge=2)] = 40
    """Dimension to project to; 40 (random) and 30 (trained) in the authors' code. Without effect for groups."""
    count: Count = 20
    """Random matrices that the energy is averaged over, or groups (at most one for two coordinates)."""
    redraw_every_steps: Count = 10
    """Generator steps between two draws of random matrices or groups; 1 in the authors' code."""
    shared_basis: bool = True
    """Layers of equal fan-in share their random matrices; so do those of one kernel size in the authors' code."""
    first_layer: Literal["full", "projected", "none"] = "full"
    """The first layer: its full energy as in the authors' code, projected as the others, or left out."""
    inner_steps: Count = 1
    """Gradient steps on a trained matrix in each update; authors' code: 1 angle-preserving, 10 adversarial."""
    inner_lr: Positive = 0.1
    """Learning rate of these steps; the network's own rate, 0.1, in the authors' code."""
    unrolled: bool = True
    """Let the gradient reach the neurons through the last inner step too, as the authors' code does."""


class UniformityConfig(PenaltyTiming):
    """Hyperspherical uniformity, Liu et al. 2021: other measures of how evenly directions are spread."""

    measure: Literal["separation", "polarization", "relaxed_polarization", "covering", "gram_determinant"] = (
        "separation"
    )
    """Closest pair (MHS), worst pole (MHP), sum of neurons (R-MHP), largest hole (MHC) or log det of a kernel (MGD)."""
    coefficient: NonNegative = 1.0
    """Factor of the hidden layers' sum."""
    half_space: bool = True
    """Count w and -w as the same direction, as in the authors' code; the sum of neurons has no half space."""
    inner_steps: Count = 10
    """Momentum steps on the pole of polarization and covering in each update."""
    inner_lr: Positive = 0.1
    """Learning rate of these steps."""


class OfficialMheConfig(PenaltyTiming):
    """The energy of the authors' GAN code. Each switch is one departure from the paper; off is the paper's way."""

    coefficient: NonNegative = 1e-6
    """Factor of the summed layer terms: 1e-6 in the authors' code, 1e-7 beside spectral normalisation."""
    mirror_on_feature_axis: bool = True
    """Join w and -w along the feature axis, which leaves all cosines and so the full-space energy."""
    norm_eps: NonNegative = 1e-4
    """Added to the squared norm of a filter."""
    log_eps: NonNegative = 1e-4
    """Added to the squared distance inside the logarithm."""
    squared_distance: bool = True
    """Logarithm of the squared distance: twice the energy."""
    average_over_all_entries: bool = True
    """Mean over all N^2 entries, the masked ones a constant log(log_eps), instead of over the pairs."""
    counted_twice: bool = True
    """Add every layer twice, as building the discriminator for real and for generated images does."""
    include_output_layer: bool = True
    """Add the one-neuron output layer, a constant."""


class WeightDecayConfig(PenaltyTiming):
    """lambda_w / (sum_j N_j) sum_ij ||w_ij||: the magnitude part of the MHE objective."""

    coefficient: NonNegative = 5e-4
    """lambda_w."""
    power: Literal[1, 2] = 1
    """1: norm of each filter, as the MHE objective prints it; 2: half its square, ordinary L2 decay."""


class SphereConvConfig(Section):
    """SphereNet, Liu et al. 2017: every convolution gives g(theta), theta the angle of filter and patch."""

    operator: Literal["cosine", "linear", "sigmoid", "learnable"] = "sigmoid"
    """g: the cosine, 1 - 2 theta / pi, a sigmoid of slope k, or one whose k is trained for each filter."""
    k: Annotated[float, Field(gt=1e-6, lt=1e6)] = 0.3
    """Slope of the sigmoid, smaller is steeper; where it is trained, its start, and above 0.05."""
    rescale: bool = False
    """SphereNorm: multiply by (||w|| ||x||)^rho with rho trained from 0, at 1 an ordinary convolution; cosine only."""


class ConstraintsConfig(Section):
    """What holds the discriminator back. Sections that are absent do nothing."""

    normalization: Literal["none", "batch", "layer", "weight", "spectral"] = "none"
    """One normalisation of layers or weights."""
    clipping: ClippingConfig | None = None
    """Weight clipping."""
    gradient_penalty: GradientPenaltyConfig | None = None
    """Gradient penalty."""
    orthonormal: OrthonormalConfig | None = None
    """Orthonormal initialisation and penalty."""
    mhe: MheConfig | None = None
    """Minimum hyperspherical energy."""
    official_mhe: OfficialMheConfig | None = None
    """MHE as the authors' GAN code has it."""
    comhe: ComheConfig | None = None
    """Compressive MHE."""
    uniformity: UniformityConfig | None = None
    """Hyperspherical uniformity."""
    sphere_conv: SphereConvConfig | None = None
    """Convolutions of angles."""
    weight_decay: WeightDecayConfig | None = None
    """Decoupled weight decay of the MHE objective."""

    @model_validator(mode="after")
    def _no_contradiction(self) -> Self:
        if self.clipping and self.normalization in ("weight", "spectral"):
            raise ValueError(
                f"clipping bounds the raw weights, which {self.normalization!r} normalisation then rescales; "
                "expected one of the two"
            )
        if self.sphere_conv and self.normalization in ("weight", "spectral"):
            raise ValueError(
                f"sphere_conv divides by the norm of each filter, so {self.normalization!r} normalisation before it "
                "has no effect; expected one of the two"
            )
        if self.sphere_conv and self.sphere_conv.rescale and self.sphere_conv.operator != "cosine":
            raise ValueError(
                f"sphere_conv.rescale is for the cosine operator, not {self.sphere_conv.operator!r}: only that one "
                "can become an ordinary convolution"
            )
        if self.sphere_conv and self.sphere_conv.operator == "learnable" and self.sphere_conv.k <= 0.05:
            raise ValueError(
                f"sphere_conv.k of the learnable operator never falls to 0.05; expected a start above it, "
                f"got {self.sphere_conv.k:g}"
            )
        if self.sphere_conv and self.clipping:
            raise ValueError(
                "clipping bounds the lengths of filters, which sphere_conv divides out; expected one of the two"
            )
        energies = [name for name in ("mhe", "official_mhe", "comhe", "uniformity") if getattr(self, name)]
        if len(energies) > 1:
            raise ValueError(f"{' and '.join(energies)} are forms of one penalty; expected one of them")
        return self


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

    protocol: str = "digits-v1"
    """`digits-v1`, `inception-2015`, `classifier:<name>`, or `none` for no scores."""
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
        if protocol not in PROTOCOLS and not protocol.startswith("classifier:"):
            raise ValueError(
                f"unknown protocol {protocol!r}; expected one of {', '.join(PROTOCOLS)}, classifier:<name>"
            )
        return protocol


class CheckpointConfig(Section):
    """What is kept to resume from and to sample from."""

    every_steps: Every = 500
    """Generator steps between two checkpoints; 0 saves only at the end and on a stop."""
    keep_last: Count = 2
    """Newest checkpoints kept."""
    keep_best: bool = True
    """Keep the checkpoint with the best score as well."""


class RunConfig(Section):
    """One training run, completely. Two runs with equal digests are the same experiment."""

    variant: str = "none"
    """Named variant (`gan-mhe variants`); its patch lies beneath the keys written beside it."""
    seed: Annotated[int, Field(ge=0, lt=2**53)] = 0
    """Training seed: initial weights, latents and the order of the data are functions of it."""
    data: DataConfig = DataConfig()
    generator: GeneratorConfig = GeneratorConfig()
    discriminator: DiscriminatorConfig = DiscriminatorConfig()
    loss: Literal["non_saturating", "hinge", "wasserstein", "least_squares"] = "non_saturating"
    """Adversarial loss of both networks."""
    constraints: ConstraintsConfig = ConstraintsConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    training: TrainingConfig = TrainingConfig()
    sampling: SamplingConfig = SamplingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()

    @model_validator(mode="before")
    @classmethod
    def _fill_in_variant(cls, document: Any) -> Any:
        if not isinstance(document, dict):
            return document
        name = document.get("variant", "none")
        if not isinstance(name, str) or name not in VARIANTS:
            raise ValueError(f"variant: unknown variant {name!r}{nearest(str(name), VARIANTS)}")
        return merge(VARIANTS[name].patch, document)

    @model_validator(mode="after")
    def _no_contradiction(self) -> Self:
        if self.evaluation.ema and not self.generator.ema_halflife_steps:
            raise ValueError(
                "evaluation.ema scores a moving average, but generator.ema_halflife_steps is 0; expected > 0"
            )
        if self.data.name == "image_folder" and self.data.root is None:
            raise ValueError("data.root is missing; expected the folder of the image_folder")
        if self.evaluation.protocol == "digits-v1" and self.data.image_size != 32:
            raise ValueError(
                f"evaluation.protocol 'digits-v1' scores 32 pixel images; data.image_size is {self.data.image_size}"
            )
        return self

    def document(self) -> dict[str, Any]:
        """The whole configuration as JSON values, every default written out."""
        return self.model_dump(mode="json")

    def identity(self) -> dict[str, Any]:
        """The dotted keys that determine what the run computes."""
        return {key: value for key, value in flatten(self.document()).items() if key not in EXECUTION_KEYS}

    def digest(self) -> str:
        """SHA-256 of the identity: equal digests are the same experiment, wherever it is executed."""
        return sha256_bytes(canonical_json(self.identity()))

    def recipe_digest(self) -> str:
        """SHA-256 of the identity without the seed: runs with equal recipes are seeds of one thing."""
        return sha256_bytes(canonical_json({k: v for k, v in self.identity().items() if k != "seed"}))

    def budget_digest(self) -> str:
        """SHA-256 of what every variant of a fair comparison shares: data, networks, optimiser, steps, scoring."""
        own = ("seed", "variant", "loss", "constraints")
        return sha256_bytes(canonical_json({k: v for k, v in self.identity().items() if k.split(".")[0] not in own}))

    def lineage(self) -> dict[str, Any]:
        """The identity without the number of steps, where that number does not reach into the past.

        A longer run continues a shorter one as long as every schedule is constant; a decay is a function of the end.
        """
        identity = self.identity()
        if all(value == "constant" for key, value in identity.items() if key.endswith("schedule.kind")):
            del identity["training.steps"]
        return identity

    def lineage_digest(self) -> str:
        """SHA-256 of the lineage: a checkpoint fits every configuration with its lineage."""
        return sha256_bytes(canonical_json(self.lineage()))

    def changes_on_resume(self, saved: "RunConfig") -> list[str]:
        """The keys, with both values, in which this configuration would not continue `saved`."""
        keys = self.lineage().keys() | saved.lineage().keys()
        if self.training.steps < saved.training.steps:
            keys |= {"training.steps"}
        mine, theirs = self.identity(), saved.identity()
        return [
            f"{key} was {theirs.get(key)!r}, is {mine.get(key)!r}"
            for key in sorted(keys)
            if mine.get(key) != theirs.get(key)
        ]
