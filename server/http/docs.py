"""The OpenAPI document, and the interactive documentation at /docs, from local files, so that it works offline."""

import base64
import hashlib
import re
from importlib.resources import as_file, files

from fastapi import APIRouter, FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse

_DOCUMENT = "openapi.json"
_ASSETS = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "favicon.png": "image/png",
}
_SCRIPT = re.compile(r"<script>(.*?)</script>", re.DOTALL)


def install(app: FastAPI) -> None:
    """Add the document, the page and its three files to the application."""
    router = APIRouter(include_in_schema=False)
    page = _page(app)
    policy = _policy(page)

    @router.get(f"/{_DOCUMENT}")
    def document() -> JSONResponse:
        return JSONResponse(app.openapi())

    @router.get("/docs")
    def docs() -> HTMLResponse:
        return HTMLResponse(page, headers={"Content-Security-Policy": policy})

    for name, media_type in _ASSETS.items():
        _add_asset(router, name, media_type)
    app.include_router(router)


def _page(app: FastAPI) -> str:
    """Its addresses are relative, so that it works behind a proxy that strips a path prefix."""
    response = get_swagger_ui_html(
        openapi_url=_DOCUMENT,
        title=f"{app.title}: API",
        swagger_js_url="docs/swagger-ui-bundle.js",
        swagger_css_url="docs/swagger-ui.css",
        swagger_favicon_url="docs/favicon.png",
        swagger_ui_parameters={"docExpansion": "list", "defaultModelsExpandDepth": 0, "validatorUrl": None},
    )
    return bytes(response.body).decode()


def _policy(page: str) -> str:
    """Allows own files and the page's script by its hash; Swagger UI needs inline styles and inline images."""
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in _SCRIPT.findall(page)]
    scripts = " ".join(f"'sha256-{value}'" for value in hashes)
    return (
        f"default-src 'none'; script-src 'self' {scripts}; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
        "connect-src 'self'; frame-ancestors 'none'"
    )


def _add_asset(router: APIRouter, name: str, media_type: str) -> None:
    @router.get(f"/docs/{name}", name=name)
    def asset() -> FileResponse:
        with as_file(files("fastapi_offline") / "static" / name) as path:
            return FileResponse(path, media_type=media_type, headers={"Cache-Control": "max-age=86400"})
