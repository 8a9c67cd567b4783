"""What a data set turned out to hold, as a value, as JSON and as one line. Loads no torch."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any

from pydantic import Field, TypeAdapter

from gan_mhe.records.fields import Name, Sha256, Step, Text, validated
from gan_mhe.text import printable

UNDIVIDED = "undivided"
"""Value of `DataSummary.split` for a folder without splits, all of which is read."""

_SHOWN_CLASSES = 10
_SHOWN_KINDS = 5

Counts = Annotated[Mapping[Text, Step], Field(max_length=100_000)]
"""Number of images or files by the name of a class or kind, which is the name of a folder or a suffix."""


@dataclass(frozen=True)
class DataSummary:
    """The facts about a loaded data set that a reader of its scores has to know."""

    name: Name
    """Key of `gan_mhe.config.names.DATASETS`."""
    split: Name
    """The split that was read, or `UNDIVIDED`."""
    images: Step
    """Number of images."""
    classes: Counts
    """Number of images of each class by its name, in the order of the labels; empty without labels."""
    passed_over: Counts
    """Number of files that were not read, by kind: a suffix such as `.tif`, `no suffix`, `hidden`, or `other`."""
    conversions: Counts
    """Number of images that lost something when they were decoded, by what was done, such as `alpha dropped`."""
    sha256: Sha256
    """SHA-256 of the images, labels and class names, in order: two runs with equal ones have trained on equal data.

    It does not depend on where the data are stored or in which files.
    """

    def document(self) -> dict[str, Any]:
        """The summary as JSON values."""
        return asdict(self)

    @classmethod
    def from_document(cls, document: Any) -> "DataSummary":
        """Inverse of `document`; ignores further keys. Raises ValueError if a field is missing or of another type."""
        summary: DataSummary = validated(TypeAdapter(cls).validate_python, document)
        return summary

    def line(self) -> str:
        """The summary as one line for a log or a terminal; it shortens long lists and the hash."""
        parts = [
            f"{self.name}: {self.images} image{'' if self.images == 1 else 's'}",
            _classes_text(self.classes),
            self.split if self.split == UNDIVIDED else f"split {self.split}",
            f"passed over: {counts_text(self.passed_over)}" if self.passed_over else "no file passed over",
            *([f"converted: {counts_text(self.conversions)}"] if self.conversions else []),
            f"content {self.sha256[:12]}",
        ]
        return "; ".join(parts)


def counts_text(counts: Mapping[str, int], shown: int = _SHOWN_KINDS) -> str:
    """Counts by name such as ".tif 30, .gif 2", the largest first; at most `shown` of them and the sum of the rest."""
    ordered = sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))
    texts = [f"{printable(name)} {count}" for name, count in ordered[:shown]]
    rest = sum(count for _, count in ordered[shown:])
    return ", ".join(texts + ([f"{rest} more"] if rest else []))


def _classes_text(classes: Mapping[str, int]) -> str:
    if not classes:
        return "no labels"
    if len(classes) > _SHOWN_CLASSES:
        return f"{len(classes)} classes of {min(classes.values())} to {max(classes.values())} images"
    named = ", ".join(f"{printable(name)} {count}" for name, count in classes.items())
    return f"{len(classes)} class{'' if len(classes) == 1 else 'es'} ({named})"
