"""Admission of jobs: composes and checks the configuration, applies the operator's rules, checks disk and queue.

A configuration from the network contains no paths. Where the library expects a path, a request can only use the names
that the operator gave to folders and weight files in the settings.
"""

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from sqlalchemy import Connection

from gan_mhe.config.compose import compose
from gan_mhe.config.documents import PRESETS, load_document, merge, unflatten
from gan_mhe.config.names import DATASETS, split_of_folder
from gan_mhe.config.protocols import (
    CLASSIFIER_PREFIX,
    classifier_file,
    classifier_name,
    protocol_settings,
    too_few_samples,
)
from gan_mhe.config.run_config import RunConfig
from gan_mhe.config.sections import DataConfig, EvaluationConfig
from gan_mhe.errors import ConfigError, nearest
from gan_mhe.files import default_cache_dir
from server.clock import from_wall, now_ms, rfc3339
from server.errors import FieldError, InsufficientStorage, InvalidRequest, QueueFull, pointer
from server.executors.base import Executor
from server.queue import queue
from server.settings import Settings

PRESET_FILES: Mapping[str, Path] = {path.stem: path for path in sorted(PRESETS.glob("*.toml"))}
"""The files of all presets that the package contains, by name."""

_DEVICES = ("auto", "cpu", "cuda")
_MAX_MESSAGE = 500

Refusals = list[tuple[str, str, str]]  # key, code, message


@dataclass(frozen=True)
class Source:
    """The parts of a configuration: one of preset, config and ancestor, and the changes to it.

    config: a whole configuration as sent. ancestor: the configuration of the job to fork. overrides: values by dotted
    key.
    """

    preset: str | None = None
    config: Mapping[str, Any] | None = None
    ancestor: Mapping[str, Any] | None = None
    variant: str | None = None
    seed: int | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)

    def pointer(self, path: Sequence[str]) -> str:
        """Return the JSON pointer to the value of a configuration key in the request, or to where it belongs."""
        if not path:
            return "/config" if self.config is not None else ""
        dotted = ".".join(path)
        for key in self.overrides:
            if f"{dotted}.".startswith(f"{key}.") or f"{key}.".startswith(f"{dotted}."):
                return pointer("overrides", key)
        if {"variant": self.variant, "seed": self.seed}.get(dotted) is not None:
            return pointer(dotted)
        if self.config is not None:
            return pointer("config", *path)
        return pointer("overrides", dotted)


@dataclass(frozen=True)
class Operator:
    """The operator's settings, and the executor with its slots."""

    settings: Settings
    executor: Executor


def presets(settings: Settings) -> dict[str, Path]:
    """Return the files of the presets that jobs may use, by name."""
    if settings.presets is None:
        return dict(PRESET_FILES)
    return {name: path for name, path in PRESET_FILES.items() if name in settings.presets}


def preset(settings: Settings, name: str) -> Mapping[str, Any]:
    """Return the document of a preset. Raises InvalidRequest if there is no preset of this name."""
    allowed = presets(settings)
    if name not in allowed:
        message = f"preset: unknown preset {name!r}{nearest(name, allowed)}"
        if name in PRESET_FILES:
            message += "; the operator chooses the presets with GAN_MHE_PRESETS"
        raise InvalidRequest(FieldError("/preset", "unknown_preset", message))
    return _document(allowed[name])


@cache
def _document(path: Path) -> Mapping[str, Any]:
    """The document of a preset. A file of the package does not change, and reading it costs as much as checking it."""
    return load_document(path)


def data_sets(settings: Settings) -> list[dict[str, Any]]:
    """Return the data sets that jobs may use. Keys: name, bundled, roots, download (whether it can be downloaded)."""
    offers: list[dict[str, Any]] = []
    for name, dataset in DATASETS.items():
        download = settings.allow_downloads and not (dataset.bundled or dataset.needs_root)
        if dataset.needs_root:
            roots = sorted(settings.data_roots)
        else:
            roots = [name] if name in settings.data_roots and not dataset.bundled else []
        if dataset.bundled or roots or download:
            offers.append({"name": name, "bundled": dataset.bundled, "roots": roots, "download": download})
    return offers


