"""A wall clock that steps while jobs train and wait for a retry, and steps back."""

from dataclasses import dataclass

from benchmarks.campaign.harms.base import Harm, Scene
from benchmarks.campaign.harms.processes import victims


@dataclass
class ClockStep(Harm):
    """The clock of server and workers steps by some hours; a trainer is killed, so that a retry is due."""

    hours: float

    group = "clock"

    @property
    def name(self) -> str:
        return f"clock {self.hours:+g} h"

    def inflict(self, scene: Scene) -> str:
        scene.service.set_clock(self.hours * 3600)
        scene.pause(0.0, 2.0)
        scene.kill(*victims(scene, "trainer"))
        return f"a trainer killed; back after {scene.pause(0.0, 5.0):.1f} s more"

    def heal(self, scene: Scene) -> None:
        scene.service.set_clock(0.0)
        super().heal(scene)
