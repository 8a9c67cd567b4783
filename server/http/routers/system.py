"""The service itself: version, limits and slots; health, readiness and metrics for monitoring."""

import shutil
import time
from typing import Any, Literal

from fastapi import APIRouter, Response
from fastapi.requests import Request
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, Field
from sqlalchemy import text

from gan_mhe.version import __version__
from server.errors import DatabaseDamaged, FieldError
from server.http import errors
from server.http.dependencies import Admin, ReadJobs, ServiceDep
from server.queue import queue
from server.service import Service

router = APIRouter(tags=["system"])

MAX_HEARTBEAT_AGE_SECONDS = 10.0
_LIMITS = ("max_body_bytes", "max_matrix_cells", "max_queued_jobs", "max_priority", "max_streams_per_key")
_RETENTION = ("samples_per_job", "checkpoint_days")


class Disk(BaseModel):
    """Disk space of the data directory."""

    free_bytes: int
    reserve_bytes: int = Field(description="With less free space, no job is accepted and running jobs are paused.")


class Machine(BaseModel):
    """Whether this machine can run attempts."""

    problem: str | None = Field(
        description="Why no attempt starts; null if nothing is wrong. Jobs wait in the queue and start by themselves."
    )


class System(BaseModel):
    """The service."""

    object: Literal["system"] = "system"
    version: str
    executor: str
    uptime_seconds: float
    disk: Disk
    machine: Machine
    limits: dict[str, int] = Field(description="With those of your key in place of the operator's.")
    retention: dict[str, float] = Field(description="0 keeps everything.")
    allow_downloads: bool


class SlotEntry(BaseModel):
    """Capacity for one attempt, and its occupant."""

    name: str
    device: str
    purpose: str
    memory_bytes: int | None
    free_bytes: int | None
    threads: int | None
    available: bool = Field(description="Whether a new attempt may start here now.")
    note: str | None
    busy: bool
    job_id: str | None = Field(description="The job of the current attempt, if it belongs to your project.")
    attempt_id: str | None


class Slots(BaseModel):
    """All slots, in a stable order."""

    object: Literal["list"] = "list"
    data: list[SlotEntry]


class Alive(BaseModel):
    """The process responds."""

    status: Literal["alive"] = "alive"


class Ready(BaseModel):
    """The service is ready."""

    status: Literal["ready"] = "ready"


@router.get("/v1/system", response_model=System, summary="Show limits, retention and disk space")
def get_system(request: Request, principal: ReadJobs, service: ServiceDep) -> dict[str, Any]:
    """Show version, limits, retention and free disk space."""
    settings = service.settings
    return {
        "version": __version__,
        "executor": service.executor.name,
        "uptime_seconds": round(time.monotonic() - request.app.state.started, 3),
        "disk": {"free_bytes": _free_bytes(service), "reserve_bytes": settings.disk_reserve_bytes},
        "machine": {"problem": service.engine.problem()},
        "limits": {name: getattr(principal.settings, name) for name in _LIMITS},
        "retention": {name: getattr(settings, name) for name in _RETENTION},
        "allow_downloads": settings.allow_downloads,
    }


@router.get("/v1/system/slots", response_model=Slots, summary="List the slots and what runs in them")
def list_slots(principal: ReadJobs, service: ServiceDep) -> dict[str, Any]:
    """List the slots and what runs in them."""
    occupants = {attempt["slot"]: (attempt, job) for attempt, job in service.store.read(queue.live_attempts)}
    entries = []
    for slot in service.executor.inventory():
        attempt, job = occupants.get(slot.name, (None, None))
        own = attempt is not None and job is not None and job["project"] == principal.project
        entry = {name: getattr(slot, name) for name in SlotEntry.model_fields if hasattr(slot, name)}
        entry["busy"] = attempt is not None
        entry["job_id"] = attempt["job_id"] if attempt is not None and own else None
        entry["attempt_id"] = attempt["id"] if attempt is not None and own else None
        entries.append(entry)
    return {"data": entries}


@router.get("/healthz", response_model=Alive, summary="Check whether the process responds")
async def healthz() -> dict[str, Any]:
    """Check whether the process responds."""
    return {}


@router.get("/readyz", response_model=Ready, summary="Check whether the service is ready")
def readyz(request: Request, service: ServiceDep) -> Any:
    """Check whether jobs can be accepted and run; the problem names the failed checks."""
    failed = _failed_checks(service)
    if failed:
        return errors.respond(request.scope, "not_serving", "; ".join(check.message for check in failed), failed)
    return {}


def _failed_checks(service: Service) -> list[FieldError]:
    failed = []
    try:
        service.store.read(lambda connection: connection.execute(text("SELECT 1")))
        if service.store.damage is not None:
            raise DatabaseDamaged(service.store.damage)
    except DatabaseDamaged as error:
        failed.append(FieldError("/database", "database", f"database: {error}"))
    except Exception as error:
        failed.append(FieldError("/database", "database", f"database: cannot be read ({type(error).__name__})"))
    age = service.engine.heartbeat_age()
    if age >= MAX_HEARTBEAT_AGE_SECONDS:
        message = f"engine: expected a round within {MAX_HEARTBEAT_AGE_SECONDS:g} s, the last was {age:.1f} s ago"
        failed.append(FieldError("/engine", "engine", message))
    if (problem := service.engine.problem()) is not None:
        failed.append(FieldError("/machine", "machine", f"machine: no attempt can start: {problem}"))
    if _free_bytes(service) < service.settings.disk_reserve_bytes:
        failed.append(FieldError("/disk", "disk", "disk: less space is free than the reserve"))
    return failed


def _free_bytes(service: Service) -> int:
    return shutil.disk_usage(service.settings.data_dir).free


@router.get("/metrics", response_class=Response, summary="Metrics for Prometheus")
def metrics(request: Request, _principal: Admin) -> Response:
    """Metrics for Prometheus. They count the jobs of all projects."""
    return Response(generate_latest(request.app.state.metrics.registry), media_type=CONTENT_TYPE_LATEST)
