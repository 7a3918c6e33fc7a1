"""The page: plain files, no build step, nothing loaded from elsewhere; and what it may offer to the token that was typed on it."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Final

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse
from pydantic import BaseModel

from service.api.desk import Desk
from service.api.outputs import RangedFile
from service.api.security import Scope
from service.errors import Unavailable
from service.records import Book

WEB: Final = Path(__file__).resolve().parent.parent / "web"
MEDIA: Final = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".png": "image/png"}
HEADERS: Final = {"Cache-Control": "no-cache"}
EVIDENCE: Final = "<!-- what the serving release says of irradiated patients -->"
UNKNOWN: Final = (
    "Whether irradiated patients were in training or evaluation is not known here while no inference worker is alive: "
    "see the release's card."
)


class Offer(BaseModel):
    """What the page shows and offers.

    Attributes
    ----------
    locked : is a token needed at all
    token : the name of the one that came
    sources : names to fetch a series from, for those who may send
    """

    locked: bool
    token: str | None
    scopes: list[Scope]
    sources: list[str]


def page_routes(desk: Desk) -> APIRouter:
    """The files themselves hold nothing of a patient and are open; what they fetch is not."""
    router = APIRouter(include_in_schema=False)
    for file in sorted(WEB.iterdir()):
        if file.suffix in MEDIA:
            _add(router, file)

    @router.get("/", name="index.html")
    async def index() -> HTMLResponse:
        text = (WEB / "index.html").read_text(encoding="utf-8")
        evidence = await desk.look(lambda: told_evidence(desk.book))
        return HTMLResponse(text.replace(EVIDENCE, html.escape(evidence)), headers=HEADERS)

    @router.get("/page.json")
    async def offer(request: Request) -> Offer:
        scopes = desk.guard.scopes_of(request)
        sources = [source.name for source in desk.settings.sources] if Scope.SUBMIT in scopes else []
        name = getattr(request.state, "token", None)
        return Offer(locked=not desk.guard.open, token=name, scopes=sorted(scopes), sources=sources)

    return router


def told_evidence(book: Book) -> str:
    """What the releases of all living inference workers say of irradiated patients, each sentence once."""
    try:
        told = {str(part.detail.get("evidence") or "") for part in book.living_parts() if part.kind == "inference"} - {""}
    except Unavailable:
        told = set()
    return " ".join(sorted(told)) or UNKNOWN


def _add(router: APIRouter, file: Path) -> None:
    async def give() -> RangedFile:
        return RangedFile(file, media_type=MEDIA[file.suffix], headers=HEADERS)

    router.add_api_route(f"/{file.name}", give, methods=["GET"], name=file.name)
