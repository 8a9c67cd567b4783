"""What the weights file of a classifier says about it, and whether its scores can mean anything. Loads no torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gan_mhe.errors import ExtractorError


@dataclass(frozen=True)
class ClassifierFacts:
    """The facts about a classifier that decide what its scores mean."""

    class_names: tuple[str, ...]
    """Names of the classes that it tells apart, in the order of its logits."""
    image_size: int
    """The only image size that it accepts, in pixels."""
    accuracy: float | None
    """Accuracy on held-out images in 0..1; None if the file does not state it."""
    training_set: str | None
    """Name of the data set that it was trained on; None if the file does not state it."""
    training_set_sha256: str | None
    """Hash of the images that it was trained on; None if the file does not state it."""

    @classmethod
    def of(cls, metadata: Mapping[str, Any]) -> "ClassifierFacts":
        """The facts in the metadata of a weights file, as `train_classifier` writes them."""
        return cls(
            class_names=tuple(metadata["class_names"]),
            image_size=metadata["image_size"],
            accuracy=metadata.get("held_out_accuracy"),
            training_set=metadata.get("training_set"),
            training_set_sha256=metadata.get("training_set_sha256"),
        )

    def check(self, origin: str, *, smallest_skill: float) -> None:
        """Raise ExtractorError for a classifier of fewer than two classes, or one that hardly beats chance.

        origin: what the message calls the classifier. Chance is the accuracy of a guess, 1 / number of classes.
        """
        count = len(self.class_names)
        if count < 2:
            raise ExtractorError(
                f"{origin}: expected a classifier of at least 2 classes, got {count}; its Inception score is 1 for any "
                "image"
            )
        if self.accuracy is not None:
            check_skill(origin, accuracy=self.accuracy, chance=1 / count, smallest=smallest_skill)

    def mismatch(self, data: str, class_names: tuple[str, ...], content_sha256: str) -> str | None:
        """A notice that the classifier was trained on other data than it scores; None if it was not, or if unknown.

        Images of one data set with the same classes count as the same data, such as its test split.
        """
        if self.training_set is None or self.training_set_sha256 == content_sha256:
            return None
        if (self.training_set, self.class_names) == (data, class_names):
            return None
        return (
            f"its classifier was trained on {self.training_set} ({_listed(self.class_names)}), but scores {data} "
            f"({_listed(class_names)}): the scores say how well images fit the classes of {self.training_set}"
        )


def check_skill(origin: str, *, accuracy: float, chance: float, smallest: float) -> None:
    """Raise ExtractorError if (accuracy - chance) / (1 - chance) is below `smallest`.

    accuracy, chance: in 0..1, of the classifier and of a guess; chance is below 1. origin: what the message calls it.
    """
    needed = chance + smallest * (1 - chance)
    if accuracy < needed:
        raise ExtractorError(
            f"{origin}: expected a held-out accuracy of at least {needed:.3f}, because chance is {chance:.3f}; got "
            f"{accuracy:.3f}; scores of a classifier near chance mean nothing: train it longer or wider, or on classes "
            "that images can tell apart"
        )


def _listed(class_names: tuple[str, ...]) -> str:
    """The number of classes with the first names."""
    if not class_names:
        return "no classes"
    shown = ", ".join(class_names[:3]) + (", ..." if len(class_names) > 3 else "")
    return f"{len(class_names)} class{'es' if len(class_names) > 1 else ''}: {shown}"
