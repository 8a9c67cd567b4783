"""The session of the page: a key in a cookie that no script can read, and that only this site's pages send."""

from fastapi import APIRouter, Response
from fastapi.requests import Request

from server.http import security
from server.http.auth import COOKIE, authenticate
from server.http.bodies import Body
from server.http.dependencies import ServiceDep

router = APIRouter(include_in_schema=False)

_SECONDS = 30 * 24 * 3600


class SignIn(Body):
    """The key to sign in with."""

    key: str


@router.post("/session", status_code=204, response_class=Response)
def sign_in(body: SignIn, request: Request, service: ServiceDep, response: Response) -> None:
    """Begin a session with a key; 401 if the key is unknown or revoked."""
    sign = security.sign_of_proxy(request.headers)
    authenticate(service.store, service.settings, body.key, sign_of_proxy=sign)
    response.set_cookie(COOKIE, body.key, max_age=_SECONDS, path="/", secure=True, httponly=True, samesite="strict")


@router.delete("/session", status_code=204, response_class=Response)
def sign_out(response: Response) -> None:
    """End the session of this browser."""
    response.delete_cookie(COOKIE, path="/", secure=True, httponly=True, samesite="strict")
