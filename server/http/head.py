"""HEAD requests, which every GET route answers; the framework adds them only to routes of its lower layer."""

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_SET_BY_ROUTING = ("route", "state")  # what the middleware outside this one logs


class Head:
    """ASGI middleware: answers HEAD with the status and headers of GET, and ends the response there.

    A Range is ignored: RFC 9110 defines it for GET only. An event stream is closed as soon as it would begin.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return
        answered = asyncio.Event()

        async def send_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                await send(message)
                answered.set()

        async def receive_disconnect() -> Message:
            await answered.wait()
            return {"type": "http.disconnect"}

        inner = _as_get(scope)
        try:
            await self._app(inner, receive_disconnect, send_headers)
        finally:
            scope.update({name: inner[name] for name in _SET_BY_ROUTING if name in inner})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _as_get(scope: Scope) -> Scope:
    """The scope of the GET request, in which the framework reads no file and notices a disconnect while it streams."""
    return {
        **scope,
        "method": "GET",
        "headers": [(name, value) for name, value in scope["headers"] if name != b"range"],
        "extensions": {**scope.get("extensions", {}), "http.response.pathsend": {}},
        "asgi": {**scope.get("asgi", {}), "spec_version": "2.3"},
    }
