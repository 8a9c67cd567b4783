"""Authentication and authorization. Every route of /v1 depends on one `Scope`.

Keys are verified at each request with one indexed read, so that a revocation takes effect immediately. An answer that
takes long asks `holds` again.
"""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Security
from fastapi.requests import Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from server.http import security
from server.http.errors import Forbidden, Unauthenticated
from server.settings import Settings
from server.store import keys
from server.store.rows import KeyRow
from server.store.store import Store

COOKIE = "__Host-gan-mhe"
"""The cookie of the page's session; it holds the key. The prefix makes browsers refuse it from other hosts."""

_bearer = HTTPBearer(
    auto_error=False,
    scheme_name="API key",
    description="`gk_<prefix>_<secret>`, created with `gan-mhe keys create`. Not required on loopback without keys.",
)

Credentials = Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)]


@dataclass(frozen=True)
class Principal:
    """The caller.

    owner: the key's prefix, or `anonymous`. project: the project whose jobs it can access. settings: the operator's,
    with the key's own limits in place of theirs.
    """

    owner: str
    project: str
    scopes: frozenset[str]
    settings: Settings

    def may(self, scope: str) -> bool:
        """Whether it has the scope; `admin` includes all scopes."""
        return scope in self.scopes or "admin" in self.scopes


_ANONYMOUS = "anonymous"


def authenticate(store: Store, settings: Settings, token: str | None, *, sign_of_proxy: str | None) -> Principal:
    """The caller with this token. Raises Unauthenticated if the token is invalid, or missing although required.

    sign_of_proxy: what shows that the request was not made on this machine, as `security.sign_of_proxy` finds it.
    """
    if token is None:
        if not settings.is_loopback or _key_required(store, settings):
            raise Unauthenticated("expected the header Authorization: Bearer gk_<prefix>_<secret>")
        if sign_of_proxy is not None:
            raise Unauthenticated(
                f"without a key the service answers only requests made on its own machine, and this one has "
                f"{sign_of_proxy}, as behind a proxy; expected an API key, which the operator creates with "
                "`gan-mhe keys create`"
            )
        return Principal(_ANONYMOUS, keys.DEFAULT_PROJECT, frozenset(keys.SCOPES), settings)
    key = store.read(lambda connection: keys.verify(connection, token))
    if key is None:
        raise Unauthenticated("the API key is unknown or revoked")
    return Principal(key["prefix"], key["project"], frozenset(key["scopes"]), _with_limits(settings, key))


def holds(store: Store, principal: Principal, scope: str) -> bool:
    """Whether a caller that had the scope when its request came still has it: its key was not revoked or changed.

    A caller without a key had it while there was no key at all.
    """
    if principal.owner == _ANONYMOUS:
        return not _key_required(store, principal.settings)
    key = store.read(lambda connection: keys.usable(connection, principal.owner))
    return key is not None and key["project"] == principal.project and bool({scope, "admin"} & {*key["scopes"]})


def _key_required(store: Store, settings: Settings) -> bool:
    """Whether a key was ever made, also one that was lost with its database."""
    return settings.keys_required.exists() or store.read(keys.exist)


def _with_limits(settings: Settings, key: KeyRow) -> Settings:
    own = {
        "max_priority": key["max_priority"],
        "max_queued_jobs": key["max_queued_jobs"],
        "max_streams_per_key": key["max_streams"],
    }
    limits = {name: value for name, value in own.items() if value is not None}
    return settings.model_copy(update=limits) if limits else settings


class Scope:
    """A dependency that returns the Principal if it has the scope; raises the problems 401 and 403 otherwise."""

    def __init__(self, name: str) -> None:
        assert name in keys.SCOPES
        self.name = name

    def __call__(self, request: Request, credentials: Credentials) -> Principal:
        service = request.app.state.service
        token = credentials.credentials if credentials else request.cookies.get(COOKIE)
        sign = security.sign_of_proxy(request.headers)
        principal = authenticate(service.store, service.settings, token, sign_of_proxy=sign)
        if not principal.may(self.name):
            raise Forbidden(f"this requires the scope {self.name}; the key has {', '.join(sorted(principal.scopes))}")
        return principal
