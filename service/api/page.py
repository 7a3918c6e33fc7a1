"""The page: plain files, no build step, nothing loaded from elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from fastapi import APIRouter

from service.api.outputs import RangedFile

WEB: Final = Path(__file__).resolve().parent.parent / "web"
FILES: Final = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
}


def page_routes() -> APIRouter:
    """The files themselves hold nothing of a patient and are open; what they fetch is not."""
    router = APIRouter(include_in_schema=False)
    for address, (name, media_type) in FILES.items():
        _add(router, address, WEB / name, media_type)
    return router


def _add(router: APIRouter, address: str, file: Path, media_type: str) -> None:
    async def give() -> RangedFile:
        return RangedFile(file, media_type=media_type, headers={"Cache-Control": "no-cache"})

    router.add_api_route(address, give, methods=["GET"], name=file.name)
