"""What the reader of a data set returns."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Content:
    """Images as read, before they have a name and a hash; the fields mean what those of `ImageSet` mean."""

    images: Tensor
    labels: Tensor | None
    class_names: tuple[str, ...]
    split: str | None = None
    """None for the split that was asked for."""
    passed_over: Mapping[str, int] = field(default_factory=dict)
    conversions: Mapping[str, int] = field(default_factory=dict)
