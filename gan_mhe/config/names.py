"""The names that configurations, results and requests use, each with the facts that need no torch.

A name is entered once here and once in the table that implements it; the types of the configuration's fields are made
from these tables.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal


@dataclass(frozen=True)
class Choice:
    """One value of a setting."""

    description: str
    """Its content or source in a few words."""


@dataclass(frozen=True)
class Dataset(Choice):
    """The facts about a data set that need no torch."""

    splits: tuple[str, ...] = ("train", "test")
    """Values of `data.split` that it has."""
    bundled: bool = False
    """Whether it comes with the package and its dependencies, so that it needs neither a folder nor a download."""
    needs_root: bool = False
    """Whether it is a folder of the user's own, which `data.root` must name."""
    folder: str | None = None
    """The folder in which torchvision keeps its files, relative to the root; None if torchvision does not read it."""


DATASETS: Mapping[str, Dataset] = MappingProxyType(
    {
        "digits": Dataset("1,797 digits that ship with scikit-learn", splits=("train",), bundled=True),
        "cifar10": Dataset("CIFAR-10", folder="cifar-10-batches-py"),
        "cifar100": Dataset("CIFAR-100", folder="cifar-100-python"),
        "stl10": Dataset(
            "STL-10, resampled from 96 pixels", splits=("train", "test", "unlabeled"), folder="stl10_binary"
        ),
        "mnist": Dataset("MNIST", folder="MNIST/raw"),
        "fashion_mnist": Dataset("Fashion-MNIST", folder="FashionMNIST/raw"),
        "image_folder": Dataset("image files in `data.root`", needs_root=True),
        "synthetic": Dataset("512 images of colored blobs, for tests", splits=("train",), bundled=True),
    }
)
"""The data sets; `gan_mhe.data.datasets.DATASETS` reads them."""

_FOLDERS_OF_SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("test", "testing"), "test"),
    **dict.fromkeys(("val", "valid", "validation"), "validation"),
}


def split_of_folder(name: str) -> str | None:
    """The split of an `image_folder` that a sub-folder of this name is, in any case; None if it is none.

    No value of `data.split` reads "validation".
    """
    return _FOLDERS_OF_SPLITS.get(name.lower())


SPLITS = tuple(dict.fromkeys(split for dataset in DATASETS.values() for split in dataset.splits))
IMAGE_SIZES = (32, 48, 64)

LOSSES: Mapping[str, Choice] = MappingProxyType(
    {
        "non_saturating": Choice("Goodfellow et al. 2014"),
        "hinge": Choice("Lim and Ye 2017; Miyato et al. 2018"),
        "wasserstein": Choice("Arjovsky et al. 2017"),
        "least_squares": Choice("Mao et al. 2017"),
    }
)
"""The adversarial losses; `gan_mhe.training.losses.LOSSES` computes them."""

GENERATORS: Mapping[str, Choice] = MappingProxyType(
    {
        "cnn": Choice("Miyato et al. 2018, Table 3"),
        "resnet": Choice("Miyato et al. 2018, Table 4"),
    }
)
"""The generators; `gan_mhe.networks.build.GENERATORS` builds them."""

DISCRIMINATORS: Mapping[str, Choice] = MappingProxyType(
    {
        "cnn_miyato": Choice("Miyato et al. 2018, Table 3"),
        "cnn_official": Choice("the wider network of the MHE authors' code"),
        "resnet": Choice("Miyato et al. 2018, Table 4"),
    }
)
"""The discriminators; `gan_mhe.networks.build.DISCRIMINATORS` builds them."""


@dataclass(frozen=True)
class TaskFacts:
    """The facts about a task that need no torch."""

    metric: str
    """Metric that ranks its runs and chooses the best checkpoint of a run."""
    live_scalars: Mapping[str, str]
    """Names of the scalars that a terminal shows during training, by their labels there."""


TASKS: Mapping[str, TaskFacts] = MappingProxyType(
    {
        "gan": TaskFacts(metric="inception_score", live_scalars={"D": "d_loss", "G": "g_loss"}),
    }
)
"""The tasks; `gan_mhe.tasks.TASKS` builds them, `gan_mhe.config.summaries.SUMMARIES` sums up their configurations."""

DEFAULT_TASK = "gan"


def describe(table: Mapping[str, Choice]) -> str:
    """The names of a table with their descriptions, such as "`cnn` (Table 3), `resnet` (Table 4)"."""
    return ", ".join(f"`{name}` ({row.description})" for name, row in table.items())


if TYPE_CHECKING:  # a type checker cannot read a Literal from a table
    DatasetName = str
    Split = str
    ImageSize = int
    LossName = str
    GeneratorName = str
    DiscriminatorName = str
else:
    DatasetName = Literal[tuple(DATASETS)]
    Split = Literal[SPLITS]
    ImageSize = Literal[IMAGE_SIZES]
    LossName = Literal[tuple(LOSSES)]
    GeneratorName = Literal[tuple(GENERATORS)]
    DiscriminatorName = Literal[tuple(DISCRIMINATORS)]
