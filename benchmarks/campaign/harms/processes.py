"""Processes that are killed, stopped for some time, or restarted."""

import os
import signal
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from benchmarks.campaign.harms.base import Harm, Scene
from tests.support.server_process import wait_until

Victim = Literal["trainer", "supervisor", "server", "everything"]

_TRAINER_SECONDS = 20.0


def victims(scene: Scene, victim: Victim) -> list[int]:
    """Process numbers; a random one where there are several attempts, none if nothing runs in time."""
    service = scene.service
    if victim == "server":
        return [service.process.pid] if service.runs() else []
    if victim == "everything":
        return [*victims(scene, "server"), *service.processes()]
    with suppress(AssertionError):
        _, supervisor, trainer = scene.random.choice(wait_until(service.attempts, _TRAINER_SECONDS))
        return [supervisor if victim == "supervisor" else trainer]
    return []


@dataclass
class Kill(Harm):
    """kill -9."""

    victim: Victim
    times: int = 1

    group = "kill"

    @property
    def name(self) -> str:
        return f"kill {self.victim}" + (f" {self.times} times" if self.times > 1 else "")

    def inflict(self, scene: Scene) -> str:
        before = scene.kills
        for turn in range(self.times):
            if turn:
                scene.pause(0.05, 3.0)
            if self.victim in ("server", "everything") and not scene.service.runs():
                scene.service.process = scene.service.launch()  # and does not wait: it may be killed while it starts
                scene.pause(0.05, 3.0)
            scene.kill(*victims(scene, self.victim))
            if self.victim in ("server", "everything") and scene.service.process is not None:
                scene.service.process.wait(10)
        return f"{scene.kills - before} processes"


@dataclass
class Freeze(Harm):
    """SIGSTOP for some seconds: less and more than the lifetime of a lease."""

    victim: Victim

    group = "stop"

    @property
    def name(self) -> str:
        return f"stop {self.victim}"

    def inflict(self, scene: Scene) -> str:
        pids = victims(scene, self.victim)
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        return f"{len(pids)} processes for {scene.pause(1.0, 10.0):.1f} s"


class Restart(Harm):
    """A server that is stopped in the orderly way."""

    group = "restart"
    name = "restart server"

    def inflict(self, scene: Scene) -> str:
        scene.service.stop()
        code = scene.service.process.returncode
        assert code == 0, f"the stopped server ended with {code}"
        return f"off for {scene.pause(0.0, 6.0):.1f} s"
