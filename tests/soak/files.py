"""DICOM files with some of their bytes changed, and what intake and conversion make of them."""

from __future__ import annotations

import random
import sqlite3
import struct
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from model.volume import Volume
from service.admission import examine
from service.errors import Rejected
from service.headers import Unreadable, read_file
from service.intake.handover import Source
from tests.service.house import House
from worker.convert import read_series
from worker.phantom import write_series

SEED = 20260711
SYNTAXES = (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
    RLELossless,
    JPEG2000Lossless,
    JPEGLSLossless,
)
_WRITTEN = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian)
CHANGED = 2  # which file of a base series is mutated
VRS = (b"SQ", b"UN", b"OB", b"OW", b"DS", b"IS", b"US", b"FD", b"PN", b"UI", b"CS", b"AT", b"UT", b"ZZ", b"\x00\x00")


@cache
def bases() -> tuple[tuple[bytes, ...], ...]:
    """A small series in every syntax, and one Enhanced object: the files' bytes."""
    volume = Volume(np.random.default_rng(5).integers(0, 3000, (37, 34, 5)).astype(np.uint16), np.diag([4.0, 4.0, 5.0, 1.0]))
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for number, syntax in enumerate(SYNTAXES):
            written = syntax if syntax in _WRITTEN else ExplicitVRLittleEndian
            files = write_series(volume, Path(folder) / str(number), uid_seed=f"mutation {number}", transfer_syntax=written)
            for path in files if syntax != written else ():
                _encode(path, syntax)
            found.append(tuple(path.read_bytes() for path in files))
        (path,) = write_series(volume, Path(folder) / "enhanced", uid_seed="mutation enhanced", enhanced=True)
        found.append((path.read_bytes(),))
    return tuple(found)


def _encode(path: Path, syntax: UID) -> None:
    dataset = pydicom.dcmread(path)
    if syntax == DeflatedExplicitVRLittleEndian:
        dataset.file_meta.TransferSyntaxUID = syntax
    else:
        dataset.compress(syntax, generate_instance_uid=False)
    dataset.save_as(path)


@cache
def places(content: bytes) -> tuple[int, ...]:
    """Where elements begin in a file (as far as they can be told: a deflated one has none)."""
    dataset = pydicom.dcmread(BytesIO(content))
    order = "<" if dataset.is_little_endian else ">"
    tags = [struct.pack(order + "HH", tag.group, tag.element) for tag in _tags(dataset)]
    found = (content.find(tag, 132) for tag in tags)
    return tuple(sorted({at for at in found if at > 0}))


def _tags(dataset: Dataset) -> Iterator[pydicom.tag.BaseTag]:
    for element in dataset:
        yield element.tag
        for item in element.value if element.VR == "SQ" else ():
            yield from _tags(item)


def mutate(content: bytes, chance: random.Random) -> tuple[str, bytes]:
    """Change a file in one to three ways; gives the names of the ways and the new bytes."""
    data = bytearray(content)
    where = places(content)
    ways = [chance.choice(WAYS) for _ in range(chance.choice((1, 1, 1, 2, 3)))]
    for way in ways:
        way(data, chance, where)
        if not data:
            break
    return ways[0].__name__, bytes(data)


def _spot(data: bytearray, chance: random.Random, where: tuple[int, ...]) -> int:
    """An element's head three times out of four, else anywhere, the beginning more often than the pixels."""
    if where and chance.random() < 0.75:
        return min(chance.choice(where), len(data) - 1)
    return chance.randrange(min(len(data), chance.choice((200, 2000, len(data)))))


def flip_bits(data: bytearray, chance: random.Random, where: tuple[int, ...]) -> None:
    for _ in range(chance.randint(1, 8)):
        at = min(_spot(data, chance, where) + chance.randrange(12), len(data) - 1)
        data[at] ^= 1 << chance.randrange(8)


def truncate(data: bytearray, chance: random.Random, where: tuple[int, ...]) -> None:
    del data[_spot(data, chance, where) + chance.randrange(16) :]


def change_length(data: bytearray, chance: random.Random, where: tuple[int, ...]) -> None:
    at = _spot(data, chance, where) + chance.choice((4, 6, 8))
    data[at : at + 4] = struct.pack(
        "<I", chance.choice((0, 1, 3, 7, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFE, 0x7FFFFFFF, chance.getrandbits(32), len(data)))
    )


def swap_tags(data: bytearray, chance: random.Random, where: tuple[int, ...]) -> None:
    one, other = _spot(data, chance, where), _spot(data, chance, where)
    data[one : one + 4], data[other : other + 4] = data[other : other + 4], data[one : one + 4]


def change_vr(data: bytearray, chance: random.Random, where: tuple[int, ...]) -> None:
    at = _spot(data, chance, where) + 4
    data[at : at + 2] = chance.choice(VRS)


