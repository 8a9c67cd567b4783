"""The `constraints` section: normalization, penalties and projections of the discriminator."""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from gan_mhe.config.sections import Count, NonNegative, Positive, Schedule, Section

_TOLERANCE = 2.0  # a ratio follows its target with a lag, and reports average it over steps


class RatioConfig(Section):
    """A target for the ratio of gradient norms, from which the coefficient of the penalty is found."""

    target: Positive = 0.1
    """Target of ||lambda grad penalty|| / ||grad GAN|| over all discriminator parameters; the schedule scales it."""
    mode: Literal["track", "calibrate"] = "track"
    """`track` adapts lambda throughout the run; `calibrate` measures the gradients at the start and keeps lambda."""
    horizon: Count = 200
    """Number of penalty computations that lambda is the geometric mean of; with `calibrate`, the first ones."""

    def is_reached(self, ratio: float, factor: float = 1.0) -> bool:
        """Whether a measured ratio is within a factor of two of the target times `factor`, its schedule's."""
        expected = self.target * factor
        return expected / _TOLERANCE <= ratio <= expected * _TOLERANCE


class PenaltyTiming(Section):
    """When a penalty is computed, and how its strength is set."""

    is_energy: ClassVar[bool] = False  # whether it spreads the neurons' directions; a run has at most one such penalty

    interval: Count = 1
    """Compute the penalty at every n-th generator step and multiply it by n, which keeps its mean strength."""
    schedule: Schedule = Schedule()
    """Factor on the coefficient as a function of the generator step."""
    ratio: RatioConfig | None = None
    """Target ratio of gradient norms, used instead of the coefficient unless that is 0; `false` removes a variant's."""

    @field_validator("ratio", mode="before")
    @classmethod
    def _false_is_none(cls, ratio: Any) -> Any:
        return None if ratio is False else ratio


class ClippingConfig(Section):
    """Weight clipping, Arjovsky et al. 2017."""

    bound: Positive = 0.01
    """Convolution weights are clipped to [-bound, bound] after every discriminator update."""


class GradientPenaltyConfig(PenaltyTiming):
    """(||grad D(x)|| - target)^2 at points between real and generated images, Gulrajani et al. 2017."""

    coefficient: NonNegative = 10.0
    """Factor of the penalty."""
    target: NonNegative = 1.0
    """Gradient norm at which the penalty vanishes."""


class OrthonormalConfig(PenaltyTiming):
    """||W W^T - I||^2 over the layers, Brock et al. 2017."""

    coefficient: NonNegative = 1e-3
    """Factor of the penalty; 0 keeps only the initialization."""
    initialise: bool = True
    """Initialize the weights with orthonormal rows, or columns where there are more rows than columns."""


class EnergyConfig(PenaltyTiming):
    """The keys that MHE and CoMHE share."""

    is_energy: ClassVar[bool] = True

    lambda_hidden: NonNegative = 1.0
    """Factor of the hidden layers' energies; 0 runs the same code without effect, as a control."""
    lambda_output: NonNegative = 0.0
    """Factor of the output layer's full-space energy; an output layer with one neuron adds exactly 0."""
    layer_factors: tuple[NonNegative, ...] = ()
    """Factors on lambda_hidden, one per hidden layer in order; an empty list means 1 for each."""
    s: Annotated[float, Field(ge=0, le=16, allow_inf_nan=False)] = 0.0
    """Riesz power: 0 is the logarithmic energy, 1 the Coulomb energy."""
    distance: Literal["euclidean", "geodesic"] = "euclidean"
    """Distance between unit filters: the chord, or the angle (A-MHE)."""
    half_space: bool = False
    """Treat w and -w as the same direction in the hidden layers."""


