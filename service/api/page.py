"""The page: plain files, no build step, nothing loaded from elsewhere."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Final

from fastapi import APIRouter
from fastapi.responses import HTMLResponse

from service.api.desk import Desk
from service.api.outputs import RangedFile
from service.errors import Unavailable
from service.records import Book

WEB: Final = Path(__file__).resolve().parent.parent / "web"
FILES: Final = {"/page.css": ("page.css", "text/css; charset=utf-8"), "/page.js": ("page.js", "text/javascript; charset=utf-8")}
HEADERS: Final = {"Cache-Control": "no-cache"}
EVIDENCE: Final = "<!-- what the serving release says of irradiated patients -->"
UNKNOWN: Final = (
    "Whether irradiated patients were in training or evaluation is not known here while no inference worker is alive: "
    "see the release's card."
)


def page_routes(desk: Desk) -> APIRouter:
    """The files themselves hold nothing of a patient and are open; what they fetch is not."""
    router = APIRouter(include_in_schema=False)
    for address, (name, media_type) in FILES.items():
        _add(router, address, WEB / name, media_type)

    @router.get("/", name="index.html")
    async def index() -> HTMLResponse:
        text = (WEB / "index.html").read_text(encoding="utf-8")
        evidence = await desk.look(lambda: told_evidence(desk.book))
        return HTMLResponse(text.replace(EVIDENCE, html.escape(evidence)), headers=HEADERS)

    return router


def told_evidence(book: Book) -> str:
    """What the releases of all living inference workers say of irradiated patients, each sentence once."""
    try:
        told = {str(part.detail.get("evidence") or "") for part in book.living_parts() if part.kind == "inference"} - {""}
    except Unavailable:
        told = set()
    return " ".join(sorted(told)) or UNKNOWN


def _add(router: APIRouter, address: str, file: Path, media_type: str) -> None:
    async def give() -> RangedFile:
        return RangedFile(file, media_type=media_type, headers=HEADERS)

    router.add_api_route(address, give, methods=["GET"], name=file.name)
