"""What requests can refer to: variants, presets, protocols, data sets and the schema of a configuration."""

from functools import cache
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path
from pydantic import BaseModel, Field

from gan_mhe.config.protocols import PROTOCOLS
from gan_mhe.config.run_config import RunConfig
from gan_mhe.variants import VARIANTS
from server.errors import NotFound
from server.http.dependencies import ReadJobs, ServiceDep
from server.queue import admission

router = APIRouter(prefix="/v1", tags=["catalogue"])

_DIALECT = "https://json-schema.org/draft/2020-12/schema"


class VariantEntry(BaseModel):
    """A named regularizer of the discriminator."""

    name: str
    description: str
    source: str = Field(description="Paper or code that it comes from.")
    patch: dict[str, Any] = Field(description="Its changes to a base configuration.")


class Variants(BaseModel):
    """All variants."""

    object: Literal["list"] = "list"
    data: list[VariantEntry]


class PresetEntry(BaseModel):
    """A named base configuration."""

    name: str
    description: str
    document: dict[str, Any] = Field(description="As written; omitted keys have their defaults.")


class Presets(BaseModel):
    """The available presets."""

    object: Literal["list"] = "list"
    data: list[PresetEntry]


class ProtocolEntry(BaseModel):
    """An evaluation protocol: the settings that its name determines."""

    name: str
    extractor: str
    num_samples: int
    splits: int
    resize: str


class Protocols(BaseModel):
    """All protocols."""

    object: Literal["list"] = "list"
    data: list[ProtocolEntry]


class DataSetEntry(BaseModel):
    """An available data set."""

    name: str
    bundled: bool = Field(description="Whether it is part of the package.")
    roots: list[str] = Field(description="Valid names for `data.root`.")
    download: bool = Field(description="Whether jobs may download it with `data.download`.")


class DataSets(BaseModel):
    """The available data sets, and the valid names for `evaluation.weights`."""

    object: Literal["list"] = "list"
    data: list[DataSetEntry]
    weights: list[str]


@router.get("/variants", response_model=Variants, summary="List the variants")
def list_variants(_principal: ReadJobs) -> dict[str, Any]:
    """List the variants."""
    return {
        "data": [
            {"name": name, "description": variant.description, "source": variant.source, "patch": dict(variant.patch)}
            for name, variant in VARIANTS.items()
        ]
    }


def _preset(service: ServiceDep, name: str) -> dict[str, Any]:
    path = admission.presets(service.settings)[name]
    comment = path.read_text(encoding="utf-8").partition("\n")[0].removeprefix("#").strip()
    return {"name": name, "description": comment, "document": admission.preset(service.settings, name)}


@router.get("/presets", response_model=Presets, summary="List the presets")
def list_presets(_principal: ReadJobs, service: ServiceDep) -> dict[str, Any]:
    """List the available presets."""
    return {"data": [_preset(service, name) for name in admission.presets(service.settings)]}


@router.get("/presets/{name}", response_model=PresetEntry, summary="Show a preset")
def get_preset(name: Annotated[str, Path(max_length=100)], _principal: ReadJobs, service: ServiceDep) -> dict[str, Any]:
    """Show a preset."""
    if name not in admission.presets(service.settings):
        raise NotFound(f"there is no preset {name!r}")
    return _preset(service, name)


@router.get("/protocols", response_model=Protocols, summary="List the evaluation protocols")
def list_protocols(_principal: ReadJobs) -> dict[str, Any]:
    """List the evaluation protocols. Scores of different protocols cannot be compared."""
    shown = ("extractor", "num_samples", "splits", "resize")
    return {
        "data": [
            {"name": name} | {key: getattr(settings, key) for key in shown} for name, settings in PROTOCOLS.items()
        ]
    }


@router.get("/data", response_model=DataSets, summary="List the data sets")
def list_data_sets(_principal: ReadJobs, service: ServiceDep) -> dict[str, Any]:
    """List the available data sets."""
    return {"data": admission.data_sets(service.settings), "weights": sorted(service.settings.weights)}


@cache
def _config_schema() -> dict[str, Any]:
    """The schema, made once: it takes longer than most requests."""
    return {"$schema": _DIALECT, **RunConfig.model_json_schema()}


@router.get("/schemas/config", summary="Show the JSON Schema of a configuration")
def get_config_schema(_principal: ReadJobs) -> dict[str, Any]:
    """Show the JSON Schema of a run configuration, with the meaning, unit and default of every field."""
    return _config_schema()
