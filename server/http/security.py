"""The security middleware: checks that apply to every request and headers that every response has.

Decisions use the Host header itself, never a URL derived from it. Unexpected errors end here, as a problem with the
request's id.
"""

import re
import reprlib
import uuid
from collections.abc import Iterable

import structlog
from fastapi.responses import JSONResponse
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.http import errors
from server.http.connections import CROWDED
from server.settings import Settings, is_loopback

HEALTH = frozenset({"/healthz", "/readyz"})
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
ALWAYS_ALLOWED_HOSTS = ("localhost", "127.0.0.1", "[::1]")

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}

_FORWARDING = frozenset({"forwarded", "via", "x-real-ip"})
_REQUEST_ID = re.compile(r"[A-Za-z0-9-]{1,64}")
_AUTHORITY = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:\d{1,5})?")
_ORIGIN = re.compile(r"https?://(.+)")


class Hardening:
    """ASGI middleware: request ids, refusals of requests that nothing else needs to see, security headers.

    Refused are wrong hosts and origins, bodies that say they are too large, and, except for health checks, whatever
    comes while too many requests are being answered.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        own = f"[{settings.host}]" if ":" in settings.host else settings.host
        self._hosts = frozenset(_lower((own, *ALWAYS_ALLOWED_HOSTS, *settings.allowed_hosts)))
        self._max_body_bytes = settings.max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        request_id = _request_id(headers)
        scope.setdefault("state", {})["request_id"] = request_id
        started = False

        async def send_hardened(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                _harden(message, request_id)
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            rejection = self._rejection(scope, headers)
            if rejection is not None:
                await rejection(scope, receive, send_hardened)
                return
            try:
                await self._app(scope, receive, send_hardened)
            except Exception as error:
                if started:
                    raise
                await errors.unexpected(scope, error)(scope, receive, send_hardened)

    def _rejection(self, scope: Scope, headers: Headers) -> JSONResponse | None:
        if scope["state"].get(CROWDED) and scope["path"] not in HEALTH:
            detail = "the service answers as many requests as it can at a time; try again"
            return errors.respond(scope, "overloaded", detail, headers={"Connection": "close"})
        authority = _host(headers)
        if authority is None or authority[0] not in self._hosts:
            return errors.respond(
                scope,
                "host_not_allowed",
                "expected a Host that this service has, or that the operator allows with GAN_MHE_ALLOWED_HOSTS",
            )
        if scope["method"] not in SAFE_METHODS and not _same_site(headers, "".join(authority)):
            return errors.respond(scope, "origin_not_allowed", _wrong_site(headers, "".join(authority)))
        length = headers.get("content-length", "")
        if length.isdecimal() and int(length) > self._max_body_bytes:
            detail = f"expected at most {self._max_body_bytes} bytes (GAN_MHE_MAX_BODY_BYTES), got {length}"
            return errors.respond(scope, "body_too_large", detail, headers={"Connection": "close"})
        return None


def sign_of_proxy(headers: Headers) -> str | None:
    """What shows that a proxy has passed a request on, as words for a message; None if nothing does.

    A proxy that adds no header and sends its own idea of the Host looks like a program on this machine.
    """
    added = next((name for name in headers if name in _FORWARDING or name.startswith("x-forwarded-")), None)
    if added is not None:
        return f"the header {added.title()}"
    authority = _host(headers)
    if authority is not None and not is_loopback(authority[0].strip("[]")):
        return f"the Host {authority[0]}"
    return None


def _lower(names: Iterable[str]) -> Iterable[str]:
    return (name.lower() for name in names)


def _request_id(headers: Headers) -> str:
    given = headers.get("x-request-id", "")
    return given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


def _host(headers: Headers) -> tuple[str, str] | None:
    """Name and `:port` of the Host header; None if there are several, or it is malformed."""
    given = headers.getlist("host")
    parts = _AUTHORITY.fullmatch(given[0].lower()) if len(given) == 1 else None
    return None if parts is None else (parts[1], parts[2] or "")


def _same_site(headers: Headers, authority: str) -> bool:
    """Whether a state-changing request cannot come from a page of another site.

    Browsers send the page's Origin. A request without an Origin is rejected if it has a cookie but no Authorization.
    """
    origins = headers.getlist("origin")
    if not origins:
        return "cookie" not in headers or "authorization" in headers
    origin = _ORIGIN.fullmatch(origins[0].lower()) if len(origins) == 1 else None
    return origin is not None and origin[1] == authority


def _wrong_site(headers: Headers, authority: str) -> str:
    """Why `_same_site` is false, and what to send instead."""
    origins = headers.getlist("origin")
    if not origins:
        return "a request with a Cookie and no Origin needs an Authorization header"
    given = ", ".join(map(reprlib.repr, origins))
    return (
        f"expected the Origin http://{authority} or https://{authority}, or none; got {given}. An Origin is judged "
        "first, also if there is an Authorization header: programs other than browsers leave the Origin out"
    )


def _harden(message: Message, request_id: str) -> None:
    headers = MutableHeaders(raw=message.setdefault("headers", []))
    for name, value in HEADERS.items():
        headers.setdefault(name, value)
    headers["X-Request-Id"] = request_id
