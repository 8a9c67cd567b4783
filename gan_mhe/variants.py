"""The named variants: what each row of the MHE paper's Table 14, and each of its relatives, is made of.

A variant is a patch over a base configuration. It owns the whole `constraints` section and, where the method
prescribes one, the loss. Strengths: the published code multiplies its energy by 1e-7 or 1e-6 and averages over
all N x N entries, which makes the term numerically inert; the `_official` rows keep that. The others use the pair
mean E / (N (N - 1)) summed over layers with lambda = 1, which does change training. Without spectral normalisation it
rises over the first 500 steps: at full strength from the start the energy dwarfs the gradient of an untrained
discriminator, and Adam, which divides by what it has seen, then starves that gradient for a thousand steps. With the
digits preset lambda = 10 starves it even so.

CoMHE and the measures of uniformity have published strengths for classifiers only. With lambda 1, CoMHE of the digits
preset pulls at 20 % of the adversarial gradient at first and starves it as above, warm-up or not. They are given a
tenth of that gradient instead (`ratio`), which also makes them comparable with one another.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True)
class Variant:
    """One row: what it is, where it comes from, and the configuration patch that makes it."""

    description: str
    source: str
    patch: Mapping[str, Any]


def _constraints(**sections: Any) -> dict[str, Any]:
    return {"constraints": sections}


def _mhe(lambda_hidden: float, **options: Any) -> dict[str, Any]:
    return {"mhe": {"lambda_hidden": lambda_hidden, **options}}


_SPECTRAL = {"normalization": "spectral"}
_RISING = {"schedule": {"warmup_steps": 500}}
# 2e-4 / 2 ||W W^T - I||^2 in place of weight decay, in the authors' code.
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
            "Gulrajani et al. 2017, as set by Miyato et al. 2018",
            _constraints(gradient_penalty={"coefficient": 10.0}),
        ),
        "wgan_gp": Variant(
            "Wasserstein loss with the two-sided gradient penalty, coefficient 10",
            "Gulrajani et al. 2017",
            {**_constraints(gradient_penalty={"coefficient": 10.0}), "loss": "wasserstein"},
        ),
        "batch_norm": Variant(
            "batch normalisation in the discriminator, shift but no scale, none after the first layer",
            "Ioffe and Szegedy 2015, as set by Miyato et al. 2018",
            _constraints(normalization="batch"),
        ),
        "layer_norm": Variant(
            "layer normalisation in the discriminator, shift but no scale",
            "Ba et al. 2016, as set by Miyato et al. 2018",
            _constraints(normalization="layer"),
        ),
        "weight_norm": Variant(
            "every filter scaled to unit norm, no trained scale",
            "Salimans and Kingma 2016, gamma fixed to 1 as in Miyato et al. 2018",
            _constraints(normalization="weight"),
        ),
        "orthonormal": Variant(
            "orthonormal initialisation and the penalty ||W W^T - I||^2 per layer",
            "Brock et al. 2017, as set by Miyato et al. 2018 (their coefficient is not stated; ours is 1e-3)",
            _constraints(orthonormal={"coefficient": 1e-3, "initialise": True}),
        ),
        "spectral_norm": Variant(
            "every layer divided by its largest singular value, one power iteration a forward pass",
            "Miyato et al. 2018",
            _constraints(**_SPECTRAL),
        ),
        "mhe": Variant(
            "minimum hyperspherical energy of the hidden layers, lambda 1",
            "Liu et al. 2018 (MHE), s = 0",
            _constraints(**_mhe(1.0, **_RISING)),
        ),
        "half_mhe": Variant(
            "half-space MHE: w and -w count as one direction, lambda 1",
            "Liu et al. 2018 (MHE), s = 0",
            _constraints(**_mhe(1.0, **_RISING, half_space=True)),
        ),
        "angular_mhe": Variant(
            "MHE on the angle instead of the chord (A-MHE), lambda 1",
            "Liu et al. 2018 (MHE), s = 0",
            _constraints(**_mhe(1.0, **_RISING, distance="geodesic")),
        ),
        "half_angular_mhe": Variant(
            "half-space MHE on the angle, lambda 1",
            "Liu et al. 2018 (MHE), s = 0",
            _constraints(**_mhe(1.0, **_RISING, distance="geodesic", half_space=True)),
        ),
        "mhe_sn": Variant(
            "MHE, lambda 1, with spectral normalisation",
            "Liu et al. 2018 (MHE), Table 14",
            _constraints(**_SPECTRAL, **_mhe(1.0)),
        ),
        "half_mhe_sn": Variant(
            "half-space MHE, lambda 1, with spectral normalisation",
            "Liu et al. 2018 (MHE)",
            _constraints(**_SPECTRAL, **_mhe(1.0, half_space=True)),
        ),
        "comhe": Variant(
            "energy of the neurons under 20 random projections to 40 dimensions, half space, s = 2, ratio 0.1",
            "Lin et al. 2020 (RP-CoMHE); the authors draw anew at every step, here at every tenth",
            _constraints(**_comhe()),
        ),
        "comhe_sn": Variant(
            "CoMHE under random projections, ratio 0.1, with spectral normalisation",
            "Lin et al. 2020 (RP-CoMHE), a combination of ours",
            _constraints(**_SPECTRAL, **_comhe()),
        ),
        "comhe_angle": Variant(
            "energy under one projection to 30 dimensions that is trained to preserve the angles, ratio 0.1",
            "Lin et al. 2020 (AP-CoMHE), as in the authors' code but for the strength",
            _constraints(**_comhe(projection="angle_preserving", dimension=30)),
        ),
        "comhe_adversarial": Variant(
            "energy under one projection to 30 dimensions that is slowly trained to raise it, ratio 0.1",
            "Lin et al. 2020 (adversarial CoMHE), as in the authors' code but for the strength",
            _constraints(**_comhe(projection="adversarial", dimension=30, inner_steps=10)),
        ),
        "comhe_group": Variant(
            "mean energy of 8 random blocks of the coordinates, ratio 0.1",
            "Lin et al. 2020 (group CoMHE), our reading: its formula was not to be had",
            _constraints(**_comhe(projection="group", count=8)),
        ),
        "mhs": Variant(
            "maximum hyperspherical separation: pushes the closest pair of filters apart, ratio 0.1",
            "Liu et al. 2021 (hyperspherical uniformity), as in the authors' code but for the strength",
            _uniformity("separation"),
        ),
        "mhp": Variant(
            "maximum hyperspherical polarization: against the pole of least potential, ratio 0.1",
            "Liu et al. 2021, as in the authors' code but for the strength",
            _uniformity("polarization"),
        ),
        "r_mhp": Variant(
            "relaxed polarization: norm of the sum of the filters, ratio 0.1",
            "Liu et al. 2021, as in the authors' code but for the strength",
            _uniformity("relaxed_polarization"),
        ),
        "mhc": Variant(
            "minimum hyperspherical covering: closes the largest hole between filters, ratio 0.1",
            "Liu et al. 2021, as in the authors' code but for the strength",
            _uniformity("covering"),
        ),
        "mgd": Variant(
            "maximum Gram determinant: log det of a Gaussian kernel of the filters, ratio 0.1",
            "Liu et al. 2021, as in the authors' code but for the strength",
            _uniformity("gram_determinant"),
        ),
        "sphere_conv": Variant(
            "sigmoid SphereConv, k = 0.3: convolutions of angles, with the orthogonality term 2e-4 / 2",
            "Liu et al. 2017 (SphereNet); their code adds batch normalisation, has no bias, and spares the output",
            _constraints(sphere_conv={"operator": "sigmoid", "k": 0.3}, **_SPHERE_ORTHOGONALITY),
        ),
        "sphere_conv_learnable": Variant(
            "sigmoid SphereConv with k trained for each filter, with the orthogonality term",
            "Liu et al. 2017 (SphereNet); their code adds batch normalisation, has no bias, and spares the output",
            _constraints(sphere_conv={"operator": "learnable", "k": 0.75}, **_SPHERE_ORTHOGONALITY),
        ),
        "sphere_norm": Variant(
            "SphereNorm: cosine SphereConv times (||w|| ||x||)^rho, rho trained from 0",
            "Liu et al. 2017 (SphereNet), our reading: its parametrisation was not to be had",
            _constraints(sphere_conv={"operator": "cosine", "rescale": True}),
        ),
        "mhe_official": Variant(
            "MHE exactly as the authors' GAN code computes it, lambda 1e-6: numerically inert",
            "the authors' code, every quirk kept",
            _constraints(official_mhe={"coefficient": 1e-6}),
        ),
        "mhe_sn_official": Variant(
            "the authors' MHE with spectral normalisation, lambda 1e-7: numerically inert",
            "the authors' code, every quirk kept",
            _constraints(**_SPECTRAL, official_mhe={"coefficient": 1e-7}),
        ),
    }
)
