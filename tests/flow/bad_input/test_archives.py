"""Zips that want out of their folder, or are too good to be true: refused as a whole by a real service, and nothing of them is left."""

from __future__ import annotations

import io
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.flow.bad_input.conftest import House
from tests.flow.bad_input.rows import Bench


def packed(files: list[Path], name: Callable[[Path], str] = lambda path: path.name) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in files:
            archive.writestr(name(path), path.read_bytes())
    return buffer.getvalue()


def with_link(files: list[Path]) -> bytes:
    buffer = io.BytesIO(packed(files))
    with zipfile.ZipFile(buffer, "a") as archive:
        link = zipfile.ZipInfo("link")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    return buffer.getvalue()


def bomb(_files: list[Path]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("IM0001", "w") as entry:
            for _ in range(96):
                entry.write(bytes(1 << 20))
    return buffer.getvalue()


def lying_bomb(files: list[Path]) -> bytes:
    """The directory promises a kilobyte; what is packed is a hundred times that."""
    content = packed([]) if not files else bomb(files)
    whole = bytearray(content)
    for signature, at in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        place = whole.index(signature) + at
        whole[place : place + 4] = (1024).to_bytes(4, "little")
    return bytes(whole)


ARCHIVES: dict[str, tuple[Callable[[list[Path]], bytes], str, str]] = {
    "a path out of it": (lambda files: packed(files, lambda path: f"../{path.name}"), "unsafe-archive", "names a place outside"),
    "a path deep inside and out": (
        lambda files: packed(files, lambda path: f"a/../../{path.name}"),
        "unsafe-archive",
        "names a place outside",
    ),
    "a path from the root": (lambda files: packed(files, lambda path: f"/etc/{path.name}"), "unsafe-archive", "names a place outside"),
    "a path of Windows": (lambda files: packed(files, lambda path: f"..\\{path.name}"), "unsafe-archive", "names a place outside"),
    "a link": (with_link, "unsafe-archive", "is a link"),
    "a bomb": (bomb, "unsafe-archive", "more than 200 times its size"),
    "a bomb that lies about its size": (lying_bomb, "nothing-usable", "None of its files"),
    "a cut directory": (lambda files: packed(files)[:-40], "unsafe-archive", "damaged"),
    "nothing in it": (lambda files: packed([]), "nothing-usable", "no files"),
}


@pytest.mark.parametrize("kind", ARCHIVES)
def test_a_zip_that_is_not_to_be_trusted_is_refused_whole(house: House, tmp_path: Path, kind: str) -> None:
    make, problem, detail = ARCHIVES[kind]
    files = Bench(house.volume, tmp_path / "in", f"zip/{kind}").write(order=range(4))
    before = {path for path in house.running.data.rglob("*") if path.is_file() and "instances" in path.parts}
    cases = len(house.running.cases(limit=500))
    answer = house.running.client.post("/cases", files={"files": ("all.zip", make(files), "application/zip")})
    body = answer.json()
    assert (answer.status_code, body["type"]) == (422, f"urn:leukoscope:problem:{problem}")
    assert detail in body["detail"]
    assert {path for path in house.running.data.rglob("*") if path.is_file() and "instances" in path.parts} == before
    assert not house.half_taken()
    assert len(house.running.cases(limit=500)) == cases


def test_a_zip_inside_a_zip_is_named_and_the_rest_is_taken(house: House, tmp_path: Path) -> None:
    files = Bench(house.volume, tmp_path / "in", "zip/nested").write()
    (tmp_path / "in" / "more.zip").write_bytes(packed(files))
    content = packed([*files, tmp_path / "in" / "more.zip"])
    answer = house.running.client.post("/cases", files={"files": ("all.zip", content, "application/zip")})
    assert answer.status_code == 202
    assert [(one["name"], one["detail"]) for one in answer.json()["problems"]] == [
        ("more.zip", "a zip is taken only alone, and not inside another")
    ]
    assert house.wait(answer.json()["items"][0]["series_uid"])["state"] == "done"
