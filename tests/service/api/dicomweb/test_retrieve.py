"""WADO-RS: the bytes that came in and went out, metadata, frames and bulk data; and what is not accepted as it is stored."""

from __future__ import annotations

import io
import re
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import get_frame
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless

from service.api.dicomweb.attributes import tag_of
from tests.service.api.dicomweb.conftest import FLAIR, MASK, ODD, PDF_BYTES, RESULTS, RLE, STUDY, Archive

ANY = {"Accept": 'multipart/related; type="application/dicom"; transfer-syntax=*'}


def parts_of(answer: Any) -> list[tuple[dict[str, str], bytes]]:
    """Take a multipart body apart, by its boundary and the lengths its parts declare where they do."""
    boundary = re.search(r"boundary=([0-9a-f]{32})$", answer.headers["content-type"])
    assert boundary is not None
    pieces = answer.content.split(b"--" + boundary[1].encode())
    assert (pieces[0], pieces[-1]) == (b"", b"--\r\n")
    found = []
    for piece in pieces[1:-1]:
        head, _, body = piece.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head.decode().split("\r\n"))}
        assert int(headers.get("content-length", len(body) - 2)) == len(body) - 2
        found.append((headers, body[:-2]))
    return found


def data_set(file: bytes) -> bytes:
    """A file without preamble and file meta information: what the service keeps as it came."""
    return file[132 + 12 + int.from_bytes(file[140:144], "little") :]


def test_a_study_comes_back_with_the_bytes_that_were_sent_and_made(archive: Archive) -> None:
    answer = archive.host.client.get(f"/dicomweb/studies/{STUDY[FLAIR]}", headers=ANY)
    assert answer.status_code == 200
    assert int(answer.headers["content-length"]) == len(answer.content)
    parts = parts_of(answer)
    assert [data_set(body) for _, body in parts[:6]] == [data_set(file) for file in archive.sent[FLAIR]]
    assert [body for _, body in parts[6:]] == list(archive.results.values())
    assert {headers["content-type"] for headers, _ in parts} == {f"application/dicom; transfer-syntax={ExplicitVRLittleEndian}"}


def test_the_client_retrieves_study_series_and_instance(archive: Archive) -> None:
    assert len(archive.client.retrieve_study(STUDY[FLAIR])) == 8
    series = archive.client.retrieve_series(STUDY[FLAIR], FLAIR)
    assert [one.SOPInstanceUID for one in series] == [f"{FLAIR}.{number}" for number in range(1, 7)]
    one = archive.client.retrieve_instance(STUDY[RLE], RLE, f"{RLE}.2")
    assert one.PixelData == dcmread(io.BytesIO(archive.sent[RLE][1])).PixelData
    assert next(iter(archive.client.iter_series(STUDY[FLAIR], f"{RESULTS}.0"))).Modality == "SEG"


def test_one_instance_comes_alone_where_that_is_accepted(archive: Archive) -> None:
    answer = archive.host.client.get(archive.instance_url(f"{FLAIR}"), headers={"Accept": "application/dicom"})
    assert answer.headers["content-type"] == f"application/dicom; transfer-syntax={ExplicitVRLittleEndian}"
    assert data_set(answer.content) == data_set(archive.sent[FLAIR][0])
    assert archive.host.client.get(f"/dicomweb/studies/{STUDY[FLAIR]}", headers={"Accept": "application/dicom"}).status_code == 406


@pytest.mark.parametrize(
    ("accept", "status"),
    [
        ("*/*", 200),
        ('multipart/related; type="application/dicom"; transfer-syntax=*', 200),
        (f'multipart/related; type="application/dicom"; transfer-syntax={RLELossless}', 200),
        (f"multipart/related;type=application/dicom;transfer-syntax={RLELossless};q=0.5", 200),
        (f'image/png, multipart/related; type="application/dicom"; transfer-syntax={RLELossless}', 200),
        ('multipart/related; type="application/dicom"', 406),
        (f'multipart/related; type="application/dicom"; transfer-syntax={ImplicitVRLittleEndian}', 406),
        (f'multipart/related; type="application/dicom"; transfer-syntax={RLELossless};q=0', 406),
        ('multipart/related; type="application/dicom+xml"', 406),
        ("image/png", 406),
        (";;;", 400),
        ("text/html;q=high", 400),
    ],
)
def test_nothing_is_transcoded(archive: Archive, accept: str, status: int) -> None:
    answer = archive.host.client.get(archive.instance_url(RLE), headers={"Accept": accept})
    assert answer.status_code == status, answer.text[:300]
    if status == 406:
        assert f'type="application/dicom"; transfer-syntax={RLELossless}' in answer.json()["detail"]