def insert_garbage(data: bytearray, chance: random.Random, where: tuple[int, ...]) -> None:
    at = _spot(data, chance, where)
    data[at:at] = chance.randbytes(chance.choice((1, 2, 8, 64, 700)))


def drop_bytes(data: bytearray, chance: random.Random, where: tuple[int, ...]) -> None:
    at = _spot(data, chance, where)
    del data[at : at + chance.choice((1, 2, 4, 8, 50))]


def overwrite_value(data: bytearray, chance: random.Random, where: tuple[int, ...]) -> None:
    at = _spot(data, chance, where) + 8
    new = chance.choice(
        (b"nan", b"1e999", b"-1", b"\\\\\\", b"\xff" * 8, b"\x00" * 8, b"0", b"99999999999", b"\x1b$B", chance.randbytes(6))
    )
    data[at : at + len(new)] = new


def nest_sequences(data: bytearray, chance: random.Random, where: tuple[int, ...]) -> None:
    at = _spot(data, chance, where)
    data[at:at] = (b"\x08\x00\x40\x11SQ\x00\x00\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff") * chance.choice((1, 5, 400))


Way = Callable[[bytearray, random.Random, tuple[int, ...]], None]
WAYS: tuple[Way, ...] = (
    flip_bits,
    truncate,
    change_length,
    swap_tags,
    change_vr,
    insert_garbage,
    drop_bytes,
    overwrite_value,
    nest_sequences,
)


def mutated(count: int, seed: int = SEED) -> Iterator[tuple[int, str, bytes]]:
    """`count` changed files, the same for the same seed: which base, how it was changed, its bytes."""
    chance = random.Random(seed)
    for number in range(count):
        base = number % len(bases())
        files = bases()[base]
        yield base, *mutate(files[min(CHANGED, len(files) - 1)], chance)


def data_set(content: bytes) -> bytes:
    """What of a file the intake keeps: everything behind the meta information, wherever it says that ends."""
    stream = BytesIO(content)
    _, start = read_file(stream)
    return content[start:]


def take(house: House, content: bytes) -> str:
    """
    Give a file to the intake.

    Returns
    -------
    "refused" or the receipt's outcome

    Raises
    ------
    AssertionError
        A success for what is not on disk byte for byte and indexed, or a refusal that left something. Any other exception is a crash.
    """
    before = sum(1 for _ in house.store.every_instance())
    try:
        receipt = house.intake.receive(content, Source("mutations", "SOAK"))
    except Unreadable as error:
        assert str(error)
        assert "\n" not in str(error)
        assert sum(1 for _ in house.store.every_instance()) == before, "a refusal left a file"
        return "refused"
    if receipt.outcome != "discarded":
        assert_kept(house, receipt.sop_instance_uid, data_set(content))
    decision = examine([read_file(BytesIO(content))[0]], house.settings, final=True)
    assert decision.reason
    return receipt.outcome


def assert_kept(house: House, sop_instance_uid: str, encoded: bytes) -> None:
    """The data set is in a file that the index names under this UID."""
    with sqlite3.connect(house.settings.data_dir / "leukoscope.sqlite") as book:
        rows = book.execute("SELECT path FROM instances WHERE sop_instance_uid = ?", (sop_instance_uid,)).fetchall()
    book.close()
    files = [house.store.path_of(path).read_bytes() for (path,) in rows if path]
    assert any(file.endswith(encoded) and file[144 + int.from_bytes(file[140:144], "little") :] == encoded for file in files), (
        "a false success"
    )


def convert(folder: Path, base: int, content: bytes) -> str:
    """
    Convert a series of which one file is changed.

    Returns
    -------
    "converted" or "rejected"

    Raises
    ------
    Exception
        Anything but Rejected is a crash.
    """
    files = bases()[base]
    paths = []
    for number, original in enumerate(files):
        path = folder / f"{number}.dcm"
        path.write_bytes(content if number == min(CHANGED, len(files) - 1) else original)
        paths.append(path)
    try:
        series = read_series(paths)
    except Rejected as error:
        assert error.reason
        return "rejected"
    assert len(series.frames) == series.volume.shape[2]
    assert np.isfinite(series.volume.data).all()
    return "converted"


def convert_many(count: int, seed: int, first: int, last: int) -> Counter[str]:
    """Convert the changed files from `first` to `last` of the sequence; runs in a process of its own, which a decoder may take along."""
    warnings.simplefilter("ignore")
    outcomes: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        for number, (base, way, content) in enumerate(mutated(count, seed)):
            if first <= number < last:
                try:
                    outcomes[convert(Path(folder), base, content)] += 1
                except Exception as error:
                    outcomes[f"CRASH {number} {way} in base {base}: {type(error).__name__}: {error}"] += 1
    return outcomes
