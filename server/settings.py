"""The operator's settings, from arguments or environment variables `GAN_MHE_*`; lists and tables are given as JSON.

Created once by the process that starts the service; importing this module does not read the environment.
"""

import ipaddress
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from gan_mhe.errors import GanMheError, nearest

PREFIX = "GAN_MHE_"
# Variables with the prefix that are no settings of the service; their readers are the library, the client, the
# supervisor and the tests of crashes.
OTHER_VARIABLES = ("GAN_MHE_ATTEMPT", "GAN_MHE_CACHE", "GAN_MHE_CRASH_AT", "GAN_MHE_KEY", "GAN_MHE_SERVER")


def _expanded(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise ValueError(f"{error}") from None


Seconds = Annotated[float, Field(gt=0)]
Bytes = Annotated[int, Field(ge=0)]
UserPath = Annotated[Path, AfterValidator(_expanded)]  # may begin with ~, which no shell expands in a variable

_MIB = 2**20

WORKER_COMMAND = (sys.executable, "-m", "gan_mhe.worker")

MOST_PRIORITY = 10
"""The highest priority of a job; the lowest is its negative."""


class Settings(BaseSettings):
    """The service's settings. Unknown arguments are errors."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True
    )

    data_dir: UserPath = Path("gan-mhe-data")
    """Directory of all data of the service: database, jobs, cached images."""
    host: str = "127.0.0.1"
    """Address to listen on. Addresses other than loopback require API keys."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """Port to listen on; 0 selects a free one."""
    allowed_hosts: tuple[str, ...] = ()
    """Host names that clients may use besides the service's own address and localhost; they always need a key."""

    cpu_slots: Annotated[int, Field(ge=0)] = max(1, (os.cpu_count() or 2) // 2)
    """Concurrent training jobs on the CPU; 0 to train on GPUs only."""
    threads_per_slot: Annotated[int, Field(ge=1)] = 1
    """CPU threads per job."""
    task_slots: Annotated[int, Field(ge=1)] = 1
    """Concurrent sampling and scoring tasks, in addition to training jobs."""
    cuda_slots_per_device: Annotated[int, Field(ge=0)] = 1
    """Concurrent training jobs per GPU."""
    cuda_memory_bytes_per_slot: int | None = None
    """GPU memory per job in bytes; if unset, the jobs of a device share it equally."""
    worker_command: tuple[str, ...] = WORKER_COMMAND
    """Command of an attempt; the request file's path is appended."""
    warm_start: bool = True
    """Whether one process loads PyTorch, and attempts on the CPU are forked from it: they start
    without the seconds that loading takes. It keeps some 600 MB while the service runs. Has an effect with the default
    `worker_command` only."""
    worker_niceness: Annotated[int, Field(ge=0, le=19)] = 5
    """Niceness of attempts, so that this service and other programs have priority for the CPU."""

    presets: tuple[str, ...] | None = None
    """Presets that jobs may use; if unset, all that the package contains."""
    data_roots: dict[str, UserPath] = Field(default_factory=dict)
    """Directories of data sets by name: `{"cifar10": "/data"}` for torchvision's data set; any other name is an image
    folder that jobs select with `data.root`."""
    weights: dict[str, UserPath] = Field(default_factory=dict)
    """Extractor weight files by name; jobs select one with `evaluation.weights`."""
    allow_downloads: bool = False
    """Whether jobs may download files through torchvision or torch-fidelity."""

    grace_seconds: Seconds = 60
    """Seconds that an attempt has to save its state after a request to stop."""
    lease_ttl_seconds: Seconds = 15
    """Seconds without renewal after which an attempt's lease expires and the attempt is lost."""
    infrastructure_retries: Annotated[int, Field(ge=0)] = 5
    """Retries of a job after its process was killed or lost; a fault of the whole machine uses none."""
    program_retries: Annotated[int, Field(ge=0)] = 1
    """Retries of a job after an unexpected exception."""
    retry_backoff_seconds: Annotated[float, Field(ge=0)] = 1.0
    """Seconds before the first retry; doubled for each further one, up to a minute."""

    disk_reserve_bytes: Bytes = 512 * _MIB
    """Free disk space in bytes below which no job is accepted and running jobs are saved and paused."""
    max_body_bytes: Annotated[int, Field(ge=1024)] = _MIB
    """Maximum size of a request body in bytes."""
    request_head_seconds: Seconds = 10
    """Seconds from a connection, or the first byte of a further request, until the head of the request is complete."""
    request_body_seconds: Seconds = 300
    """Seconds from the head of a request until its body is complete."""
    stall_seconds: Seconds = 30
    """Seconds without a byte of a request body, or without the client taking a byte of an answer, that end a
    connection."""
    max_matrix_cells: Annotated[int, Field(ge=1)] = 1000
    """Maximum number of jobs in an experiment."""
    max_queued_jobs: Annotated[int, Field(ge=1)] = 20_000
    """Maximum number of queued jobs per project, for keys without a limit of their own."""
    max_priority: Annotated[int, Field(ge=-MOST_PRIORITY, le=MOST_PRIORITY)] = MOST_PRIORITY
    """Highest priority of a job, for keys without a limit of their own."""
    max_streams_per_key: Annotated[int, Field(ge=1)] = 2000
    """Maximum number of open event streams per API key, for keys without a limit of their own."""
    samples_per_job: Annotated[int, Field(ge=0)] = 0
    """Sample grids kept of a finished job, evenly spaced, the first and the last included; 0 keeps all."""
    checkpoint_days: Annotated[float, Field(ge=0)] = 0
    """Days after a job's end when its checkpoints are deleted except the final and the best one; 0 keeps them."""
    trash_days: Annotated[float, Field(ge=0)] = 7
    """Days for which the files of a deleted job stay in the trash, unless the disk is short of space; 0 for none."""
    private_files: bool = True
    """Whether only the user of the service can read what it and its workers write. Otherwise the umask of the process
    decides, and the data directory keeps its mode, such as one with access for a group."""
    log_json: bool = False
    """Log as JSON instead of text."""

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can connect."""
        return is_loopback(self.host)

    @property
    def database(self) -> Path:
        """The database file."""
        return self.data_dir / "service.sqlite3"

    @property
    def inbox(self) -> Path:
        """Directory from which run directories are imported."""
        return self.data_dir / "inbox"

    @property
    def trash(self) -> Path:
        """Directory of the files of deleted jobs."""
        return self.data_dir / "trash"

    @property
    def keys_required(self) -> Path:
        """A file whose existence says that this service has had an API key: it never again answers without one."""
        return self.data_dir / "keys-required"

    @property
    def image_cache(self) -> Path:
        """Directory of thumbnails and animations; may be deleted at any time."""
        return self.data_dir / "derived"

    def job_dir(self, job_id: str) -> Path:
        """Directory of one job."""
        return self.data_dir / "jobs" / job_id


def is_loopback(host: str) -> bool:
    """Whether a host name or an address, without brackets, means this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_variables(environment: Mapping[str, str]) -> None:
    """Raise GanMheError if a variable begins with GAN_MHE_ and nobody reads it; it names the nearest known one."""
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields} | {*OTHER_VARIABLES}
    unknown = [name for name in environment if name.upper().startswith(PREFIX) and name.upper() not in known]
    if unknown:
        listed = "; ".join(f"unknown environment variable {name}{nearest(name.upper(), known)}" for name in unknown)
        raise GanMheError(f"settings: {listed}")
