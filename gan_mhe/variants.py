"""The named variants: the rows of Table 14 of the MHE paper and related methods, as configuration patches.

A variant is a patch over a base configuration. It sets the whole `constraints` section and, where the method prescribes
one, the loss.

Coefficients. The published code multiplies its energy by 1e-7 or 1e-6 and averages over all N x N entries, which makes
the term numerically inert; the `_official` variants keep both. The other MHE variants use the pair mean
E / (N (N - 1)), summed over layers with lambda = 1, which does change training. Without spectral normalization the
coefficient rises over the first 500 steps: at full strength from the start, the gradient of the energy is much larger
than the adversarial gradient of an untrained discriminator, and Adam, which normalizes by past gradients, suppresses
the adversarial one for about a thousand steps. On the digits preset lambda = 10 suppresses it even with this warm-up.

CoMHE and the measures of uniformity have published coefficients for classifiers only. On the digits preset the gradient
of CoMHE with lambda = 1 has 20 % of the norm of the adversarial gradient at first and suppresses it in the same way,
with or without warm-up. These variants therefore use `ratio`, which holds the norm of the penalty's gradient at a tenth
of the adversarial gradient's and makes them comparable with each other.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True)
class Variant:
    """One variant: a one-line description, its source, and the configuration patch that defines it."""

    description: str
    source: str
    patch: Mapping[str, Any]


def _constraints(**sections: Any) -> dict[str, Any]:
    return {"constraints": sections}


def _mhe(lambda_hidden: float, **options: Any) -> dict[str, Any]:
    return {"mhe": {"lambda_hidden": lambda_hidden, **options}}


_SPECTRAL = {"normalization": "spectral"}
_WARM_UP = {"schedule": {"warmup_steps": 500}}
# The authors' code has 2e-4 / 2 ||W W^T - I||^2 in place of weight decay.
_SPHERE_ORTHOGONALITY = {"orthonormal": {"coefficient": 1e-4, "initialise": False}}
_TENTH = {"ratio": {"target": 0.1}}


def _comhe(**options: Any) -> dict[str, Any]:
    return {"comhe": {**_TENTH, **options}}


def _uniformity(measure: str) -> dict[str, Any]:
    return _constraints(uniformity={"measure": measure, **_TENTH})


VARIANTS: Mapping[str, Variant] = MappingProxyType(
    {
        "none": Variant(
            "no constraint on the discriminator",
            "the control of every comparison",
            _constraints(),
        ),
        "weight_clipping": Variant(
            "conv weights clipped to +-0.01 after every discriminator update",
            "Arjovsky et al. 2017, with the standard loss as in Miyato et al. 2018",
            _constraints(clipping={"bound": 0.01}),
        ),
        "gan_gp": Variant(
            "standard loss with the two-sided gradient penalty, coefficient 10",
            "Gulrajani et al. 2017, as in Miyato et al. 2018",
            _constraints(gradient_penalty={"coefficient": 10.0}),
        ),
        "wgan_gp": Variant(
            "Wasserstein loss with the two-sided gradient penalty, coefficient 10",
            "Gulrajani et al. 2017",
            {**_constraints(gradient_penalty={"coefficient": 10.0}), "loss": "wasserstein"},
        ),
        "batch_norm": Variant(
            "batch normalization in the discriminator, shift but no scale, none after the first layer",
            "Ioffe and Szegedy 2015, as in Miyato et al. 2018",
            _constraints(normalization="batch"),
        ),
        "layer_norm": Variant(
            "layer normalization in the discriminator, shift but no scale",
            "Ba et al. 2016, as in Miyato et al. 2018",
            _constraints(normalization="layer"),
        ),
        "weight_norm": Variant(
            "every filter scaled to unit norm, no trained scale",
            "Salimans and Kingma 2016, gamma fixed to 1 as in Miyato et al. 2018",
            _constraints(normalization="weight"),
        ),
        "orthonormal": Variant(
            "orthonormal initialization and the penalty ||W W^T - I||^2 per layer",
            "Brock et al. 2017, as in Miyato et al. 2018 (their coefficient is not stated; ours is 1e-3)",
            _constraints(orthonormal={"coefficient": 1e-3, "initialise": True}),
        ),
        "spectral_norm": Variant(
            "every layer divided by its largest singular value, one power iteration per forward pass",
            "Miyato et al. 2018",
            _constraints(**_SPECTRAL),
        ),
        "mhe": Variant(
            "minimum hyperspherical energy of the hidden layers, lambda 1",
            "Liu et al. 2018 (MHE), s = 0",
            _constraints(**_mhe(1.0, **_WARM_UP)),
        ),
        "half_mhe": Variant(
            "half-space MHE: w and -w count as one direction, lambda 1",
            "Liu et al. 2018 (MHE), s = 0",
            _constraints(**_mhe(1.0, **_WARM_UP, half_space=True)),
        ),
        "angular_mhe": Variant(
            "MHE on the angle instead of the chord (A-MHE), lambda 1",
            "Liu et al. 2018 (MHE), s = 0",
            _constraints(**_mhe(1.0, **_WARM_UP, distance="geodesic")),
        ),
        "half_angular_mhe": Variant(
            "half-space MHE on the angle, lambda 1",
            "Liu et al. 2018 (MHE), s = 0",
            _constraints(**_mhe(1.0, **_WARM_UP, distance="geodesic", half_space=True)),
        ),
        "mhe_sn": Variant(
            "MHE, lambda 1, with spectral normalization",
            "Liu et al. 2018 (MHE), Table 14",
            _constraints(**_SPECTRAL, **_mhe(1.0)),
        ),
        "half_mhe_sn": Variant(
            "half-space MHE, lambda 1, with spectral normalization",
            "Liu et al. 2018 (MHE)",
            _constraints(**_SPECTRAL, **_mhe(1.0, half_space=True)),
        ),
        "comhe": Variant(
            "energy of the neurons under 20 random projections to 40 dimensions, half space, s = 2, ratio 0.1",
            "Lin et al. 2020 (RP-CoMHE); projections are redrawn every 10 steps, in the authors' code every step",
            _constraints(**_comhe()),
        ),
        "comhe_sn": Variant(
            "CoMHE under random projections, ratio 0.1, with spectral normalization",
            "Lin et al. 2020 (RP-CoMHE), our combination",
            _constraints(**_SPECTRAL, **_comhe()),
        ),
        "comhe_angle": Variant(
            "energy under one projection to 30 dimensions that is trained to preserve the angles, ratio 0.1",
            "Lin et al. 2020 (AP-CoMHE), as in the authors' code except for the coefficient",
            _constraints(**_comhe(projection="angle_preserving", dimension=30)),
        ),
        "comhe_adversarial": Variant(
            "energy under one projection to 30 dimensions that is slowly trained to raise it, ratio 0.1",
            "Lin et al. 2020 (adversarial CoMHE), as in the authors' code except for the coefficient",
            _constraints(**_comhe(projection="adversarial", dimension=30, inner_steps=10)),
        ),
        "comhe_group": Variant(
            "mean energy of 8 random blocks of the coordinates, ratio 0.1",
            "Lin et al. 2020 (group CoMHE), our interpretation; the paper's formula is not public",
            _constraints(**_comhe(projection="group", count=8)),
        ),
        "mhs": Variant(
            "maximum hyperspherical separation: pushes the closest pair of filters apart, ratio 0.1",
            "Liu et al. 2021 (hyperspherical uniformity), as in the authors' code except for the coefficient",
            _uniformity("separation"),
        ),
        "mhp": Variant(
            "maximum hyperspherical polarization: raises the lowest potential on the sphere, ratio 0.1",
            "Liu et al. 2021, as in the authors' code except for the coefficient",
            _uniformity("polarization"),
        ),
        "r_mhp": Variant(
            "relaxed polarization: norm of the sum of the filters, ratio 0.1",
            "Liu et al. 2021, as in the authors' code except for the coefficient",
            _uniformity("relaxed_polarization"),
        ),
        "mhc": Variant(
            "minimum hyperspherical covering: closes the largest hole between filters, ratio 0.1",
            "Liu et al. 2021, as in the authors' code except for the coefficient",
            _uniformity("covering"),
        ),
        "mgd": Variant(
            "maximum Gram determinant: log det of a Gaussian kernel of the filters, ratio 0.1",
            "Liu et al. 2021, as in the authors' code except for the coefficient",
            _uniformity("gram_determinant"),
        ),
        "sphere_conv": Variant(
            "sigmoid SphereConv, k = 0.3: convolutions of angles, with the orthogonality term 2e-4 / 2",
            "Liu et al. 2017 (SphereNet); their code adds batch normalization, no bias, and skips the output layer",
            _constraints(sphere_conv={"operator": "sigmoid", "k": 0.3}, **_SPHERE_ORTHOGONALITY),
        ),
        "sphere_conv_learnable": Variant(
            "sigmoid SphereConv with k trained for each filter, with the orthogonality term",
            "Liu et al. 2017 (SphereNet); their code adds batch normalization, no bias, and skips the output layer",
            _constraints(sphere_conv={"operator": "learnable", "k": 0.75}, **_SPHERE_ORTHOGONALITY),
        ),
        "sphere_norm": Variant(
            "SphereNorm: cosine SphereConv times (||w|| ||x||)^rho, rho trained from 0",
            "Liu et al. 2017 (SphereNet), our interpretation; the parametrization is not public",
            _constraints(sphere_conv={"operator": "cosine", "rescale": True}),
        ),
        "mhe_official": Variant(
            "MHE exactly as the authors' GAN code computes it, lambda 1e-6: numerically inert",
            "the authors' code with all its deviations",
            _constraints(official_mhe={"coefficient": 1e-6}),
        ),
        "mhe_sn_official": Variant(
            "the authors' MHE with spectral normalization, lambda 1e-7: numerically inert",
            "the authors' code with all its deviations",
            _constraints(**_SPECTRAL, official_mhe={"coefficient": 1e-7}),
        ),
    }
)
