"""Full and read-only disks."""

from dataclasses import dataclass

from benchmarks.campaign.harms.base import Harm, Scene
from benchmarks.campaign.service import RESERVE_BYTES


class _Storage(Harm):
    group = "disk"
    pauses = True

    def missing(self, scene: Scene) -> str | None:
        return scene.volume.refusal

    def heal(self, scene: Scene) -> None:
        scene.volume.heal()
        super().heal(scene)


@dataclass
class FullDisk(_Storage):
    """Space runs out for some seconds. free_bytes: what is left."""

    free_bytes: int

    @property
    def name(self) -> str:
        return "disk full to the last byte" if self.free_bytes == 0 else "disk full to the reserve"

    def inflict(self, scene: Scene) -> str:
        scene.volume.leave_free(self.free_bytes)
        return f"{self.free_bytes} bytes free for {scene.pause(2.0, 10.0):.1f} s"


@dataclass
class ReadOnly(_Storage):
    """A folder turns read-only for some seconds. below: relative to the data directory, empty for all of it."""

    below: str

    @property
    def name(self) -> str:
        return f"{self.below or 'data directory'} read-only"

    def inflict(self, scene: Scene) -> str:
        scene.volume.make_read_only(self.below)
        return f"for {scene.pause(2.0, 10.0):.1f} s"


def half_the_reserve() -> FullDisk:
    """Less free space than the service wants to keep, but some."""
    return FullDisk(RESERVE_BYTES // 2)
