"""WADO-RS of pictures: one frame as PNG or JPEG, with the object's own window or the one asked for; PS3.18 10.4.1.1.3, 8.3.5."""

from __future__ import annotations

import math
import re
from functools import partial
from typing import Any, Final

import anyio.to_thread
from fastapi import APIRouter, Request, Response

from service.api.desk import Desk
from service.api.dicomweb.accept import read_accept
from service.api.dicomweb.addresses import INSTANCE, Uid
from service.api.dicomweb.holdings import Holdings
from service.api.dicomweb.retrieve import audit_retrieval, find
from service.api.problems import Problem
from service.errors import Rejected

KINDS: Final = ("image/jpeg", "image/png")
LARGEST_SIDE: Final = 4096
FUNCTIONS: Final = {"linear": "LINEAR", "linear-exact": "LINEAR_EXACT", "sigmoid": "SIGMOID"}
_NUMBER: Final = re.compile(r"[1-9]\d{0,6}")


def add_rendering(router: APIRouter, desk: Desk, holdings: Holdings) -> None:
    """An instance of one frame, or one frame by number."""

    async def show(request: Request, frame: int, *uids: str) -> Response:
        kind = _choose(request)
        wish = _wish(request)
        (instance, *_) = await find(desk, holdings, *uids)
        limits = desk.settings
        wish |= {"path": str(desk.store.path_of(instance.path)), "frame": frame, "media_type": kind}
        wish["most_pixels"] = max(LARGEST_SIDE**2, limits.maximum_rows * limits.maximum_columns)  # our own pages are larger than a scan
        try:
            picture = await anyio.to_thread.run_sync(partial(desk.renderer.draw, **wish), limiter=desk.drawers)
        except Rejected as error:
            raise Problem("not-acceptable", f"No picture: {error.reason}.") from None
        audit_retrieval(desk, request, "one frame, rendered", [instance])
        return Response(picture, media_type=kind)

    @router.get(INSTANCE + "/rendered")
    async def render_instance(request: Request, study_uid: Uid, series_uid: Uid, sop_instance_uid: Uid) -> Response:
        return await show(request, 0, study_uid, series_uid, sop_instance_uid)

    @router.get(INSTANCE + "/frames/{frame}/rendered")
    async def render_frame(request: Request, study_uid: Uid, series_uid: Uid, sop_instance_uid: Uid, frame: str) -> Response:
        if not _NUMBER.fullmatch(frame):
            raise Problem("bad-request", "One frame is rendered at a time, by its number from 1.")
        return await show(request, int(frame), study_uid, series_uid, sop_instance_uid)


def _choose(request: Request) -> str:
    """The query parameter `accept` comes before the header (PS3.18 8.3.3.1); JPEG where both kinds do."""
    for one in read_accept(request.query_params.get("accept") or request.headers.get("accept")):
        for kind in KINDS:
            if one.kind in {kind, "image/*", "*/*"}:
                return kind
    raise Problem("not-acceptable", f"Rendered are {' and '.join(KINDS)}.")


def _wish(request: Request) -> dict[str, Any]:
    """Read `quality`, `window` and `viewport`. Raises Problem (400)."""
    wish: dict[str, Any] = {}
    for name, value in request.query_params.multi_items():
        if name == "quality":
            wish["quality"] = int(_numbers(name, value, 1, lowest=1, highest=100)[0])
        elif name == "window":
            *numbers, function = value.split(",")
            if function.lower() not in FUNCTIONS:
                raise Problem("bad-request", f"window: centre, width and one of {', '.join(FUNCTIONS)}, with commas between.")
            centre, width = _numbers(name, ",".join(numbers), 2, lowest=-1e9, highest=1e9)
            if width < (0.0 if function.lower() != "linear" else 1.0) or not width:
                raise Problem("bad-request", "window: the width is too small.")
            wish["window"] = [centre, width, FUNCTIONS[function.lower()]]
        elif name == "viewport":
            wish["size"] = [int(side) for side in _numbers(name, value, 2, lowest=1, highest=LARGEST_SIDE)]
        elif name != "accept":
            raise Problem("bad-request", "Of the parameters of rendering accept, quality, window and viewport are read.")
    return wish


def _numbers(name: str, value: str, count: int, *, lowest: float, highest: float) -> list[float]:
    try:
        found = [float(text) for text in value.split(",")]
    except ValueError:
        found = []
    if len(found) != count or not all(math.isfinite(one) and lowest <= one <= highest for one in found):
        more = " (a part of the picture is not cut out)" if name == "viewport" else ""
        raise Problem("bad-request", f"{name}: {count} numbers from {lowest:g} to {highest:g}, with commas between{more}.")
    return found