class MinibatchConfig(Section):
    """An unbiased estimate of the hidden layers' energies from a random sample of their pairs, new at each step."""

    of: Literal["neurons", "partners"] = "neurons"
    """`neurons`: all pairs among a random subset; `partners`: every neuron with a few random others."""
    size: Annotated[int, Field(ge=2)] = 64
    """Neurons in the subset (all of them in a layer that has fewer), or partners of each neuron."""


class MheConfig(EnergyConfig):
    """Minimum hyperspherical energy, Liu et al. 2018: pair mean E / (N (N - 1)), summed over layers."""

    minibatch: MinibatchConfig | None = None
    """Estimate the energies from a sample of the pairs."""


class ComheConfig(EnergyConfig):
    """Compressive MHE, Lin et al. 2020: the energies of neurons projected to few dimensions, half space and s = 2."""

    s: Annotated[float, Field(ge=0, le=16, allow_inf_nan=False)] = 2.0
    """Riesz power; 2 in the authors' code."""
    half_space: bool = True
    """Count w and -w as the same direction in the hidden layers; on in the authors' code."""
    projection: Literal["random", "angle_preserving", "adversarial", "group"] = "random"
    """Gaussian matrices, one matrix trained to preserve the angles or to raise the energy, or blocks of coordinates."""
    dimension: Annotated[int, Field(ge=2)] = 40
    """Dimension to project to; 40 (random) and 30 (trained) in the authors' code. Has no effect on groups."""
    count: Count = 20
    """Number of random matrices that the energy is averaged over, or of groups (at most one per two coordinates)."""
    redraw_every_steps: Count = 10
    """Generator steps after which random matrices or groups are drawn again; 1 in the authors' code."""
    shared_basis: bool = True
    """Layers of equal fan-in share their random matrices; in the authors' code, layers of equal kernel size do."""
    first_layer: Literal["full", "projected", "none"] = "full"
    """The first layer's energy: in full, as in the authors' code; projected, as in the other layers; or none."""
    inner_steps: Count = 1
    """Gradient steps on a trained matrix per update; in the authors' code 1 (angle-preserving) and 10 (adversarial)."""
    inner_lr: Positive = 0.1
    """Learning rate of these steps; in the authors' code that of the network, 0.1."""
    unrolled: bool = True
    """Backpropagate to the neurons through the last inner step as well, as in the authors' code."""


class UniformityConfig(PenaltyTiming):
    """Hyperspherical uniformity, Liu et al. 2021: other measures of how evenly the filters are spread."""

    is_energy: ClassVar[bool] = True

    measure: Literal["separation", "polarization", "relaxed_polarization", "covering", "gram_determinant"] = (
        "separation"
    )
    """Closest pair (MHS), worst pole (MHP), sum of neurons (R-MHP), largest hole (MHC) or log det of a kernel (MGD)."""
    coefficient: NonNegative = 1.0
    """Factor of the sum over hidden layers."""
    half_space: bool = True
    """Treat w and -w as the same direction, as in the authors' code; R-MHP has no half-space form."""
    inner_steps: Count = 10
    """Momentum steps per update on the pole of polarization and covering."""
    inner_lr: Positive = 0.1
    """Learning rate of these steps."""


class OfficialMheConfig(PenaltyTiming):
    """The energy as the authors' GAN code computes it. Each switch is one deviation from the paper."""

    is_energy: ClassVar[bool] = True

    coefficient: NonNegative = 1e-6
    """Factor of the sum over layers; in the authors' code 1e-6, and 1e-7 with spectral normalization."""
    mirror_on_feature_axis: bool = True
    """Concatenate w and -w along the feature axis, which changes no cosine and so gives the full-space energy."""
    norm_eps: NonNegative = 1e-4
    """Added to the squared norm of a filter."""
    log_eps: NonNegative = 1e-4
    """Added to the squared distance inside the logarithm."""
    squared_distance: bool = True
    """Take the logarithm of the squared distance, which doubles the energy."""
    average_over_all_entries: bool = True
    """Average over all N^2 entries, of which the masked ones are log(log_eps), instead of over the pairs."""
    counted_twice: bool = True
    """Add every layer twice; the authors' code builds the discriminator once for real and once for generated images."""
    include_output_layer: bool = True
    """Add the output layer, a constant because it has one neuron."""


