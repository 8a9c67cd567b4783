"""What a run is: one frozen, closed description, TOML on disk and JSON on the wire.

`RunConfig.model_validate(document)` fills in the document's variant beneath its explicit keys, checks every field
and every pair of fields that can contradict each other, and never touches a device, a file or the network.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from gan_mhe.config.constraints import ConstraintsConfig
from gan_mhe.config.documents import flatten, merge
from gan_mhe.config.protocols import find_protocol
from gan_mhe.config.sections import (
    CheckpointConfig,
    DataConfig,
    DiscriminatorConfig,
    EvaluationConfig,
    GeneratorConfig,
    OptimizerConfig,
    SamplingConfig,
    Section,
    TrainingConfig,
)
from gan_mhe.errors import nearest
from gan_mhe.files import canonical_json, sha256_bytes
from gan_mhe.variants import VARIANTS

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


Identity = dict[str, Any]
DigestKind = Literal["config", "without_seed", "comparable", "resumable"]


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
        protocol = find_protocol(self.evaluation.protocol)
        if protocol and protocol.image_size not in (None, self.data.image_size):
            raise ValueError(
                f"evaluation.protocol {self.evaluation.protocol!r} scores {protocol.image_size} pixel images; "
                f"data.image_size is {self.data.image_size}"
            )
        return self

    def document(self) -> dict[str, Any]:
        """The whole configuration as JSON values, every default written out."""
        return self.model_dump(mode="json")

    def identity(self) -> dict[str, Any]:
        """The dotted keys that determine what the run computes."""
        return {key: value for key, value in flatten(self.document()).items() if key not in EXECUTION_KEYS}

    def digest(self, kind: DigestKind = "config") -> str:
        """SHA-256 of the part of the identity that `DIGESTS` names: equal digests agree in that part."""
        return sha256_bytes(canonical_json(DIGESTS[kind](self.identity())))

    def changes_on_resume(self, saved: "RunConfig") -> list[str]:
        """The keys, with both values, in which this configuration would not continue `saved`."""
        keys = _resumable(self.identity()).keys() | _resumable(saved.identity()).keys()
        if self.training.steps < saved.training.steps:
            keys |= {"training.steps"}
        mine, theirs = self.identity(), saved.identity()
        return [
            f"{key} was {theirs.get(key)!r}, is {mine.get(key)!r}"
            for key in sorted(keys)
            if mine.get(key) != theirs.get(key)
        ]


def _without_seed(identity: Identity) -> Identity:
    return {key: value for key, value in identity.items() if key != "seed"}


def _comparable(identity: Identity) -> Identity:
    own = ("seed", "variant", "loss", "constraints")
    return {key: value for key, value in identity.items() if key.split(".")[0] not in own}


def _resumable(identity: Identity) -> Identity:
    steps_matter = any(value != "constant" for key, value in identity.items() if key.endswith("schedule.kind"))
    return {key: value for key, value in identity.items() if steps_matter or key != "training.steps"}


DIGESTS: Mapping[DigestKind, Callable[[Identity], Identity]] = MappingProxyType(
    {
        "config": lambda identity: identity,
        "without_seed": _without_seed,
        "comparable": _comparable,
        "resumable": _resumable,
    }
)
"""What each kind of digest covers of a configuration's identity.

config: all of it; equal digests are the same run, wherever it is executed. without_seed: equal digests are seeds of one
arm. comparable: what the arms of a fair comparison share: data, networks, optimiser, steps, evaluation. resumable: a
checkpoint fits every configuration with its digest; the number of steps is left out while every schedule is constant,
because only a decay depends on where the run ends.
"""
