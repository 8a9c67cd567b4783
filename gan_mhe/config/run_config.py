"""The configuration of a run: one frozen, closed model, written as TOML by people and as JSON by programs.

`RunConfig.model_validate(document)` fills in the document's variant beneath its explicit keys; `RunConfig.stored` reads
a configuration back as it was written. Both check every field and every pair of fields that can contradict each other,
and use no device, file or network.
"""

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, ValidationInfo, model_validator
from pydantic_core import PydanticCustomError

from gan_mhe.config.constraints import ConstraintsConfig
from gan_mhe.config.documents import flatten, merge
from gan_mhe.config.labels import deviations, folder_name, labeled
from gan_mhe.config.names import DATASETS, DEFAULT_TASK, LOSSES, LossName, describe
from gan_mhe.config.protocols import default_protocol, find_protocol, too_few_samples
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

# The keys that say where and how a run is executed and what is kept of it, not what it computes.
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

_STORED = "stored"  # validation context: the document is complete, its variant is filled in already

Identity = dict[str, Any]
DigestKind = Literal["config", "without_seed", "comparable", "resumable"]


class RunConfig(Section):
    """The complete configuration of one run. Equal digests compute the same."""

    task: ClassVar[str] = DEFAULT_TASK
    """Key of `gan_mhe.config.names.TASKS`; there is only one task so far."""
    variant: Annotated[str, Field(max_length=40)] = "none"
    """Named variant (`gan-mhe variants`); keys written in the same document override its own."""
    seed: Annotated[int, Field(ge=0, lt=2**53)] = 0
    """Training seed: determines the initial weights, the latents and the order of the data."""
    data: DataConfig = DataConfig()
    generator: GeneratorConfig = GeneratorConfig()
    discriminator: DiscriminatorConfig = DiscriminatorConfig()
    loss: Annotated[LossName, Field(description=f"Adversarial loss of both networks: {describe(LOSSES)}.")] = (
        "non_saturating"
    )
    constraints: ConstraintsConfig = ConstraintsConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    training: TrainingConfig = TrainingConfig()
    sampling: SamplingConfig = SamplingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()

    @model_validator(mode="before")
    @classmethod
    def _fill_in_variant(cls, document: Any, info: ValidationInfo) -> Any:
        if not isinstance(document, dict) or info.context == _STORED:
            return document
        name = document.get("variant", "none")
        if not isinstance(name, str) or name not in VARIANTS:
            raise ValueError(f"variant: unknown variant {name!r}{nearest(str(name), VARIANTS)}")
        return _with_protocol(merge(VARIANTS[name].patch, document))

    @model_validator(mode="after")
    def _no_contradiction(self, info: ValidationInfo) -> Self:
        if self.evaluation.ema and not self.generator.ema_halflife_steps:
            raise ValueError(
                "evaluation.ema scores a moving average, but generator.ema_halflife_steps is 0; expected > 0"
            )
        if DATASETS[self.data.name].needs_root and self.data.root is None:
            raise ValueError(f"data.root is missing; expected the folder of the {self.data.name}")
        protocol = find_protocol(self.evaluation.protocol)
        if protocol and protocol.image_size not in (None, self.data.image_size):
            raise ValueError(
                f"evaluation.protocol {self.evaluation.protocol!r} scores {protocol.image_size} pixel images; "
                f"data.image_size is {self.data.image_size}"
            )
        if info.context != _STORED and protocol and self.evaluation.num_samples is not None:
            lack = too_few_samples(self.evaluation.protocol, self.evaluation.num_samples)
            if lack:
                raise PydanticCustomError("too_few", "evaluation.num_samples: {lack}", {"lack": lack})
        return self

    @classmethod
    def stored(cls, document: Any) -> Self:
        """A configuration read back as it was written: today's table of variants has no part in it.

        document: what `document` returned, perhaps of an older version. A key that it lacks takes its plain default
        rather than the variant's value, and a variant that no longer exists is kept by name. Raises pydantic's
        ValidationError, a ValueError, for an unknown key or a value out of range.
        """
        return cls.model_validate(document, context=_STORED)

    def document(self) -> dict[str, Any]:
        """The whole configuration as JSON values, every default written out."""
        return self.model_dump(mode="json")

    @property
    def label(self) -> str:
        """The variant with the settings in which this configuration differs from it.

        Such as `none + constraints.normalization=spectral`. It covers the constraints and the loss: a variant sets all
        constraints, and a loss that it does not set is the default one. A variant of another version, which is not
        known, is its bare name.
        """
        return labeled(self.variant, self._variant_settings)

    @property
    def folder_name(self) -> str:
        """`label` as the name of a folder; the bare name of the variant if there are no other settings."""
        return folder_name(self.variant, self._variant_settings)

    @property
    def _variant_settings(self) -> list[str]:
        if self.variant not in VARIANTS:
            return []
        return deviations(self, _plain(self.variant), ("loss", "constraints"))

    @property
    def network_settings(self) -> tuple[str, ...]:
        """The settings of generator and discriminator that differ from the defaults, such as `generator.width=0.25`."""
        return tuple(deviations(self, _plain("none"), ("generator", "discriminator")))

    @property
    def named_files(self) -> tuple[Path | None, Path | None]:
        """What names the content that is read besides the configuration: `data.root` and `evaluation.weights`."""
        return self.data.root, self.evaluation.weights

    def identity(self) -> dict[str, Any]:
        """The dotted keys that determine what the run computes."""
        return {key: value for key, value in flatten(self.document()).items() if key not in EXECUTION_KEYS}

    def digest(self, kind: DigestKind = "config") -> str:
        """SHA-256 of the part of the identity that `DIGESTS` names: equal digests agree in that part."""
        return sha256_bytes(canonical_json(DIGESTS[kind](self.identity())))

    def changes_on_resume(self, saved: "RunConfig") -> list[str]:
        """The keys that keep this configuration from resuming a run of `saved`, with both values."""
        keys = _resumable(self.identity()).keys() | _resumable(saved.identity()).keys()
        if self.training.steps < saved.training.steps:
            keys |= {"training.steps"}
        mine, theirs = self.identity(), saved.identity()
        return [
            f"{key} was {theirs.get(key)!r}, is {mine.get(key)!r}"
            for key in sorted(keys)
            if mine.get(key) != theirs.get(key)
        ]

    def why_steps_are_fixed(self, saved: "RunConfig") -> str | None:
        """Why a run of `saved` cannot be resumed with this number of steps; None if it can."""
        if self.training.steps == saved.training.steps:
            return None
        for key, kind in (_decays(saved.identity()) | _decays(self.identity())).items():
            return f"{key} = {kind!r} reaches 0 at the last step, so every step depends on the number of steps"
        return "a run can only be made longer" if self.training.steps < saved.training.steps else None


