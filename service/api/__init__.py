"""The HTTP face: `make_api` builds the app from its parts, `start_api` serves it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Final

from fastapi import APIRouter, FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute

from service.api.access import Access
from service.api.audit import audit_routes
from service.api.cases import case_routes
from service.api.desk import Desk
from service.api.dicomweb import dicomweb_routes
from service.api.health import (
    Check,
    Health,
    check_audit,
    check_broker,
    check_database,
    check_delivery,
    check_listener,
    check_store,
    check_workers,
)
from service.api.identity import identity_routes
from service.api.metrics import HttpCounts, Metrics
from service.api.operations import operation_routes
from service.api.outputs import output_routes
from service.api.page import page_routes
from service.api.problems import ProblemDetails, answer_problems
from service.api.security import Guard, SecureAnswers
from service.api.server import ApiServer, start_api
from service.api.submission import submission_routes
from service.api.verdicts import verdict_routes
from service.api.waiting import Waiters
from service.intake import Intake
from service.multipart import Limits
from service.records import Book
from service.settings import Settings
from service.store import Store

__all__ = ["ApiServer", "make_api", "start_api"]

ABOUT: Final = (
    "Send a brain FLAIR series, wait, get masks and reports. Errors are RFC 9457 problem details. DICOMweb is at /dicomweb, as "
    "PS3.18 describes it. Investigational. FLAIR "
    "white-matter hyper-intensity, cause not attributed: treatment effect, oedema, infiltration and other disease look alike. "
    "Not a response assessment (RANO)."
)


def make_api(
    settings: Settings, book: Book, store: Store, intake: Intake, *, checks: Mapping[str, Check] | None = None, own: Collection[str] = ()
) -> FastAPI:
    """
    Build the app.

    Parameters
    ----------
    checks
        What else readiness asks, by the name of the part (the release, the listener): functions that say how the part is, or
        raise Unavailable with the reason.
    own
        Which of the parts that are otherwise only told (listener, workers, delivery) this process is not ready without.
    """
    parts: dict[str, Check] = {
        "database": check_database(book),
        "store": check_store(store),
        "broker": check_broker(settings),
        "listener": check_listener(book),
        "workers": check_workers(book),
        "delivery": check_delivery(book, len(settings.destinations)),
        "audit": check_audit(book),
    }
    advisory = {"listener", "workers", "delivery", "audit"} - set(own)
    counts = HttpCounts()
    desk = Desk(
        settings=settings,
        book=book,
        store=store,
        intake=intake,
        guard=Guard(settings.tokens, book),
        health=Health(parts | dict(checks or {}), advisory=advisory),
        metrics=Metrics(book, store, counts, product_version()),
        version=product_version(),
        limits=Limits.from_settings(settings),
    )
    waiters = Waiters(book, desk.look)
    app = FastAPI(
        title="Leukoscope",
        version=desk.version,
        description=ABOUT,
        docs_url=None,  # they load scripts from elsewhere
        redoc_url=None,
        lifespan=_lifespan(desk, waiters),
        redirect_slashes=False,
        generate_unique_id_function=lambda route: route.name,
    )
    app.state.waiters = waiters
    routers = (
        operation_routes(desk),
        submission_routes(desk),
        case_routes(desk, waiters),
        audit_routes(desk),
        verdict_routes(desk),
        identity_routes(desk),
        output_routes(desk),
        *dicomweb_routes(desk),
        page_routes(desk),
    )
    for router in routers:
        app.include_router(router)
    answer_problems(app, _allowed(routers))
    _describe(app)
    app.add_middleware(SecureAnswers)
    app.add_middleware(Access, counts=counts)
    return app


def product_version() -> str:
    """The version of the installed distribution."""
    try:
        return version("leukoscope")
    except PackageNotFoundError:
        return "0"


def _lifespan(desk: Desk, waiters: Waiters) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        await desk.work(desk.store.clean_leftovers)
        yield
        waiters.stop()
        desk.health.close()
        desk.renderer.stop()
        desk.hands.shutdown(wait=False, cancel_futures=True)

    return lifespan


def _allowed(routers: Sequence[APIRouter]) -> Callable[[str], str]:
    """What the Allow header of a 405 says of a path: the methods of every route there, not only of the first."""
    routes = [route for router in routers for route in router.routes if isinstance(route, APIRoute)]

    def methods_of(path: str) -> str:
        methods = {method for route in routes if route.path_regex.match(path) for method in route.methods or ()}
        return ", ".join(sorted(methods | ({"HEAD"} if "GET" in methods else set())))

    return methods_of


def _describe(app: FastAPI) -> None:
    """The OpenAPI document: problem details as the one shape of errors, and bearer tokens."""

    def openapi() -> dict[str, object]:
        if app.openapi_schema is None:
            document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
            components = document.setdefault("components", {})
            components.setdefault("schemas", {})["ProblemDetails"] = ProblemDetails.model_json_schema()
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way to extend it