class WeightDecayConfig(PenaltyTiming):
    """The magnitude term of the MHE objective: lambda_w / (sum_j N_j) sum_ij ||w_ij||."""

    coefficient: NonNegative = 5e-4
    """lambda_w."""
    power: Literal[1, 2] = 1
    """1: norm of each filter, as in the MHE paper; 2: half the squared norm, ordinary L2 decay."""


class SphereConvConfig(Section):
    """SphereNet, Liu et al. 2017: every convolution returns g(theta), where theta is the angle of filter and patch."""

    operator: Literal["cosine", "linear", "sigmoid", "learnable"] = "sigmoid"
    """g: the cosine, 1 - 2 theta / pi, a sigmoid of slope k, or a sigmoid with a trained k per filter."""
    k: Annotated[float, Field(gt=1e-6, lt=1e6)] = 0.3
    """Slope of the sigmoid, smaller is steeper; the initial value, above 0.05, where it is trained."""
    rescale: bool = False
    """SphereNorm: multiply by (||w|| ||x||)^rho, rho trained from 0; rho = 1 is ordinary convolution; cosine only."""


class ConstraintsConfig(Section):
    """The regularization of the discriminator. A section that is absent has no effect."""

    normalization: Literal["none", "batch", "layer", "weight", "spectral"] = "none"
    """Normalization of the discriminator's layers or weights."""
    clipping: ClippingConfig | None = None
    """Weight clipping."""
    gradient_penalty: GradientPenaltyConfig | None = None
    """Gradient penalty."""
    orthonormal: OrthonormalConfig | None = None
    """Orthonormal initialization and penalty."""
    mhe: MheConfig | None = None
    """Minimum hyperspherical energy."""
    official_mhe: OfficialMheConfig | None = None
    """MHE as in the authors' GAN code."""
    comhe: ComheConfig | None = None
    """Compressive MHE."""
    uniformity: UniformityConfig | None = None
    """Hyperspherical uniformity."""
    sphere_conv: SphereConvConfig | None = None
    """SphereConv layers instead of convolutions."""
    weight_decay: WeightDecayConfig | None = None
    """Decoupled weight decay of the MHE objective."""

    @model_validator(mode="after")
    def _no_contradiction(self) -> Self:
        if self.clipping and self.normalization in ("weight", "spectral"):
            raise ValueError(
                f"clipping bounds the raw weights, which {self.normalization!r} normalization then rescales; "
                "expected one of the two"
            )
        if self.sphere_conv and self.normalization in ("weight", "spectral"):
            raise ValueError(
                f"sphere_conv divides by the norm of each filter, so {self.normalization!r} normalization before it "
                "has no effect; expected one of the two"
            )
        if self.sphere_conv and self.sphere_conv.rescale and self.sphere_conv.operator != "cosine":
            raise ValueError(
                f"sphere_conv.rescale needs the cosine operator, the only one that can become an ordinary convolution; "
                f"got {self.sphere_conv.operator!r}"
            )
        if self.sphere_conv and self.sphere_conv.operator == "learnable" and self.sphere_conv.k <= 0.05:
            raise ValueError(
                "sphere_conv.k: expected an initial value above 0.05, the lower limit of the learnable operator; "
                f"got {self.sphere_conv.k:g}"
            )
        if self.sphere_conv and self.clipping:
            raise ValueError(
                "clipping bounds the norms of filters, which sphere_conv divides by; expected one of the two"
            )
        energies = [name for name, section in self if isinstance(section, PenaltyTiming) and section.is_energy]
        if len(energies) > 1:
            raise ValueError(f"{' and '.join(energies)} exclude each other; expected one of them")
        return self