@cache
def _plain(variant: str) -> RunConfig:
    """The variant with every other setting at its default."""
    return RunConfig(variant=variant)


def _with_protocol(document: dict[str, Any]) -> dict[str, Any]:
    """The document of a user with the protocol made for its data, unless it names one."""
    data, evaluation = document.get("data", {}), document.get("evaluation", {})
    if not isinstance(evaluation, dict) or "protocol" in evaluation:
        return document
    default = DataConfig.model_fields["name"].default
    name = data.get("name", default) if isinstance(data, dict) else getattr(data, "name", default)
    return {**document, "evaluation": {**evaluation, "protocol": default_protocol(name)}}


def _without_seed(identity: Identity) -> Identity:
    return {key: value for key, value in identity.items() if key != "seed"}


def _comparable(identity: Identity) -> Identity:
    own = ("seed", "variant", "loss", "constraints")
    return {key: value for key, value in identity.items() if key.split(".")[0] not in own}


def _resumable(identity: Identity) -> Identity:
    steps_matter = bool(_decays(identity))
    return {key: value for key, value in identity.items() if steps_matter or key != "training.steps"}


def _decays(identity: Identity) -> dict[str, str]:
    """The schedules that depend on where the run ends, by key."""
    kinds = {key: value for key, value in identity.items() if key.endswith("schedule.kind")}
    return {key: kind for key, kind in kinds.items() if kind != "constant"}


DIGESTS: Mapping[DigestKind, Callable[[Identity], Identity]] = MappingProxyType(
    {
        "config": lambda identity: identity,
        "without_seed": _without_seed,
        "comparable": _comparable,
        "resumable": _resumable,
    }
)
"""The part of a configuration's identity that each kind of digest covers.

config: all of it; runs with equal digests compute the same, wherever they are executed. without_seed: all but the
seed; runs with equal digests are seeds of one arm. comparable: what the arms of a fair comparison share: data,
networks, optimizer, steps and evaluation. resumable: a checkpoint fits every configuration with its digest; the number
of steps is left out while every schedule is constant, because only a decay depends on where the run ends.
"""
