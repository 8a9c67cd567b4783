"""What a run reads besides its configuration, identified by content. Loads no torch."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Inputs:
    """The content of the files that a configuration only names; None where it is unknown."""

    data_sha256: str | None = None
    """`DataSummary.sha256` of the images that are trained on."""
    weights_sha256: str | None = None
    """SHA-256 of the weights file of the scorer; None if the run is not scored."""

    def document(self) -> dict[str, str | None]:
        """The hashes as JSON values."""
        return asdict(self)

    @classmethod
    def from_document(cls, document: Any) -> "Inputs":
        """Inverse of `document`. None, which older versions left, and a hash that is no text are unknown."""
        values = document if isinstance(document, Mapping) else {}
        known = {key: values.get(key) for key in ("data_sha256", "weights_sha256")}
        return cls(**{key: value if isinstance(value, str) else None for key, value in known.items()})

    @classmethod
    def of_result(cls, result: Mapping[str, Any]) -> "Inputs":
        """The inputs that the document of a result states."""
        data = result.get("data") or {}
        return cls.from_document({"data_sha256": data.get("sha256"), "weights_sha256": result.get("weights_sha256")})

    def differing(self, other: "Inputs") -> dict[str, tuple[str, str]]:
        """The hashes that both know and that differ, by the name of the field: own, then the other's."""
        own, others = self.document(), other.document()
        return {
            key: (mine, theirs)
            for key, mine in own.items()
            if mine is not None and (theirs := others[key]) is not None and mine != theirs
        }
