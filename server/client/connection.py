"""HTTP requests that survive short interruptions of the service: every request is retried, which is always safe.

GET, PUT and DELETE are idempotent; a POST carries an idempotency key, so that the service executes it once.
"""

import json
import math
import random
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from types import MappingProxyType
from typing import Any, Self

import httpx2

from server.client.errors import NotAuthorized, Rejected, Unreachable, error_of

Params = Mapping[str, Any]

TRANSIENT = (httpx2.NetworkError, httpx2.TimeoutException, httpx2.RemoteProtocolError)
_TRANSIENT_STATUS = frozenset({429, 502, 503, 504})
ATTEMPTS = 4
FIRST_WAIT_SECONDS = 0.25
_LONGEST_WAIT_SECONDS = 30.0


class Interrupted(Exception):
    """The service is temporarily unavailable. cause: the error to raise when retrying has failed for too long."""

    def __init__(self, cause: Exception, retry_after_seconds: float | None = None) -> None:
        super().__init__(str(cause))
        self.cause = cause
        self.retry_after_seconds = retry_after_seconds


class Connection:
    """HTTP connections to one service. Every failure is raised as a ServerError."""

    def __init__(
        self, base_url: str, *, key: str | None, timeout_seconds: float, transport: httpx2.BaseTransport | None
    ) -> None:
        self.base_url = base_url.rstrip("/")
        host, token = _host(self.base_url), _token(key)
        self._timeout_seconds = timeout_seconds
        self._http = httpx2.Client(
            base_url=self.base_url,
            headers={"Authorization": f"Bearer {token}"} if token else {},
            timeout=timeout_seconds,
            transport=transport,
            follow_redirects=True,
            # Proxy settings of the environment never apply to this machine.
            trust_env=host not in ("127.0.0.1", "localhost", "::1"),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def get(self, path: str, **params: Any) -> Any:
        """GET a JSON document."""
        return self._document(self.request("GET", path, params=params))

    def get_bytes(self, path: str, *, min_timeout_seconds: float = 0.0, **params: Any) -> bytes:
        """GET the content at a path. min_timeout_seconds: timeout of this request if the usual one is shorter."""
        return self.request("GET", path, params=params, min_timeout_seconds=min_timeout_seconds).content

    def post(
        self,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        key: str | None = None,
        prefer: str | None = None,
        **params: Any,
    ) -> Any:
        """POST a request and return the JSON response. key: idempotency key; a new one by default."""
        headers = {"Idempotency-Key": key or uuid.uuid4().hex} | ({"Prefer": prefer} if prefer else {})
        return self._document(self.request("POST", path, params=params, body=body, headers=headers))

    def _document(self, response: httpx2.Response) -> Any:
        try:
            return response.json()
        except ValueError:
            raise Unreachable(f"{response.url}: expected JSON, got something else") from None

    def request(
        self,
        method: str,
        path: str,
        *,
        params: Params,
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        min_timeout_seconds: float = 0.0,
    ) -> httpx2.Response:
        """A successful response; retries while the service is temporarily unavailable."""
        request = self._build(
            method,
            path,
            params=_present(params),
            content=None if body is None else _json(body),
            headers={**({} if body is None else {"Content-Type": "application/json"}), **(headers or {})},
            timeout=max(self._timeout_seconds, min_timeout_seconds),
        )
        failures = 0
        while True:
            try:
                return self._once(request)
            except Interrupted as interruption:
                failures += 1
                if failures == ATTEMPTS:
                    raise interruption.cause from None
                time.sleep(wait_seconds(failures - 1, FIRST_WAIT_SECONDS, interruption.retry_after_seconds))

    def _build(self, method: str, path: str, **options: Any) -> httpx2.Request:
        """A request. Raises Rejected if the id in its path, or a header, has characters that HTTP cannot carry."""
        try:
            return self._http.build_request(method, path, **options)
        except (httpx2.InvalidURL, UnicodeEncodeError) as error:
            raise Rejected(f"{method} {path!r} cannot be sent: {error}") from None

    def _once(self, request: httpx2.Request) -> httpx2.Response:
        try:
            response = self._http.send(request)
        except httpx2.HTTPError as error:
            raise self._failure(error) from None
        self._check(response)
        return response

    @contextmanager
    def events(self, path: str, params: Params, after: int | None, silence_seconds: float) -> Iterator[Any]:
        """Open an event stream and yield its messages, or None if no event will follow.

        silence_seconds: time without a byte after which the connection counts as broken. Raises Interrupted for errors
        after which reconnecting may help, also from the body of the `with` statement.
        """
        headers = {"Accept": "text/event-stream", "Cache-Control": "no-store"}
        if after is not None:
            headers["Last-Event-ID"] = str(after)
        with self.stream(path, headers, silence_seconds, params) as response:
            yield None if response.status_code == 204 else httpx2.EventSource(response, max_event_size=None)

    @contextmanager
    def stream(
        self, path: str, headers: Mapping[str, str], silence_seconds: float, params: Params = MappingProxyType({})
    ) -> Iterator[httpx2.Response]:
        """GET a response whose body is read as it comes. Parameters and errors as for `events`."""
        timeout = httpx2.Timeout(self._timeout_seconds, read=silence_seconds)
        try:
            request = self._build("GET", path, params=_present(params), headers=headers, timeout=timeout)
            with closing(self._http.send(request, stream=True)) as response:
                if response.status_code >= 400:
                    response.read()
                    self._check(response)
                yield response
        except httpx2.HTTPError as error:
            raise self._failure(error) from None

    def _check(self, response: httpx2.Response) -> None:
        if response.status_code < 400:
            return
        error = error_of(str(response.url), response.status_code, response.content)
        retry_after = _seconds(response.headers.get("Retry-After"))
        if response.status_code in _TRANSIENT_STATUS or retry_after is not None:
            raise Interrupted(error, retry_after)
        raise error

    def _failure(self, error: httpx2.HTTPError) -> Exception:
        if isinstance(error, httpx2.ConnectError):
            return Interrupted(Unreachable(f"no server at {self.base_url}; start one with `gan-mhe serve`"))
        failure = Unreachable(f"the connection to {self.base_url} failed: {error or type(error).__name__}")
        return Interrupted(failure) if isinstance(error, TRANSIENT) else failure


def _token(key: str | None) -> str:
    """The key without the spaces around it. Raises NotAuthorized, without the key, if no header can carry it."""
    token = (key or "").strip()
    for position, character in enumerate(token):
        if not "!" <= character <= "~":
            kind = "a line break or space" if character.isspace() else "not a character of ASCII, or not printable"
            raise NotAuthorized(
                "API key (GAN_MHE_KEY): expected gk_<prefix>_<secret>, without quotes and on one line; "
                f"its character {position} of {len(token)} is {kind}"
            )
    return token


def _json(body: Mapping[str, Any]) -> str:
    """The body as JSON. Raises Rejected, which names the keys of values that JSON does not have."""
    try:
        return json.dumps(body, allow_nan=False)
    except (TypeError, ValueError) as error:
        wrong = [f"{key}: expected a value that JSON has, got {value}" for key, value in _unsendable(body)]
        raise Rejected("; ".join(wrong) or f"the request cannot be sent as JSON: {error}") from None


def _unsendable(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """The values in a request that JSON does not have, such as NaN and dates, by dotted key."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _unsendable(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from _unsendable(inner, f"{key}.{index}")
    elif isinstance(value, float) and not math.isfinite(value):
        yield key, value
    elif not isinstance(value, str | int | float | None):
        yield key, f"the {type(value).__name__} {value}"


def _host(base_url: str) -> str:
    try:
        url = httpx2.URL(base_url)
    except httpx2.InvalidURL:
        url = httpx2.URL()
    if url.scheme not in ("http", "https") or not url.host:
        raise Unreachable(f"server URL: expected http://HOST:PORT, got {base_url!r}")
    return url.host


def wait_seconds(failures: int, first: float, retry_after: float | None = None) -> float:
    """Seconds to wait after `failures` consecutive failures: exponential with jitter, or as the service asked."""
    longest = min(_LONGEST_WAIT_SECONDS, retry_after if retry_after is not None else first * 2**failures)
    return longest if retry_after is not None else longest * random.uniform(0.5, 1)


def _seconds(text: str | None) -> float | None:
    return float(text) if text is not None and text.isdigit() else None


def _present(params: Params) -> dict[str, Any]:
    return {name: value for name, value in params.items() if value is not None}
