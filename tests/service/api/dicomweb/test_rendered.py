"""WADO-RS of pictures over HTTP: what is asked for, what comes, and a child that hangs or dies."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.uid import SecondaryCaptureImageStorage

from service.api.rendering import Renderer
from service.errors import Rejected
from tests.service.api.conftest import Host, make_series
from tests.service.api.dicomweb.conftest import FLAIR, MASK, RESULTS, RLE, STUDY, Archive, finish, result


def picture(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)))


def test_an_instance_is_shown_by_either_kind(archive: Archive) -> None:
    address = archive.instance_url(FLAIR) + "/rendered"
    values = dcmread(io.BytesIO(archive.sent[FLAIR][0])).pixel_array.astype(float)
    for header, kind in (
        ("image/png", "image/png"),
        ("image/jpeg", "image/jpeg"),
        ("*/*", "image/jpeg"),
        ("image/*;q=0.5, image/png", "image/png"),
    ):
        answer = archive.host.client.get(address, headers={"Accept": header})
        assert (answer.status_code, answer.headers["content-type"]) == (200, kind)
        assert picture(answer.content).shape == values.shape
    png = picture(archive.host.client.get(address, params={"accept": "image/png"}).content).astype(float)
    assert np.abs(png - values * 255 / values.max()).max() <= 1
    small = archive.host.client.get(address, params={"viewport": "20,30", "quality": "50", "window": "500,200,linear"})
    assert picture(small.content).shape == (20, 20)
    assert archive.client.retrieve_instance_rendered(f"{FLAIR}.900", FLAIR, f"{FLAIR}.2", media_types=("image/png",))[:4] == b"\x89PNG"


def test_a_frame_of_a_result_and_a_compressed_instance_are_shown(archive: Archive) -> None:
    base = archive.instance_url(f"{FLAIR}").split("/series/")[0] + f"/series/{RESULTS}.0/instances/{RESULTS}.0.1"
    for number in range(1, 5):
        answer = archive.host.client.get(f"{base}/frames/{number}/rendered", headers={"Accept": "image/png"})
        assert np.array_equal(picture(answer.content), MASK[number - 1] * 255)
    assert archive.host.client.get(archive.instance_url(RLE) + "/rendered").status_code == 200


def test_a_result_larger_than_any_scan_is_shown(make_host: Callable[..., Host]) -> None:
    """As the preview is: 1,303 rows of 1,198 columns."""
    host = make_host(minimum_slices=3, maximum_rows=64, maximum_columns=64)
    case_id = host.send(make_series(FLAIR, 6, StudyDate="20261101", SliceThickness=25))
    pixels = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "PixelRepresentation": 0, "SamplesPerPixel": 3, "PlanarConfiguration": 0}
    shape = {"Rows": 1303, "Columns": 1198, "PhotometricInterpretation": "RGB", "PixelData": bytes([9, 8, 7]) * (1303 * 1198)}
    finish(host, case_id, {"preview.dcm": result(SecondaryCaptureImageStorage, 5, Modality="OT", **pixels, **shape)})
    base = f"/dicomweb/studies/{STUDY[FLAIR]}/series/{RESULTS}.5/instances/{RESULTS}.5.1"
    answer = host.client.get(f"{base}/rendered", headers={"Accept": "image/png"})
    assert answer.status_code == 200, answer.text
    assert picture(answer.content)[1302, 1197].tolist() == [9, 8, 7]


@pytest.mark.parametrize(
    ("place", "query", "header", "status", "detail"),
    [
        ("/rendered", "", "application/dicom", 406, "Rendered are image/jpeg and image/png."),
        ("/rendered", "accept=image/gif", "*/*", 406, "Rendered are image/jpeg and image/png."),
        ("/rendered", "viewport=0,10", "*/*", 400, "viewport: 2 numbers from 1 to 4096"),
        ("/rendered", "viewport=10,10,0,0,5,5", "*/*", 400, "a part of the picture is not cut out"),
        ("/rendered", "quality=101", "*/*", 400, "quality: 1 numbers from 1 to 100"),
        ("/rendered", "window=10,nan,linear", "*/*", 400, "window: 2 numbers"),
        ("/rendered", "window=10,20", "*/*", 400, "window: centre, width and one of linear, linear-exact, sigmoid"),
        ("/rendered", "window=10,0,sigmoid", "*/*", 400, "window: the width is too small."),
        ("/rendered", "annotation=patient", "*/*", 400, "Of the parameters of rendering"),
        ("/frames/2/rendered", "", "*/*", 406, "No picture: the object has 1 frames."),
        ("/frames/1,2/rendered", "", "*/*", 400, "One frame is rendered at a time"),
        ("9/rendered", "", "*/*", 404, "No object of this address is kept here."),
    ],
)
def test_what_is_not_done_is_told(archive: Archive, place: str, query: str, header: str, status: int, detail: str) -> None:
    answer = archive.host.client.get(f"{archive.instance_url(FLAIR)}{place}?{query}", headers={"Accept": header})
    assert answer.status_code == status, answer.text
    assert detail in answer.json()["detail"]


def test_objects_without_a_picture_or_of_many_are_406(archive: Archive) -> None:
    base = archive.instance_url(FLAIR).split("/series/")[0]
    document = archive.host.client.get(f"{base}/series/{RESULTS}.3/instances/{RESULTS}.3.1/rendered")
    assert (document.status_code, document.json()["detail"]) == (406, "No picture: the object has no pixels to show.")
    several = archive.host.client.get(f"{base}/series/{RESULTS}.0/instances/{RESULTS}.0.1/rendered")
    assert several.status_code == 406
    assert "the object has 4 frames: ask for one of them" in several.json()["detail"]


def test_a_child_that_hangs_or_dies_is_replaced(archive: Archive) -> None:
    renderer = Renderer(limit_s=0.01)  # shorter than its start
    path = next((archive.host.store.root / "instances").rglob("*.dcm"))
    wish = {"path": str(path), "frame": 0, "media_type": "image/png", "most_pixels": 1 << 20}
    with pytest.raises(Rejected, match=r"could not be decoded within 0.01 s"):
        renderer.draw(**wish)
    renderer._limit_s = 20.0
    assert renderer.draw(**wish)[:4] == b"\x89PNG"
    first = renderer._process
    assert first is not None
    first.kill()
    first.wait()
    assert renderer.draw(**wish)[:4] == b"\x89PNG"
    renderer.stop()
    assert renderer._process is not None
    assert renderer._process.poll() is not None
