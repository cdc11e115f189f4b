"""The application: pages, JSON interface, and how faults are told."""

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles

from experiments.web import api, files, pages
from experiments.web.faults import RequestFault
from experiments.web.guard import Application, Guard, Patience
from experiments.web.site import Site

LOOPBACK = frozenset({"127.0.0.1", "localhost", "[::1]"})


def application(
    site: Site, version: str, hosts: frozenset[str] | None = LOOPBACK, patience: Patience | None = None
) -> Application:
    """An ASGI application that serves `site`, asked by the names `hosts` only (None: by any)."""
    # Its pages of documentation would load scripts of other hosts: /openapi.json alone is served.
    app = FastAPI(
        title="cnnimretrieval",
        summary="Search a collection of photos with a photo",
        version=version,
        docs_url=None,
        redoc_url=None,
    )
    app.include_router(api.routes(site))
    app.include_router(pages.routes(site))
    app.include_router(files.routes(site))
    app.mount("/static", StaticFiles(directory=pages.HERE / "static"))

    @app.exception_handler(RequestFault)
    async def told(_: Request, fault: RequestFault) -> JSONResponse:
        return _fault(fault.status, fault.field, fault.message)

    @app.exception_handler(RequestValidationError)
    async def wrong(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        field = str(first["loc"][-1])
        got = repr(first.get("input"))[:60]
        return _fault(422, field, f"{field}: {first['msg']}, got {got}; correct it")

    return Guard(
        inner=app,
        max_bytes=site.max_bytes,
        hosts=hosts,
        patience=patience or Patience(),
    )


def _fault(status: int, field: str, message: str) -> JSONResponse:
    return JSONResponse({"field": field, "message": message}, status)