def resolve(operator: Operator, source: Source) -> RunConfig:
    """Compose and check a configuration.

    Raises InvalidRequest, which states for every wrong field where it is and what was expected.
    """
    document = source.config if source.config is not None else source.ancestor
    if source.preset is not None:
        document = preset(operator.settings, source.preset)
    assert document is not None
    overrides = _nested(source.overrides)
    try:
        config = compose(
            document,
            variant=source.variant,
            seed=source.seed,
            overrides=overrides,
            stored=source.ancestor is not None,
        )
    except ConfigError as error:
        raise InvalidRequest(*_field_errors(source, error)) from error
    refusals = [
        FieldError(source.pointer(key.split(".")), code, f"{key}: {message}")
        for key, code, message in (
            *_coerced(merge(source.config or {}, overrides), config.document()),
            *_data_refusals(operator.settings, config),
            *_evaluation_refusals(operator.settings, config),
            *_device_refusals(operator.executor, config),
        )
    ]
    if refusals:
        raise InvalidRequest(*refusals)
    return config


def _nested(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Convert dotted keys to nested tables. Raises InvalidRequest if one key contains another, which is ambiguous."""
    for key in overrides:
        inner = next((other for other in overrides if other.startswith(f"{key}.")), None)
        if inner is not None:
            message = f"{key}: also set by {inner!r}; expected one of the two"
            raise InvalidRequest(FieldError(pointer("overrides", key), "ambiguous", message))
    return unflatten(overrides)


def _field_errors(source: Source, error: ConfigError) -> list[FieldError]:
    """Return the lines of a ConfigError, each with the field that pydantic reported it for."""
    cause = error.__cause__
    lines = str(error).splitlines()
    if not isinstance(cause, ValidationError):
        return [FieldError(source.pointer(("variant",)), "unknown_variant", line) for line in lines]
    found = []
    for problem, line in zip(cause.errors(include_url=False), lines, strict=False):
        path = [str(part) for part in problem["loc"]]
        code = "unknown_key" if problem["type"] == "extra_forbidden" else str(problem["type"])
        found.append(FieldError(source.pointer(path or _first_key(line)), code, line[:_MAX_MESSAGE]))
    return found


def _first_key(line: str) -> list[str]:
    """Return the key that begins a message about several fields, such as `data.root is missing`."""
    key = line.split(maxsplit=1)[0].rstrip(":")
    section, _, name = key.partition(".")
    known = RunConfig.model_fields
    return [part for part in (section, name) if part] if section in known else []


def _coerced(given: Mapping[str, Any], parsed: Mapping[str, Any], within: str = "") -> Refusals:
    """Return the values that validation converted to another type, such as the text "20" to a number."""
    refusals: Refusals = []
    for key in given.keys() & parsed.keys():
        before, after = given[key], parsed[key]
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            refusals += _coerced(before, after, f"{within}{key}.")
        elif _kind(before) and _kind(after) and _kind(before) != _kind(after):
            refusals.append((f"{within}{key}", "wrong_type", f"expected {_kind(after)}, got {before!r}"))
    return refusals


def _kind(value: Any) -> str | None:
    """Return the name of a simple value's type in error messages; None for other types."""
    kinds = {bool: "true or false", int: "a number", float: "a number", str: "text"}
    return kinds.get(type(value))


def _data_refusals(settings: Settings, config: RunConfig) -> Refusals:
    data, refusals = config.data, _download_refusals(settings, "data.download", config.data.download)
    dataset, root = DATASETS[data.name], None if data.root is None else str(data.root)
    if data.split not in dataset.splits:
        message = f"{data.name} has no split {data.split!r}; expected one of {', '.join(dataset.splits)}"
        refusals.append(("data.split", "unknown_split", message))
    if root is not None and root not in settings.data_roots:
        refusals.append(("data.root", "unknown_root", _unknown(root, settings.data_roots, "GAN_MHE_DATA_ROOTS")))
    elif not refusals and not dataset.bundled:
        refusals += _absent_data(settings, data, root or data.name)
    return refusals


def _absent_data(settings: Settings, data: DataConfig, root: str) -> Refusals:
    """The refusal of a data set whose files are not here and must not be downloaded."""
    folder, dataset = settings.data_roots.get(root), DATASETS[data.name]
    if dataset.needs_root:
        assert folder is not None
        return _absent_folder(folder, data.split, root)
    if data.download or (folder is not None and (folder / (dataset.folder or "")).is_dir()):
        return []
    if folder is None:
        names = ", ".join(str(offer["name"]) for offer in data_sets(settings))
        lack = f"the service has no folder for {data.name!r} and data.download is off; it offers {names}"
    else:
        lack = f"the folder {root!r} has no {dataset.folder!r}, where {data.name!r} is kept, and data.download is off"
    remedy = "the operator can add it with GAN_MHE_DATA_ROOTS, or allow downloads with GAN_MHE_ALLOW_DOWNLOADS"
    return [("data.name", "data_unavailable", f"{lack}; {remedy}")]


def _absent_folder(folder: Path, split: str, root: str) -> Refusals:
    """The refusal of an image folder that is not there, or lacks the split. root: the operator's name for it."""
    try:
        splits = {split_of_folder(entry.name) for entry in folder.iterdir() if entry.is_dir()}
    except OSError:
        key, lack = "data.root", "does not exist or cannot be listed"
    else:
        if split in splits or split == "train":  # a folder without splits is all train
            return []
        key, lack = "data.split", f"has no folder {split!r}"
    message = f"the folder {root!r} {lack} at the service; the operator's GAN_MHE_DATA_ROOTS names it"
    return [(key, "data_unavailable", message)]


def _download_refusals(settings: Settings, key: str, wanted: bool) -> Refusals:
    if not wanted or settings.allow_downloads:
        return []
    message = "the operator does not allow downloads; GAN_MHE_ALLOW_DOWNLOADS would"
    return [(key, "downloads_not_allowed", message)]


def _evaluation_refusals(settings: Settings, config: RunConfig) -> Refusals:
    evaluation = config.evaluation
    refusals = _download_refusals(settings, "evaluation.download", evaluation.download)
    weights = None if evaluation.weights is None else str(evaluation.weights)
    if weights is not None and weights not in settings.weights:
        message = _unknown(weights, settings.weights, "GAN_MHE_WEIGHTS")
        refusals.append(("evaluation.weights", "unknown_weights", message))
    elif weights is not None and not settings.weights[weights].is_file():
        message = f"the file of {weights!r} does not exist at the service; the operator's GAN_MHE_WEIGHTS names it"
        refusals.append(("evaluation.weights", "weights_missing", message))
    if evaluation.protocol == "none":
        return refusals
    refusals += _count_refusals(evaluation)
    return refusals if weights is not None else [*refusals, *_missing_weights(settings, evaluation)]


def _missing_weights(settings: Settings, evaluation: EvaluationConfig) -> Refusals:
    """The refusal of a protocol that needs weights which the request does not name and the service does not have."""
    known = ", ".join(sorted(settings.weights)) or "the operator offers none"
    offer = f"expected the name of a file ({known}); the operator offers files with GAN_MHE_WEIGHTS"
    if protocol_settings(evaluation.protocol).weights_url and not evaluation.download:
        message = f"{evaluation.protocol} needs weights that the package does not contain; {offer}"
        return [("evaluation.weights", "weights_missing", message)]
    name = classifier_name(evaluation.protocol)
    of_a_user = evaluation.protocol.startswith(CLASSIFIER_PREFIX)
    if not of_a_user or classifier_file(name, default_cache_dir()).is_file():
        return []
    message = f"the service has no classifier {name!r}; train it there with `gan-mhe scorer train {name}`, or "
    return [("evaluation.protocol", "weights_missing", f"{message}set evaluation.weights: {offer}")]


def _count_refusals(evaluation: EvaluationConfig) -> Refusals:
    """The refusal of a number of samples that means nothing, or whose features cannot fit into this machine's memory.

    A new configuration of too few samples is refused by the library; this is for stored ones, which it still reads.
    """
    count = evaluation.num_samples
    if count is None:
        return []
    lack = too_few_samples(evaluation.protocol, count)
    if lack:
        return [("evaluation.num_samples", "too_few", lack)]
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    most = memory // (4 * protocol_settings(evaluation.protocol).values_per_image)
    if count <= most:
        return []
    message = (
        f"expected at most {most:,}, whose features fill the {memory / 2**30:,.0f} GiB of this machine; got {count}"
    )
    return [("evaluation.num_samples", "too_many", message)]


def _device_refusals(executor: Executor, config: RunConfig) -> Refusals:
    device = config.training.device
    if device not in _DEVICES:
        message = f"expected one of {', '.join(_DEVICES)}, got {device!r}; the service chooses which GPU"
        return [("training.device", "device_index", message)]
    if device == "auto":
        return []
    slots = [slot for slot in executor.inventory() if slot.purpose == "train"]
    if any(slot.device.split(":")[0] == device for slot in slots):
        return []
    kinds = ", ".join(sorted({slot.device.split(":")[0] for slot in slots})) or "none"
    setting = "GAN_MHE_CPU_SLOTS" if device == "cpu" else "GAN_MHE_CUDA_SLOTS_PER_DEVICE"
    message = f"no slot for {device!r}; the service trains on {kinds}; the operator adds slots with {setting}"
    return [("training.device", "device_unavailable", message)]


def _unknown(name: str, known: Mapping[str, Any], setting: str) -> str:
    hint = nearest(name, known) if known else "; the operator offers none"
    return f"unknown name {name!r}{hint}; the operator adds names with {setting}"


def check_room(connection: Connection, settings: Settings, project: str, jobs: int = 1, size_bytes: int = 0) -> None:
    """Raise InsufficientStorage if the disk's reserve is reached, QueueFull if too many jobs of the project wait.

    size_bytes: the largest file that will be written; the reserve must stay free beside it.
    """
    free = shutil.disk_usage(settings.data_dir).free
    if settings.disk_reserve_bytes <= free < settings.disk_reserve_bytes + size_bytes:
        raise InsufficientStorage(
            f"the images may need {_mib(size_bytes)} MiB, {_mib(free)} MiB of disk are free, and "
            f"{_mib(settings.disk_reserve_bytes)} MiB of them are reserved; ask for fewer images, delete jobs or free "
            "disk space"
        )
    if free < settings.disk_reserve_bytes:
        raise InsufficientStorage(
            f"{free // 2**20} MiB of disk are free, but {settings.disk_reserve_bytes // 2**20} MiB are reserved; "
            "delete jobs or free disk space, or let the operator lower GAN_MHE_DISK_RESERVE_BYTES"
        )
    check_queue(connection, settings, project, jobs)


def _mib(size_bytes: int) -> int:
    return -(-size_bytes // 2**20)


def check_queue(connection: Connection, settings: Settings, project: str, jobs: int = 1) -> None:
    """Raise QueueFull if too many jobs of the project would wait."""
    waiting = queue.waiting(connection, project)
    if waiting + jobs > settings.max_queued_jobs:
        raise QueueFull(
            f"{waiting} jobs of the project are waiting and the request adds {jobs}; "
            f"expected at most {settings.max_queued_jobs} in total (GAN_MHE_MAX_QUEUED_JOBS, or the key's own limit)"
        )


def check_priority(settings: Settings, priority: int) -> None:
    """Raise InvalidRequest if the priority is above the limit."""
    most = settings.max_priority
    if priority > most:
        message = f"priority: expected at most {most} (GAN_MHE_MAX_PRIORITY, or the key's own limit), got {priority}"
        raise InvalidRequest(FieldError("/priority", "above_limit", message))


def check_deadline(start_deadline: int | None) -> None:
    """Raise InvalidRequest if the deadline, in milliseconds, has passed."""
    if start_deadline is not None and from_wall(start_deadline) <= now_ms():
        message = f"start_deadline: expected a time in the future, got {rfc3339(start_deadline)}"
        raise InvalidRequest(FieldError("/start_deadline", "past", message))


def new_job(config: RunConfig, project: str, **attributes: Any) -> queue.NewJob:
    """Return the job that trains a configuration. attributes: further fields of NewJob."""
    return queue.NewJob(
        project=project,
        request=config.document(),
        request_sha256=config.digest(),
        variant=config.variant,
        seed=config.seed,
        total_steps=config.training.steps,
        device=config.training.device,
        **attributes,
    )
