"""A PACS's DICOMweb as a client: a series by WADO-RS, the study of a series by QIDO-RS.

References
----------
PS3.18 8.7.3, 10.4.1.1.3 (retrieve a series), 10.6 (search)
"""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import httpx
from python_multipart.multipart import parse_options_header

from service.calling.web import open_web
from service.errors import Unavailable
from service.fetching.taking import NotAsked, Taking
from service.headers import Unreadable
from service.multipart import BLOCK, Intray, Limits, Malformed
from service.sections import Pacs
from service.settings import Settings
from service.store import Store

ACCEPT: Final = 'multipart/related; type="application/dicom"; transfer-syntax=*'
_ANSWER_S: Final = 120.0
_FIND_S: Final = 15.0


def get_by_web(settings: Settings, source: Pacs, study_uid: str, series_uid: str, store: Store, taking: Taking) -> int:
    """
    Retrieve a series and take its instances; gives the HTTP status. Nothing is taken of an answer that breaks off.

    Raises
    ------
    Rejected
        Larger than an upload may be, or not what was asked for.
    Unavailable
    """
    taking.check_going_on()
    address = f"{str(source.url).rstrip('/')}/studies/{study_uid}/series/{series_uid}"
    folder = store.upload_file()
    folder.mkdir()
    try:
        with open_web(str(source.url), source, _ANSWER_S) as client, client.stream("GET", address, headers={"Accept": ACCEPT}) as answer:
            if answer.is_success and answer.status_code != httpx.codes.NO_CONTENT:
                _spool(answer, folder, settings, taking)
        for path in sorted(folder.iterdir()):
            with suppress(NotAsked, Unreadable):  # counted there
                taking.take(path)
        return answer.status_code
    except (httpx.HTTPError, httpx.InvalidURL, OSError, UnicodeError) as error:
        raise Unavailable(_reason(error)) from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def find_by_web(source: Pacs, series_uid: str) -> set[str]:
    """Give the studies in which the PACS has a series of this UID. Raises Unavailable."""
    try:
        with open_web(str(source.url), source, _FIND_S) as client:
            query = {"SeriesInstanceUID": series_uid, "includefield": "StudyInstanceUID"}
            answer = client.get(f"{str(source.url).rstrip('/')}/series", params=query, headers={"Accept": "application/dicom+json"})
            if answer.status_code == httpx.codes.NO_CONTENT:
                return set()
            found: Any = answer.raise_for_status().json()
            return {str(item["0020000D"]["Value"][0]) for item in found if item["0020000E"]["Value"] == [series_uid]}
    except httpx.HTTPStatusError as error:
        raise Unavailable(f"HTTP {error.response.status_code}") from None
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        raise Unavailable(_reason(error)) from None
    except (ValueError, KeyError, TypeError, IndexError):
        raise Unavailable("its answer to a search is not DICOM JSON") from None


def _spool(answer: httpx.Response, folder: Path, settings: Settings, taking: Taking) -> None:
    """Write the parts of the answer to files, under the limits of an upload."""
    _, options = parse_options_header(answer.headers.get("content-type"))
    if not options.get(b"boundary"):
        raise Unavailable("its answer is not multipart")
    try:
        tray = Intray(folder, options[b"boundary"], Limits.from_settings(settings))
        try:
            for block in answer.iter_bytes(BLOCK):
                taking.check_going_on()
                tray.feed(block)
            tray.finish()
        finally:
            tray.close()
    except Malformed as error:
        raise Unavailable(error.reason) from None


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"what comes could not be written: {error.strerror or type(error).__name__}"
    if isinstance(error, httpx.InvalidURL | UnicodeError):
        return f"url: {error}"
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        return "no connection"
    return "it did not answer in time" if isinstance(error, httpx.TimeoutException) else "the connection was lost in the middle"
