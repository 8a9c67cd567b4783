"""Whether the callers of open streams may still read: asked again at every ping, once for each key."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import structlog

_log = structlog.get_logger("server.streams")


@dataclass(eq=False)
class Permit:
    """The permission of one stream.

    owner: the key, or `anonymous`; all streams of one owner are asked for together. holds: asks; called in a thread.
    wake: set when `lost` becomes true.
    """

    owner: str
    holds: Callable[[], bool]
    wake: asyncio.Event
    lost: bool = False


class Permits:
    """The permits of the open streams of one event loop; used only from that loop."""

    def __init__(self) -> None:
        self.open: set[Permit] = set()
        self._asking: asyncio.Task[None] | None = None

    def ask_again(self) -> None:
        """Ask for every open permit, unless the last question has no answer yet. Returns immediately."""
        if self.open and (self._asking is None or self._asking.done()):
            self._asking = asyncio.create_task(self._ask())

    async def _ask(self) -> None:
        questions = {permit.owner: permit.holds for permit in self.open}
        try:
            lost = await asyncio.to_thread(lambda: {owner for owner, holds in questions.items() if not holds()})
        except Exception as error:  # the database does not answer: no statement about any key; the next ping asks again
            _log.warning("could not ask whether keys still hold", error=str(error))
            return
        for permit in self.open:
            if permit.owner in lost:
                permit.lost = True
                permit.wake.set()
