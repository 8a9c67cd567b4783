"""The `constraints` section: normalisations, penalties and projections of the discriminator."""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from gan_mhe.config.sections import Count, NonNegative, Positive, Schedule, Section


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

    is_energy: ClassVar[bool] = False  # whether it spreads the neurons' directions; a run has at most one such penalty

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

    is_energy: ClassVar[bool] = True

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

    is_energy: ClassVar[bool] = True

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

    is_energy: ClassVar[bool] = True

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
        energies = [name for name, section in self if isinstance(section, PenaltyTiming) and section.is_energy]
        if len(energies) > 1:
            raise ValueError(f"{' and '.join(energies)} are forms of one penalty; expected one of them")
        return self