def test_what_is_accepted_of_a_series_comes_as_partial_content(archive: Archive) -> None:
    accept = f'multipart/related; type="application/dicom"; transfer-syntax={ImplicitVRLittleEndian}'
    answer = archive.host.client.get(f"/dicomweb/studies/{STUDY[ODD]}/series/{ODD}", headers={"Accept": accept})
    assert answer.status_code == 206
    assert [dcmread(io.BytesIO(body)).SOPInstanceUID for _, body in parts_of(answer)] == [f"{ODD}.1"]


@pytest.mark.parametrize(
    ("place", "status"),
    [
        ("/studies/1.9", 404),
        ("/studies/1.9/metadata", 404),
        (f"/studies/{STUDY[FLAIR]}/series/1.9", 404),
        (f"/studies/{STUDY[FLAIR]}/series/{RLE}", 404),
        (f"/studies/{STUDY[FLAIR]}/series/{FLAIR}/instances/1.9", 404),
        (f"/studies/{STUDY[FLAIR]}/series/{FLAIR}/instances/{FLAIR}.1/frames/2", 404),
        (f"/studies/{STUDY[FLAIR]}/series/{RESULTS}.3/instances/{RESULTS}.3.1/frames/1", 404),
        (f"/studies/{STUDY[FLAIR]}/series/{FLAIR}/instances/{FLAIR}.1/bulkdata/00100010", 404),
        (f"/studies/{STUDY[FLAIR]}/series/{FLAIR}/instances/{FLAIR}.1/bulkdata/00081140/1/00081155", 404),
        (f"/studies/{STUDY[FLAIR]}/series/{FLAIR}/instances/{FLAIR}.1/frames/0", 400),
        (f"/studies/{STUDY[FLAIR]}/series/{FLAIR}/instances/{FLAIR}.1/frames/1,,2", 400),
        (f"/studies/{STUDY[FLAIR]}/series/{FLAIR}/instances/{FLAIR}.1/bulkdata/passwd", 400),
        ("/studies/..%2f..%2fetc", 404),
        ("/studies/DOE", 400),
        ("/studies/" + "1" * 65, 400),
    ],
)
def test_what_is_not_there_is_a_problem(archive: Archive, place: str, status: int) -> None:
    answer = archive.host.client.get("/dicomweb" + place)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"


def test_metadata_are_the_header_with_addresses_for_what_is_large(archive: Archive) -> None:
    found = archive.client.retrieve_study_metadata(STUDY[FLAIR])
    assert len(found) == 8
    sent = dcmread(io.BytesIO(archive.sent[FLAIR][0]))
    first = Dataset.from_json({tag: value for tag, value in found[0].items() if "BulkDataURI" not in value})
    for element in sent:
        if element.keyword not in {"PixelData", "SpecificCharacterSet"}:
            assert first[element.tag].value == element.value, element.keyword
    assert first.SpecificCharacterSet == "ISO_IR 192"
    assert found[0]["7FE00010"]["vr"] == "OW"
    assert "Value" not in found[0]["7FE00010"]
    assert found[7][tag_of("EncapsulatedDocument")]["vr"] == "OB"


def test_metadata_of_every_encoding(archive: Archive) -> None:
    found = archive.client.retrieve_series_metadata(STUDY[ODD], ODD)
    assert [one[tag_of("Rows")]["Value"] for one in found] == [[16]] * 3
    assert [one[tag_of("AvailableTransferSyntaxUID")]["Value"][0] for one in found] == [
        ImplicitVRLittleEndian,
        ExplicitVRBigEndian,
        DeflatedExplicitVRLittleEndian,
    ]
    assert [one[tag_of("ImageOrientationPatient")]["Value"] for one in found] == [[1, 0, 0, 0, 1, 0]] * 3


