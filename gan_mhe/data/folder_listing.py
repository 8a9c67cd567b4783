"""What an image folder contains: its split, its classes and its image files, or a refusal that says what to change.

Nothing is guessed. A folder that could be read in two ways is an error, and every file that is not read is counted.
"""

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gan_mhe.config.names import split_of_folder
from gan_mhe.errors import DataError
from gan_mhe.records.data_summary import UNDIVIDED, counts_text
from gan_mhe.text import printable

EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
"""Suffixes of the files that are read, in lower case; upper case counts too."""

HIDDEN, NO_SUFFIX, OTHER = "hidden", "no suffix", "other"

_KINDS = 20  # kinds of files that are counted singly; numbered suffixes would otherwise fill the record
_NAMED = 3  # folders or files named in a message


@dataclass(frozen=True)
class Listing:
    """The image files of one split of a folder."""

    base: Path
    """The folder that holds the classes or, if there are none, the images."""
    split: str
    """The split that was read, or `UNDIVIDED`."""
    paths: tuple[str, ...]
    """Paths of the image files relative to `base`, sorted, with forward slashes."""
    class_names: tuple[str, ...]
    """Indexed by label; empty if the images lie directly in `base`."""
    labels: tuple[int, ...] | None
    """The label of each image; None without classes."""
    passed_over: Mapping[str, int]
    """Number of files that are not read, by kind; see `DataSummary.passed_over`. A hidden folder counts as one."""


