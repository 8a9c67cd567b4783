"""Which runs belong together: the content that they have read, and the labels of their rows. Loads no torch."""

from collections.abc import Collection, Sequence
from dataclasses import replace

from gan_mhe.comparison.results import RunScore
from gan_mhe.config.labels import labeled
from gan_mhe.errors import ConfigError, ProtocolMismatchError

_INPUT_NAMES = {"data_sha256": "images", "weights_sha256": "weights of the scorer"}


def check_inputs(scores: Sequence[RunScore]) -> None:
    """ProtocolMismatchError if runs of one data set and one protocol have read different content.

    Runs of older versions, whose content is unknown, differ from none.
    """
    for group in _grouped(scores):
        differences = [text for key, name in _INPUT_NAMES.items() if (text := _difference(group, key, name))]
        if differences:
            raise ProtocolMismatchError(
                f"runs of one configuration have read different files: {'; '.join(differences)}"
            )


def _difference(group: Sequence[RunScore], key: str, name: str) -> str | None:
    """The first two runs of which one hash is known and differs; runs that do not know theirs hide nothing."""
    known = [(sha256, score.job) for score in group if (sha256 := score.inputs.document()[key]) is not None]
    for sha256, job in known[1:]:
        if sha256 != known[0][0]:
            return f"{name} of SHA-256 {known[0][0][:12]} in {known[0][1]} and {sha256[:12]} in {job}"
    return None


def _grouped(scores: Sequence[RunScore]) -> list[list[RunScore]]:
    """The runs whose configurations name the same data and scorer."""
    groups: dict[str, list[RunScore]] = {}
    for score in scores:
        groups.setdefault(score.comparable_digest, []).append(score)
    return list(groups.values())


def with_networks(scores: Sequence[RunScore]) -> list[RunScore]:
    """The runs with labels that contain the settings of networks in which the runs differ."""
    shared = set.intersection(*(set(score.networks) for score in scores)) if scores else set()
    return [
        replace(score, variant=labeled(score.variant, [each for each in score.networks if each not in shared]))
        for score in scores
    ]


def find_reference(reference: str, labels: Collection[str]) -> str:
    """The label that `reference` names: itself, or the only one of its variant. ConfigError if there are several.

    A name that no label has is returned as it is.
    """
    found = sorted({label for label in labels if label.startswith((f"{reference} + ", f"{reference} ["))})
    if reference in labels or not found:
        return reference
    if len(found) > 1:
        raise ConfigError(f"reference {reference!r} has several rows; expected one of {', '.join(found)}")
    return found[0]
