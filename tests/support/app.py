"""The API in this process, without what FastAPI and its test client would do again for each of a thousand tests."""

from anyio.from_thread import BlockingPortal
from fastapi import FastAPI
from fastapi.testclient import TestClient
from starlette.routing import BaseRoute

from server.app import create_app
from server.service import Service

_ROUTES: dict[int, BaseRoute] = {}


def make_app(service: Service) -> FastAPI:
    """`create_app`, with routers that have worked out their routes, if this process has made an app before.

    FastAPI does so at the first request, which takes longer than most tests; the routes know nothing of the service.
    """
    app = create_app(service)
    for index, route in enumerate(app.router.routes):
        if hasattr(route, "effective_candidates"):  # a router, included
            app.router.routes[index] = _ROUTES.setdefault(index, route)
    return app


def make_client(service: Service, portal: BlockingPortal) -> TestClient:
    """A client of the service's app, without its lifespan. portal: the event loop, in place of one for each request."""
    client = TestClient(make_app(service), base_url="http://localhost")
    client.portal = portal
    return client