def test_the_addresses_in_the_metadata_give_the_bulk_data(archive: Archive) -> None:
    client = archive.host.client
    metadata = client.get(f"/dicomweb/studies/{STUDY[FLAIR]}/metadata").json()
    ((headers, document),) = parts_of(client.get(metadata[7][tag_of("EncapsulatedDocument")]["BulkDataURI"]))
    assert document.removesuffix(b"\0") == PDF_BYTES
    assert headers["content-type"].startswith("application/octet-stream")
    pixels = client.get(metadata[0]["7FE00010"]["BulkDataURI"], headers={"Accept": "application/octet-stream"})
    assert pixels.content == dcmread(io.BytesIO(archive.sent[FLAIR][0])).PixelData
    (frame,) = archive.client.retrieve_bulkdata(archive.host.server.url + archive.instance_url(RLE, 2) + "/bulkdata/7FE00010")
    assert frame == get_frame(dcmread(io.BytesIO(archive.sent[RLE][1])).PixelData, 0, number_of_frames=1)


def test_frames_as_they_are_stored(archive: Archive) -> None:
    (frame,) = archive.client.retrieve_instance_frames(STUDY[FLAIR], FLAIR, f"{FLAIR}.3", [1])
    assert frame == dcmread(io.BytesIO(archive.sent[FLAIR][2])).PixelData
    (frame,) = archive.client.retrieve_instance_frames(STUDY[RLE], RLE, f"{RLE}.1", [1])
    assert frame == get_frame(dcmread(io.BytesIO(archive.sent[RLE][0])).PixelData, 0, number_of_frames=1)


def test_frames_of_single_bits_begin_at_a_byte(archive: Archive) -> None:
    found = archive.client.retrieve_instance_frames(STUDY[FLAIR], f"{RESULTS}.0", f"{RESULTS}.0.1", [4, 1, 2])
    unpacked = [np.unpackbits(np.frombuffer(frame, np.uint8), bitorder="little")[:35].reshape(5, 7) for frame in found]
    assert np.array_equal(unpacked, MASK[[3, 0, 1]])


@pytest.mark.parametrize(
    ("number", "accept", "kind"),
    [
        (1, 'multipart/related; type="application/octet-stream"', ExplicitVRLittleEndian),
        (2, 'multipart/related; type="application/octet-stream"', None),
        (2, f'multipart/related; type="application/octet-stream"; transfer-syntax={ExplicitVRBigEndian}', ExplicitVRBigEndian),
        (3, 'multipart/related; type="application/octet-stream"', ExplicitVRLittleEndian),
    ],
)
def test_frames_of_every_encoding(archive: Archive, number: int, accept: str, kind: str | None) -> None:
    answer = archive.host.client.get(archive.instance_url(ODD, number) + "/frames/1", headers={"Accept": accept})
    if kind is None:
        assert answer.status_code == 406
        return
    ((headers, frame),) = parts_of(answer)
    assert headers["content-type"] == f"application/octet-stream; transfer-syntax={kind}"
    assert frame == dcmread(io.BytesIO(archive.sent[ODD][number - 1])).PixelData


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ('multipart/related; type="image/dicom-rle"', "image/dicom-rle"),
        ('multipart/related; type="application/octet-stream"; transfer-syntax=*', "application/octet-stream"),
        ("*/*", "image/dicom-rle"),
        ("image/dicom-rle", None),
    ],
)
def test_a_compressed_frame_is_labelled_as_it_was_asked_for(archive: Archive, accept: str, kind: str | None) -> None:
    answer = archive.host.client.get(archive.instance_url(RLE) + "/frames/1", headers={"Accept": accept})
    label = answer.headers["content-type"] if kind is None else parts_of(answer)[0][0]["content-type"]
    assert label == f"{kind or 'image/dicom-rle'}; transfer-syntax={RLELossless}"


def test_head_gives_the_headers_only(archive: Archive) -> None:
    answer = archive.host.client.head(f"/dicomweb/studies/{STUDY[FLAIR]}")
    assert (answer.status_code, answer.content) == (200, b"")
    assert int(answer.headers["content-length"]) > 6 * 4608