@dataclass
class _Found:
    """Everything below one folder."""

    images: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    """Relative paths of the sub-folders."""
    passed_over: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Number of files by their first sub-folder, "" for none, and their kind."""


def list_folder(root: Path, split: str) -> Listing:
    """List one split of an image folder. split: `train` or `test`.

    A sub-folder named train or training, test or testing, val, valid or validation, in any case, is a split; without
    one, all of `root` is the split "train". An image's class is the first folder of its path, and classes are numbered
    in sorted order. Links are followed; names that start with a dot are not read.

    Raises DataError for a folder that is missing, cannot be listed, has no images, has splits beside classes, a class
    without images, images beside classes, or a folder that links lead to twice.
    """
    base, taken, outside = _choose_split(root, split)
    found = _walk(base)
    passed_over = outside + _by_kind(found.passed_over)
    if not found.images:
        others = f"; it has {counts_text(passed_over)}" if passed_over else ""
        raise DataError(f"data.root: no images ({' '.join(EXTENSIONS)}) in {base}{others}")
    paths = sorted(found.images)
    owners = [_first_folder(path) for path in paths]
    class_names = _class_names(base, found, dict(zip(reversed(owners), reversed(paths), strict=True)))
    number = {name: label for label, name in enumerate(class_names)}
    labels = tuple(number[owner] for owner in owners) if class_names else None
    return Listing(base, taken, tuple(paths), class_names, labels, _capped(passed_over))


def _choose_split(root: Path, split: str) -> tuple[Path, str, Counter[str]]:
    """The folder to read, the split that it is, and the files of `root` outside of all splits by kind."""
    if not root.is_dir():
        raise DataError(f"data.root: expected a folder of images; {root} is not a folder")
    top = _scan(root, "")
    folders = [entry.name for entry in top if not entry.name.startswith(".") and _is_folder(entry)]
    splits = {name: meaning for name in folders if (meaning := split_of_folder(name))}
    if not splits:
        if split != "train":
            raise DataError(f"data.split is {split!r} but {root} has no splits, so all of it is train")
        return root, UNDIVIDED, Counter()
    _refuse_shared(root, splits)
    outside = _outside_splits(root, top, splits)
    chosen = [name for name, meaning in splits.items() if meaning == split]
    if len(chosen) > 1:
        raise DataError(f"data.split: {_folders(chosen)} in {root} all mean {split!r}; expected one of them")
    if not chosen:
        raise DataError(f"data.split is {split!r} but {root} has no {split}/ sub-directory; it has {_folders(splits)}")
    return root / chosen[0], split, outside


def _refuse_shared(root: Path, splits: Iterable[str]) -> None:
    """DataError if a link makes two splits one folder: a test set would then be what was trained on."""
    seen: dict[str, str] = {}
    for name in splits:
        first = seen.setdefault(os.path.realpath(root / name), name)
        if first != name:
            raise DataError(
                f"data.root: {first}/ and {name}/ in {root} are one folder by a symbolic link; remove the link"
            )


def _outside_splits(root: Path, top: Iterable[os.DirEntry[str]], splits: Mapping[str, str]) -> Counter[str]:
    """Count the files outside of the splits by kind. DataError if there are images among them."""
    outside: Counter[str] = Counter()
    with_images = []
    for entry in top:
        if entry.name in splits:
            continue
        if not entry.name.startswith(".") and _is_folder(entry):
            below = _walk(root / entry.name)
            outside += _by_kind(below.passed_over)
            with_images += [f"{entry.name}/"] if below.images else []
        elif _is_image(entry.name):
            with_images.append(entry.name)
        else:
            outside[_kind(entry.name)] += 1
    if with_images:
        raise DataError(
            f"data.root: {root} has {_folders(splits)} beside {_listed(with_images)}, so it may be divided into splits "
            f"or have classes of these names; if all are classes, move them into one new folder {root / 'train'}; "
            f"if not, move everything with images into the splits or out of {root}"
        )
    return outside


def _walk(base: Path) -> _Found:
    """Find everything below `base`. DataError if a folder cannot be listed or is reached twice."""
    found = _Found()
    pending, seen = [""], dict[str, str]()
    while pending:
        folder = pending.pop()
        real = os.path.realpath(base / folder)
        if real in seen:
            raise DataError(
                f"data.root: {printable(folder)}/ and {printable(seen[real]) or '.'}/ in {base} are one folder, which "
                "a symbolic link leads to again; remove the link, or copy the images if they are to count twice"
            )
        seen[real] = folder
        found.folders += [folder] if folder else []
        for entry in reversed(_scan(base, folder)):
            path = f"{folder}/{entry.name}" if folder else entry.name
            if not entry.name.startswith(".") and _is_folder(entry):
                pending.append(path)
            elif not _is_image(entry.name):
                found.passed_over[_first_folder(path), _kind(entry.name)] += 1
            elif not entry.is_file():
                raise DataError(
                    f"data.root: cannot read {printable(path)} in {base}: it is a broken link or no regular file"
                )
            else:
                found.images.append(path)
    return found


def _scan(base: Path, folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(os.path.join(base, folder)) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"data.root: cannot list {error.filename}: {error.strerror}") from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:  # such as a link to itself
        raise DataError(f"data.root: cannot follow {printable(entry.path)}: {error.strerror}") from error


def _class_names(base: Path, found: _Found, first_image: Mapping[str, str]) -> tuple[str, ...]:
    """The sorted names of the classes. first_image: the first image of each class, and of "" for `base` itself."""
    if list(first_image) == [""]:
        return ()
    if "" in first_image:
        raise DataError(
            f"data.root: {base} has class sub-directories and images outside them (first: {first_image['']}); "
            "expected all images in one flat folder or all in sub-directories"
        )
    inside: dict[str, list[str]] = {folder: [] for folder in sorted(found.folders) if "/" not in folder}
    for folder in found.folders:
        owner, _, name = folder.partition("/")
        if name and "/" not in name:
            inside[owner].append(name)
    _refuse_empty(base, [name for name in inside if name not in first_image], found.passed_over)
    for name, folders in inside.items():
        _check_class(base, name, folders)
    return tuple(inside)


def _refuse_empty(base: Path, empty: list[str], passed_over: Mapping[tuple[str, str], int]) -> None:
    if not empty:
        return
    texts = []
    for name in empty[:_NAMED]:
        inside = {kind: count for (owner, kind), count in passed_over.items() if owner == name}
        texts.append(f"{printable(name)}/ ({counts_text(inside) or 'empty'})")
    more = f" and {len(empty) - _NAMED} more" if len(empty) > _NAMED else ""
    raise DataError(
        f"data.root: {len(empty)} class folder(s) in {base} hold no image ({' '.join(EXTENSIONS)}): "
        f"{', '.join(texts)}{more}; convert their files, or remove the folder(s)"
    )


def _check_class(base: Path, name: str, inside: list[str]) -> None:
    """DataError if the class `name` cannot be recorded, or is a divided data set. inside: names of its sub-folders."""
    try:
        name.encode()
    except UnicodeEncodeError:
        raise DataError(f"data.root: the name of the class folder {name!a} in {base} is not UTF-8") from None
    splits = [folder for folder in inside if split_of_folder(folder)]
    if len({split_of_folder(folder) for folder in splits}) > 1 or (splits and splits == inside):
        raise DataError(
            f"data.root: {base / name} is divided into {_folders(splits)}, so it is a data set and not a class; "
            "set data.root to it, or rename its sub-directories"
        )


def _first_folder(path: str) -> str:
    return path.partition("/")[0] if "/" in path else ""


def _is_image(name: str) -> bool:
    return name.lower().endswith(EXTENSIONS) and not name.startswith(".")


def _kind(name: str) -> str:
    if name.startswith("."):
        return HIDDEN
    return os.path.splitext(name)[1].lower().encode(errors="replace").decode() or NO_SUFFIX


def _by_kind(counts: Mapping[tuple[str, str], int]) -> Counter[str]:
    kinds: Counter[str] = Counter()
    for (_, kind), count in counts.items():
        kinds[kind] += count
    return kinds


def _capped(counts: Counter[str]) -> dict[str, int]:
    """The most frequent kinds, and the sum of the rest as `OTHER`."""
    ordered = sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))
    rest = sum(count for _, count in ordered[_KINDS:])
    return dict(ordered[:_KINDS]) | ({OTHER: rest} if rest else {})


def _folders(names: Iterable[str]) -> str:
    return " and ".join(f"{printable(name)}/" for name in names)


def _listed(names: list[str]) -> str:
    shown = ", ".join(map(printable, names[:_NAMED]))
    return shown + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
