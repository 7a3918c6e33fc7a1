"""Zips that are uploaded: what is damaged, unsafe or too large inside is named or refused, and nothing is inflated for it."""

from __future__ import annotations

import io
import stat
import zipfile
import zlib
from collections.abc import Callable

from tests.service.api.conftest import Host, as_zip, make_series
from tests.service.api.test_submission import nothing_left, post_zip


def test_a_link_and_a_locked_entry_in_a_zip_are_refused(host: Host) -> None:
    link = zipfile.ZipInfo("link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(link, "/etc/passwd")
    assert post_zip(host, buffer.getvalue()).json()["type"].endswith("unsafe-archive")
    locked = bytearray(as_zip({"a": b"secret"}))
    locked[locked.index(b"PK\x01\x02") + 8] |= 1
    assert post_zip(host, bytes(locked)).json()["type"].endswith("unsafe-archive")
    assert nothing_left(host)


def test_a_damaged_entry_is_named_and_the_rest_is_taken(host: Host) -> None:
    series = make_series()
    data = bytearray(as_zip({str(number): one for number, one in enumerate(series)}, zipfile.ZIP_STORED))
    data[data.index(series[3]) + 2000] ^= 0xFF
    answer = post_zip(host, bytes(data))
    assert answer.status_code == 202
    assert [problem["file"] for problem in answer.json()["problems"]] == [4]
    assert answer.json()["items"][0]["instances"] == 19


def test_a_zip_bomb_is_refused_without_being_inflated(make_host: Callable[..., Host]) -> None:
    host = make_host(maximum_upload_bytes=200 << 20)
    zeros = bytes(10 << 20)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for number in range(8):
            archive.writestr(str(number), zeros)
    answer = post_zip(host, buffer.getvalue())
    assert (answer.status_code, answer.json()["type"]) == (422, "urn:leukoscope:problem:unsafe-archive")
    with zipfile.ZipFile(buffer, "a", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for number in range(8, 21):
            archive.writestr(str(number), zeros)
    answer = post_zip(host, buffer.getvalue())
    assert (answer.status_code, answer.json()["type"]) == (413, "urn:leukoscope:problem:upload-too-large")
    assert nothing_left(host)


def test_a_zip_that_lies_about_its_sizes_gives_no_more_than_it_says(host: Host) -> None:
    data = bytearray(as_zip({"a": bytes(5 << 20)}))
    central = data.index(b"PK\x01\x02")
    data[central + 24 : central + 28] = (100).to_bytes(4, "little")
    data[central + 16 : central + 20] = zlib.crc32(bytes(100)).to_bytes(4, "little")
    assert post_zip(host, bytes(data)).status_code == 422
    assert nothing_left(host)


def test_a_zip_with_a_huge_directory_is_refused_before_it_is_read(host: Host) -> None:
    # 120,000 entries of 46 bytes + name: zipfile alone would make an object of each.
    entry = as_zip({"a": b""})
    start, end = entry.index(b"PK\x01\x02"), entry.index(b"PK\x05\x06")
    directory = entry[start:end] * 120_000
    tail = bytearray(entry[end:])
    tail[12:16] = len(directory).to_bytes(4, "little")
    assert post_zip(host, entry[:start] + directory + bytes(tail)).json()["type"].endswith("unsafe-archive")
