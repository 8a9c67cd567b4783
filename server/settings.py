"""What the operator decides, from arguments or from environment variables `GAN_MHE_*`; JSON for lists and tables.

Built once by whoever starts the service; nothing reads the environment at import.
"""

import ipaddress
import os
import sys
from pathlib import Path
from typing import Annotated

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

Seconds = Annotated[float, Field(gt=0)]
Bytes = Annotated[int, Field(ge=0)]

_MIB = 2**20


class Settings(BaseSettings):
    """The service's settings. Unknown arguments are errors."""

    model_config = SettingsConfigDict(
        env_prefix="GAN_MHE_", frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True
    )

    data_dir: Path = Path("gan-mhe-data")
    """Everything the service keeps: database, jobs, derived pictures."""
    host: str = "127.0.0.1"
    """Address to listen on. Any but a loopback address needs API keys."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """Port to listen on; 0 takes a free one."""
    allowed_hosts: tuple[str, ...] = ()
    """Names by which clients may call the service besides its own address and localhost."""

    cpu_slots: Annotated[int, Field(ge=0)] = max(1, (os.cpu_count() or 2) // 2)
    """Training jobs at once on the CPU; 0 where only GPUs are to train."""
    threads_per_slot: Annotated[int, Field(ge=1)] = 1
    """CPU threads of one job."""
    task_slots: Annotated[int, Field(ge=1)] = 1
    """Sampling and scoring tasks at once, beside the training jobs."""
    cuda_slots_per_device: Annotated[int, Field(ge=0)] = 1
    """Training jobs at once on one GPU."""
    cuda_memory_bytes_per_slot: int | None = None
    """Memory of the GPU that one job may use; unset shares the device equally."""
    worker_command: tuple[str, ...] = (sys.executable, "-m", "gan_mhe.worker")
    """What an attempt runs; the request file's path is appended."""
    worker_niceness: Annotated[int, Field(ge=0, le=19)] = 5
    """Steps of niceness by which attempts let this service, and whatever else runs here, have the cores first."""

    presets: tuple[str, ...] | None = None
    """Presets that jobs may name; unset allows all that ship with the package."""
    data_roots: dict[str, Path] = Field(default_factory=dict)
    """Folders of data sets by name: `{"cifar10": "/data"}` for torchvision's, any other name for an image folder,
    which jobs then give as `data.root`."""
    weights: dict[str, Path] = Field(default_factory=dict)
    """Extractor weight files by name, which jobs then give as `evaluation.weights`."""
    allow_downloads: bool = False
    """Whether a job may let torchvision or torch-fidelity fetch files."""

    grace_seconds: Seconds = 60
    """Time an attempt has to save its state when asked to stop."""
    lease_ttl_seconds: Seconds = 15
    """After so long without renewal an attempt counts as lost."""
    infrastructure_retries: Annotated[int, Field(ge=0)] = 5
    """Times a job is taken up again after its process was killed, lost or could not be started."""
    program_retries: Annotated[int, Field(ge=0)] = 1
    """Times a job is taken up again after an unexpected exception."""
    retry_backoff_seconds: Annotated[float, Field(ge=0)] = 1.0
    """Wait before the first retry; doubles with each, up to a minute."""

    disk_reserve_bytes: Bytes = 512 * _MIB
    """With less free space than this no job is taken and running ones are paused after saving."""
    max_body_bytes: Annotated[int, Field(ge=1024)] = _MIB
    """Largest request body."""
    max_matrix_cells: Annotated[int, Field(ge=1)] = 1000
    """Largest experiment."""
    max_queued_jobs: Annotated[int, Field(ge=1)] = 20_000
    """Jobs of one project waiting at once."""
    max_streams_per_key: Annotated[int, Field(ge=1)] = 2000
    """Open event streams of one key."""
    samples_per_job: Annotated[int, Field(ge=0)] = 0
    """Sample grids kept of a finished job, spread evenly, the first and the last among them; 0 keeps all."""
    checkpoint_days: Annotated[float, Field(ge=0)] = 0
    """Days after a job's end at which all its checkpoints but the final and the best are deleted; 0 keeps them."""
    log_json: bool = False
    """Log lines as JSON instead of for reading."""

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can connect."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def database(self) -> Path:
        """The database file."""
        return self.data_dir / "service.sqlite3"

    @property
    def inbox(self) -> Path:
        """Where run directories are put to be imported."""
        return self.data_dir / "inbox"

    @property
    def derived(self) -> Path:
        """Thumbnails and animations; may be deleted at any time."""
        return self.data_dir / "derived"

    def job_dir(self, job_id: str) -> Path:
        """Everything of one job on disk."""
        return self.data_dir / "jobs" / job_id
