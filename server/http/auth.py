"""Who is asking, and whether they may. Every route of /v1 depends on one `Scope`.

Keys are looked up at each request, in one indexed read, so that a revocation holds from the next request on.
"""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Security
from fastapi.requests import Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from server.http.errors import Forbidden, Unauthenticated
from server.settings import Settings
from server.store import keys
from server.store.store import Store

_bearer = HTTPBearer(
    auto_error=False,
    scheme_name="API key",
    description="`gk_<prefix>_<secret>`, made with `gan-mhe keys create`. Not needed on loopback while no key exists.",
)

Credentials = Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)]


@dataclass(frozen=True)
class Principal:
    """Who is asking. owner: the key's prefix, or `anonymous`; project: whose jobs they see."""

    owner: str
    project: str
    scopes: frozenset[str]

    def may(self, scope: str) -> bool:
        """Whether the scope is granted; `admin` grants all."""
        return scope in self.scopes or "admin" in self.scopes


ANONYMOUS = Principal("anonymous", keys.DEFAULT_PROJECT, frozenset(keys.SCOPES))


def authenticate(store: Store, settings: Settings, token: str | None) -> Principal:
    """Who a token stands for. Unauthenticated when it is not good, or is missing where keys are required."""
    if token is None:
        if settings.is_loopback and not store.read(keys.exist):
            return ANONYMOUS
        raise Unauthenticated("expected the header Authorization: Bearer gk_<prefix>_<secret>")
    key = store.read(lambda connection: keys.verify(connection, token))
    if key is None:
        raise Unauthenticated("the API key is unknown or revoked")
    return Principal(key["prefix"], key["project"], frozenset(key["scopes"]))


class Scope:
    """A dependency that answers with the Principal if it has the scope; 401 and 403 problems if not.

    `None` asks for a good key and no scope in particular.
    """

    def __init__(self, name: str | None) -> None:
        assert name is None or name in keys.SCOPES
        self.name = name

    def __call__(self, request: Request, credentials: Credentials) -> Principal:
        service = request.app.state.service
        principal = authenticate(service.store, service.settings, credentials.credentials if credentials else None)
        if self.name is not None and not principal.may(self.name):
            raise Forbidden(f"this needs the scope {self.name}; the key has {', '.join(sorted(principal.scopes))}")
        return principal
